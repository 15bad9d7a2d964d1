"""tmt_ext.deformable_attention on the CPU against its float64 reference, and the reference against explicit loops."""

import itertools

import numpy as np
import pytest
import torch
from deformable_cases import LEVEL_CASES, NAMES, Inputs, differentiate, inputs, oracle, same_bits, upstream
from helpers import FLOOR, assert_close, assert_twice, run_at_level

import tmt_ext

LEVELS = [(9, 11), (5, 6), (3, 3), (2, 1)]
# Heads and dims with and without a remainder beside vectors; maps of one pixel, one row, one column; tiles of several
# queries and of one (levels * points > 512); a query more than a tile; queries in several splits (B * heads < 16).
CASES = {
    "one of each": dict(shapes=[(1, 1)], batch=1, heads=1, dim=1, queries=1, points=1),
    "odd": dict(shapes=[(4, 3)], batch=3, heads=3, dim=3, queries=5, points=3),
    "a row and a column": dict(shapes=[(1, 9), (7, 1)], batch=1, heads=3, dim=17, queries=6, points=2),
    "a model's": dict(shapes=LEVELS[:3], batch=2, heads=8, dim=32, queries=129, points=4),
    "four levels": dict(shapes=LEVELS, batch=1, heads=2, dim=100, queries=27, points=5),
    "more samples than a tile": dict(shapes=LEVELS[:2], batch=1, heads=2, dim=8, queries=3, points=300),
    "as many samples as a tile": dict(shapes=LEVELS[:2], batch=1, heads=1, dim=5, queries=3, points=256),
    "most samples": dict(shapes=LEVELS, batch=1, heads=1, dim=3, queries=2, points=256),
    "most channels": dict(shapes=[(2, 3)], batch=1, heads=1, dim=1024, queries=2, points=2),
    "several splits": dict(shapes=LEVELS[1:3], batch=2, heads=3, dim=8, queries=2900, points=1),
    "a split of few": dict(shapes=[(3, 4)], batch=1, heads=1, dim=2, queries=4099, points=2),
}
each = pytest.mark.parametrize("case", CASES)


def assert_matches(found, expected, limit):
    for name, got, right in zip(NAMES, found, expected, strict=True):
        assert_close(got, right, limit, name)


# ---- the reference itself -------------------------------------------------------------------------------------------


def loops(value, shapes, locations, weights):
    """The definition: every pixel of a map counts by its nearness to the sample, along x times along y."""
    batch, _, heads, dim = value.shape
    output = np.zeros((batch, locations.shape[1], heads, dim))
    first = np.cumsum([0] + [height * width for height, width in shapes])
    for b, q, h, level, p in np.ndindex(*weights.shape):
        height, width = shapes[level]
        x, y = locations[b, q, h, level, p] * [width, height] - 0.5
        for row, column in itertools.product(range(height), range(width)):
            share = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
            pixel = value[b, first[level] + row * width + column, h]
            output[b, q, h] += weights[b, q, h, level, p] * share * pixel
    return output.reshape(batch, -1, heads * dim)


@pytest.mark.parametrize("shapes", [[(1, 1)], [(1, 4), (3, 1)], [(4, 5), (2, 3), (1, 1)]])
def test_reference_equals_explicit_loops(shapes):
    data = inputs(shapes, dim=3, queries=5, points=2)
    expected = loops(*(x.numpy() if isinstance(x, torch.Tensor) else x for x in data))
    np.testing.assert_allclose(tmt_ext.reference.deformable_attention(*data).numpy(), expected, rtol=1e-12, atol=1e-14)


@each
def test_equals_the_transformers_function(case):
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    data = inputs(**CASES[case])
    expected = differentiate(multi_scale_deformable_attention, data)
    for operator in (tmt_ext.reference.deformable_attention, tmt_ext.deformable_attention):
        assert_matches(differentiate(operator, data), expected, 1e-12)


