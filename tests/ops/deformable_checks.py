"""What deformable attention's CUDA kernels must do, as kernel_checks.py says it of the others."""

import math

import torch
from deformable_cases import NAMES, inputs, oracle, upstream
from helpers import assert_close
from kernel_checks import LIMITS

# Channels read 16 bytes at a time and one at a time, in one round of a pair's lanes and several; maps of one pixel.
CASES = [
    dict(dim=32, queries=5, heads=3),
    dict(dim=8, shapes=((4, 6), (1, 1), (8, 3))),
    dict(dim=17, points=3),
    dict(dim=1, heads=1, shapes=((1, 1),)),
    dict(dim=100, heads=1, queries=3),
    dict(dim=136, heads=1, queries=3, shapes=((3, 4),)),
]


def both_passes(ops, device, data, grad_output, deterministic=False):
    """[output, gradients of value, locations and weights]."""
    value, locations, weights = (x.to(device) for x in (data.value, data.locations, data.weights))
    shapes = [size for pair in data.shapes for size in pair]
    output = ops.deformable_attention(value, shapes, locations, weights)
    grad_output = grad_output.to(output)
    return [
        output,
        *ops.deformable_attention_backward(grad_output, value, shapes, locations, weights, deterministic),
    ]


def check(ops, device, case, dtype=torch.float32, deterministic=False):
    data = inputs(**case, dtype=dtype)
    found = both_passes(ops, device, data, upstream(data), deterministic)
    dtypes = (dtype, dtype, torch.float32, torch.float32)
    for name, got, exact, kind in zip(NAMES, found, oracle(data), dtypes, strict=True):
        assert got.dtype == kind
        assert_close(got.cpu(), exact, LIMITS[dtype], f"{name}, {dtype}")


def check_strides(ops, device):
    """Values by head, apart and off an alignment, and a gradient that is: the same as of contiguous ones."""
    data = inputs(dim=8, dtype=torch.float32)
    grad_output = upstream(data)
    expected = both_passes(ops, device, data, grad_output, deterministic=True)
    by_head = data.value.transpose(1, 2).contiguous().transpose(1, 2)
    apart = torch.stack([data.value, torch.full_like(data.value, torch.nan)], -1)[..., 0]
    for value in (by_head, apart, _off(data.value)):
        assert torch.equal(value, data.value)
        given = data._replace(value=value, locations=_off(data.locations), weights=_off(data.weights))
        found = both_passes(ops, device, given, _off(grad_output), deterministic=True)
        for got, exact in zip(found, expected, strict=True):
            assert_close(got, exact.double(), 1e-6)


def _off(x):
    """Begins one element into its storage."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def check_not_finite(ops, device):
    """Outside is exactly 0 whatever the values are; NaN places make their query and head NaN, and no other."""
    data = inputs(shapes=((4, 5),), batch=1, heads=2, dim=8, queries=4, points=1, dtype=torch.float32)
    places = torch.tensor([[math.inf, 0.5], [-0.5 / 5, 0.5], [math.nan, 9.0], [0.5, 0.5]])
    locations = places[None, :, None, None, None].expand(data.locations.shape).contiguous()
    value = data.value.clone()
    value[0, 5] = math.inf  # pixel (1, 0), beside the border that query 1 touches
    data = data._replace(value=value, locations=locations)
    for deterministic in (False, True):
        found = [x.cpu() for x in both_passes(ops, device, data, upstream(data), deterministic)]
        assert not found[0][0, :2].any() and found[0][0, 2].isnan().all() and found[0][0, 3].isfinite().all()
        assert not found[2][0, :2].any() and found[3][0, 2].isnan().all() and not found[3][0, :2].any()
        assert found[1].isfinite().all()
    grad_output = upstream(data)
    grad_output[0, 3, 0] = math.inf
    assert both_passes(ops, device, data, grad_output, deterministic=True)[1].isnan().all()


def check_empty(ops, device):
    for fields in (dict(batch=0), dict(queries=0)):
        data = inputs(**fields, dtype=torch.float32)
        for deterministic in (False, True):
            found = both_passes(ops, device, data, upstream(data), deterministic)
            assert found[0].numel() == 0 and found[1].shape == data.value.shape and not found[1].any()


def check_same_bits(ops, device, orders):
    """Deterministic gradients in every order; those of places and weights in any case. orders: calls that set one."""
    data = inputs(dim=8, shapes=((2, 2),), queries=40, dtype=torch.float32)
    results = []
    for set_order in orders:
        set_order()
        plain = both_passes(ops, device, data, upstream(data))
        results.append([*both_passes(ops, device, data, upstream(data), True), plain[0], *plain[2:]])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def check_huge_and_tiny(ops, device):
    """The whole numbers' scale fits gradients of any size."""
    for size in (1e-30, 1e-12, 1e15, 1e30):
        data = inputs(dim=8, dtype=torch.float32)
        grad_output = size * upstream(data)
        found = both_passes(ops, device, data, grad_output, deterministic=True)[1]
        assert_close(found.cpu(), oracle(data, grad_output)[1], 1e-5, f"gradient of size {size}")


def check_captured(capture, device, check):
    """check: kernel_checks.check_captured."""

    def run(value, locations, weights):
        given = first._replace(value=value, locations=locations, weights=weights)
        return both_passes(torch.ops.tmt, device, given, grad_output, deterministic=True)

    first, second = (inputs(dim=32, dtype=torch.float32, seed=seed) for seed in range(2))
    grad_output = upstream(first).to(device)
    check(capture, run, *([x.to(device) for x in (d.value, d.locations, d.weights)] for d in (first, second)))
