"""The emulation of CUDA itself: right kernels run right in any order, and faults are found."""

import ctypes

import emulated
import pytest

ORDERS = range(6)  # in which threads and blocks take turns: ascending, descending, random
FAULTS = [
    "none",
    "no barrier",
    "partial barrier",
    "past the end",
    "partial shuffle",
    "no wait",
    "no wait at all",
    "wrong fragment",
    "wrong address",
    "not aligned",
    "outside",
    "not transposed",
    "refilled too early",
    "not together",
    "too many blocks",
]
KERNELS = {
    "reverse": ["no barrier", "partial barrier", "past the end", "partial shuffle"],
    "multiply_bfloat16": [
        *("no wait", "no wait at all", "no barrier", "wrong fragment", "wrong address", "not aligned"),
        *("outside", "not transposed"),
    ],
    "multiply_half": ["no wait", "wrong fragment", "not transposed"],
    "copy_in_turns": ["refilled too early"],
    "pass_between_blocks": ["no barrier", "not together", "too many blocks"],
    "convert": [],
}


@pytest.fixture(scope="module")
def run():
    library = ctypes.CDLL(str(emulated.library([emulated.SELF_TEST])))

    def run_kernel(kernel, fault, order):
        library.tmt_emulation_set_order(order)
        return getattr(library, kernel)(FAULTS.index(fault))

    return run_kernel


@pytest.mark.parametrize("kernel", KERNELS)
def test_right_kernel(run, kernel):
    assert [run(kernel, "none", order) for order in ORDERS] == [0] * len(ORDERS)


@pytest.mark.parametrize(("kernel", "fault"), [(kernel, fault) for kernel in KERNELS for fault in KERNELS[kernel]])
def test_fault_is_found(run, kernel, fault):
    """In one of the orders: a race need not show in every one."""
    assert any(run(kernel, fault, order) for order in ORDERS)