def test_one_sample_by_hand():
    # A quarter of a pixel right of the centre of (0, 1), and a quarter below: of a 2 x 3 map that counts from 0.
    value = torch.arange(6.0).view(1, 6, 1, 1)
    location = torch.tensor([1.75 / 3, 0.75 / 2]).view(1, 1, 1, 1, 1, 2)
    data = Inputs(value, [(2, 3)], location, torch.full((1, 1, 1, 1, 1), 2.0))
    output, grad_value, grad_location, grad_weight = differentiate(
        tmt_ext.deformable_attention, data, torch.ones(1, 1, 1)
    )
    sample = 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * (0.75 * 4 + 0.25 * 5)
    torch.testing.assert_close(output.item(), 2 * sample)
    torch.testing.assert_close(grad_value.flatten(), 2 * torch.tensor([0, 9, 3, 0, 3, 1]) / 16)
    torch.testing.assert_close(grad_location.flatten(), 2 * torch.tensor([3.0 * 1, 2.0 * 3]))  # size times slope
    torch.testing.assert_close(grad_weight.item(), sample)


# ---- against the oracle ---------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_oracle(case, dtype, limit):
    data = inputs(**CASES[case], dtype=dtype)
    found = differentiate(tmt_ext.deformable_attention, data)
    assert all(x.dtype == dtype and x.is_contiguous() for x in found)
    assert_matches(found, oracle(data), limit)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_within_twice_the_reference(case, dtype):
    data = inputs(**CASES[case], dtype=dtype)
    found, expected = differentiate(tmt_ext.deformable_attention, data), oracle(data)
    assert [x.dtype for x in found] == [dtype, dtype, torch.float32, torch.float32]
    with tmt_ext.plain_torch():
        plain = differentiate(tmt_ext.deformable_attention, data)
    for name, got, other, right in zip(NAMES, found, plain, expected, strict=True):
        assert_twice(got, other, right, name)
        # One rounding, where it is in half precision at all: sums are carried in float32.
        assert_close(got, right, 1e-5 if got.dtype == torch.float32 else FLOOR[dtype], name)


@pytest.mark.parametrize("dim", [1, 3, 8, 17, 31, 32, 33, 64, 100, 129])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_remainder_of_channels(dim, dtype):
    data = inputs(dim=dim, heads=3, queries=4, dtype=dtype)
    assert_matches(differentiate(tmt_ext.deformable_attention, data), oracle(data), 1e-5 + FLOOR[dtype])


@pytest.mark.parametrize(
    "sizes",
    [
        dict(shapes=[(3, 4), (2, 2)], batch=2, heads=2, dim=3, queries=3, points=2),
        dict(shapes=[(1, 1), (1, 5), (4, 1)], batch=1, heads=3, dim=1, queries=2, points=1),
        dict(shapes=[(6, 5)], batch=1, heads=1, dim=17, queries=2, points=5),
    ],
)
def test_gradcheck(sizes):
    data = inputs(**sizes)
    leaves = [x.requires_grad_() for x in (data.value, data.locations, data.weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: tmt_ext.deformable_attention(v, data.shapes, x, w), leaves)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_the_gradients_asked_for(wanted):
    data, expected = inputs(dtype=torch.float32), oracle(inputs(dtype=torch.float32))
    leaves = [data.value, data.locations, data.weights]
    for i in wanted:
        leaves[i].requires_grad_()
    tmt_ext.deformable_attention(leaves[0], data.shapes, *leaves[1:]).backward(upstream(data))
    assert [i for i in range(3) if leaves[i].grad is not None] == list(wanted)
    for i in wanted:
        assert_close(leaves[i].grad, expected[1 + i])


@pytest.mark.parametrize("shapes", [torch.tensor([(5, 7), (3, 2)]), [torch.Size((5, 7)), [3, 2]], ((5, 7), (3, 2))])
def test_forms_of_shapes(shapes):
    data = inputs(dtype=torch.float32)
    expected = tmt_ext.deformable_attention(*data)
    assert torch.equal(tmt_ext.deformable_attention(*data._replace(shapes=shapes)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_locations_and_weights_are_used_in_float32(dtype):
    data = inputs(dtype=dtype)
    narrow = data._replace(locations=data.locations.to(dtype), weights=data.weights.to(dtype))
    widened = narrow._replace(locations=narrow.locations.float(), weights=narrow.weights.float())
    found, expected = (differentiate(tmt_ext.deformable_attention, x) for x in (narrow, widened))
    assert [x.dtype for x in found] == [dtype] * 4
    assert same_bits(found, [x.to(dtype) for x in expected])
    single = differentiate(tmt_ext.deformable_attention, widened._replace(value=data.value.float()))
    assert_close(single[0], oracle(widened)[0])  # locations are no coarser for their dtype than they were given


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float64_locations_are_used_in_float32(dtype):
    data = inputs(dtype=dtype)
    found = differentiate(tmt_ext.deformable_attention, data._replace(locations=data.locations.double()))
    expected = differentiate(tmt_ext.deformable_attention, data)
    assert found[2].dtype == torch.float64 and same_bits(found, [x.to(y) for x, y in zip(expected, found, strict=True)])


# ---- the same bits, whatever the threads and the batch --------------------------------------------------------------


@pytest.mark.parametrize("case", ["a model's", "several splits", "a split of few", "more samples than a tile"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_for_any_number_of_threads_and_every_time(case, dtype):
    data, before = inputs(**CASES[case], dtype=dtype), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(differentiate(tmt_ext.deformable_attention, data))
    finally:
        torch.set_num_threads(before)
    assert all(same_bits(results[0], other) for other in results[1:])


def of_image(data, i):
    return data._replace(**{name: getattr(data, name)[i : i + 1] for name in ("value", "locations", "weights")})


@pytest.mark.parametrize("queries", [9, 300, 2900])
def test_image_does_not_depend_on_its_batch(queries):
    """Gradients of value do where more images mean fewer splits of the queries: not here."""
    data = inputs([(4, 5), (2, 2)], batch=3, heads=2, queries=queries, points=2, dtype=torch.float32)
    together = differentiate(tmt_ext.deformable_attention, data)
    for i in range(3):
        grad_output = upstream(data)[i : i + 1]
        alone = differentiate(tmt_ext.deformable_attention, of_image(data, i), grad_output)
        assert same_bits(alone, [x[i : i + 1] for x in together])


@pytest.mark.parametrize("queries", [9, 700])
def test_query_does_not_depend_on_the_others(queries):
    data = inputs(batch=1, queries=queries, dtype=torch.float32)
    together, chosen = differentiate(tmt_ext.deformable_attention, data), slice(3, 8)
    few = data._replace(locations=data.locations[:, chosen], weights=data.weights[:, chosen])
    alone = differentiate(tmt_ext.deformable_attention, few, upstream(data)[:, chosen])
    for i in (0, 2, 3):
        assert torch.equal(alone[i], together[i][:, chosen])


LEVEL_SCRIPT = """
import sys, torch, tmt_ext
from deformable_cases import LEVEL_CASES, differentiate, inputs
results = {"active": tmt_ext.build_info()["simd_active"]}
for i, sizes in enumerate(LEVEL_CASES):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        results[i, dtype] = differentiate(tmt_ext.deformable_attention, inputs(**sizes, dtype=dtype))
torch.save(results, sys.argv[1])
"""


@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_every_simd_level(level, tmp_path):
    if not run_at_level(level, LEVEL_SCRIPT, tmp_path / "out.pt"):
        pytest.skip(f"no {level} here")
    results = torch.load(tmp_path / "out.pt")
    assert results.pop("active") == level and len(results) == 4 * len(LEVEL_CASES)
    for (i, dtype), found in results.items():
        expected = oracle(inputs(**LEVEL_CASES[i], dtype=dtype))
        for name, got, right in zip(NAMES, found, expected, strict=True):
            limit = {torch.float64: 1e-12, torch.float32: 1e-5}.get(got.dtype, FLOOR[got.dtype])
            assert_close(got, right, limit, f"{name} {LEVEL_CASES[i]} {dtype}")


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_only_the_inputs_are_saved_for_the_backward():
    data, saved = inputs(dtype=torch.float32), []
    leaves = [x.requires_grad_() for x in (data.value, data.locations, data.weights)]

    def note(tensor):
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        tmt_ext.deformable_attention(leaves[0], data.shapes, *leaves[1:])
    assert saved == [x.data_ptr() for x in leaves]


def allocated(call, name):
    """Bytes that PyTorch allocates in the operator and still holds where it returns."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    return max(event.cpu_memory_usage for event in profile.events() if event.name == name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_sample_is_stored(dtype):
    data = inputs(**CASES["a model's"], dtype=dtype)
    tensors = data.value, [size for shape in data.shapes for size in shape], data.locations, data.weights
    operators, grad_output = torch.ops.tmt, upstream(data)
    output = operators.deformable_attention(*tensors)
    found = allocated(lambda: operators.deformable_attention(*tensors), "tmt::deformable_attention")
    assert found == output.nbytes
    found = allocated(
        lambda: operators.deformable_attention_backward(grad_output, *tensors, False),
        "tmt::deformable_attention_backward",
    )
    assert found == data.value.nbytes + data.locations.nbytes + data.weights.nbytes


# ---- torch's machinery ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    data, sizes = inputs(dtype=dtype), [5, 7, 3, 2]
    leaves = [x.requires_grad_() for x in (data.value, data.locations, data.weights)]
    torch.library.opcheck(torch.ops.tmt.deformable_attention.default, (leaves[0], sizes, *leaves[1:]))
    tensors = [x.detach() for x in leaves]
    arguments = (upstream(data), tensors[0], sizes, *tensors[1:], False)
    torch.library.opcheck(torch.ops.tmt.deformable_attention_backward.default, arguments)


def test_compile():
    data = inputs(dtype=torch.float32)

    def function(value, shapes, locations, weights):
        return tmt_ext.deformable_attention(value.sin(), shapes, locations, weights.softmax(-1)).exp()

    expected = differentiate(function, data)
    assert_matches(differentiate(torch.compile(function, fullgraph=True), data), expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast_leaves_the_value_as_it_is_given(dtype):
    data = inputs(dtype=dtype)
    expected = differentiate(tmt_ext.deformable_attention, data)
    with torch.autocast("cpu", torch.bfloat16):
        found = differentiate(tmt_ext.deformable_attention, data)
    assert [x.dtype for x in found] == [x.dtype for x in expected] and same_bits(found, expected)


def test_autocast_of_a_layer():
    """Values, locations and weights of layers under autocast are bfloat16; the places are not rounded any further."""
    data = inputs(dtype=torch.float32)
    narrow = [x.bfloat16() for x in (data.value, data.locations, data.weights)]
    with torch.autocast("cpu", torch.bfloat16):
        output = tmt_ext.deformable_attention(narrow[0], data.shapes, *narrow[1:])
    exact = data._replace(value=narrow[0].double(), locations=narrow[1].double(), weights=narrow[2].double())
    assert output.dtype == torch.bfloat16
    assert_close(output, tmt_ext.reference.deformable_attention(*exact), FLOOR[torch.bfloat16])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recomputed_under_a_checkpoint(use_reentrant):
    data = inputs(dtype=torch.float32)

    def function(value, shapes, locations, weights):
        given = (value, shapes, locations, weights)
        return torch.utils.checkpoint.checkpoint(tmt_ext.deformable_attention, *given, use_reentrant=use_reentrant)

    expected = differentiate(tmt_ext.deformable_attention, data)
    leaves = [x.clone().requires_grad_() for x in (data.value, data.locations, data.weights)]
    function(leaves[0], data.shapes, *leaves[1:]).backward(upstream(data))
    assert same_bits([x.grad for x in leaves], expected[1:])
