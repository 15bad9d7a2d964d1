"""tmt_ext.superpixel on the CPU against its float64 reference, and the reference against explicit loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import FLOOR, assert_close, assert_twice, gradients, relative_error, run_at_level
from superpixel_cases import CASES, KAPPA, assert_labels, features, median_errors, oracle, oracle_gradients

import tmt_ext

# ---- the reference itself -------------------------------------------------------------------------------------------


def loops(x, cell, iterations, kappa):
    """Eqs. 6-9 for one image (C, H, W), pixel by pixel: the three results of `superpixel`."""
    channels, height, width = x.shape
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    pixels = list(itertools.product(range(height), range(width)))
    assignment = np.zeros((9, height, width))
    assignment[4] = 1
    labels = np.zeros((height, width), dtype=np.int64)
    f = loops_means(x, assignment, cell, rows, columns)
    for _ in range(iterations):
        for y, column in pixels:
            s = np.zeros(9)
            for n, (dy, dx) in enumerate(itertools.product((-1, 0, 1), repeat=2)):
                r = (y // cell + dy, column // cell + dx)
                if 0 <= r[0] < rows and 0 <= r[1] < columns:
                    centre, pixel = f[:, r[0], r[1]], x[:, y, column]
                    s[n] = math.exp(kappa * centre @ pixel / np.linalg.norm(centre) / np.linalg.norm(pixel))
            assignment[:, y, column] = s / s.sum()
            best = int(s.argmax())
            labels[y, column] = (y // cell + best // 3 - 1) * columns + column // cell + best % 3 - 1
        f = loops_means(x, assignment, cell, rows, columns)
    return f, assignment, labels


def loops_means(x, assignment, cell, rows, columns):
    sums, masses = np.zeros((x.shape[0], rows, columns)), np.zeros((rows, columns))
    for n, y, column in np.ndindex(assignment.shape):
        r = (y // cell + n // 3 - 1, column // cell + n % 3 - 1)
        if assignment[n, y, column] > 0:
            sums[:, r[0], r[1]] += assignment[n, y, column] * x[:, y, column]
            masses[r] += assignment[n, y, column]
    return sums / masses


@pytest.mark.parametrize(("shape", "cell"), [((1, 3, 6, 6), 2), ((1, 2, 5, 7), 3), ((1, 4, 3, 8), 4)])
def test_reference_equals_explicit_loops(shape, cell):
    x = features(shape)
    expected = loops(x[0].numpy(), cell, 3, 5.0)
    got = tmt_ext.reference.superpixel(x, cell, iterations=3, kappa=5.0)
    for value, by_hand in zip(got, expected, strict=True):
        np.testing.assert_allclose(value[0].numpy(), by_hand, rtol=1e-10, atol=1e-12)


def test_one_iteration_by_hand():
    # Two cells of one pixel each, (1, 0) and (0, 1): own cosine 1, the other 0.
    x = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    own = math.exp(2) / (math.exp(2) + 1)
    result = tmt_ext.superpixel(x, 1, iterations=1, kappa=2.0)
    torch.testing.assert_close(result.assignment[0, 4, 0], torch.tensor([own, own]))
    torch.testing.assert_close(result.assignment[0, [5, 3], 0, [0, 1]], torch.tensor([1 - own, 1 - own]))
    torch.testing.assert_close(result.region_features[0, :, 0, 0], torch.tensor([own, 1 - own]))
    assert result.labels.tolist() == [[[0, 1]]]


# ---- against the oracle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "cell"), CASES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equals_oracle(shape, cell, dtype, limit):
    x = features(shape, dtype)
    expected, (expected_grad,) = oracle_gradients(x, cell)
    outputs, (grad,) = gradients(lambda y: tmt_ext.superpixel(y, cell), [x])
    assert_close(outputs[0], expected[0], limit, "region_features")
    assert_close(outputs[1], expected[1], limit, "assignment")
    # Few channels and tiny cells make the gradient ill-conditioned: there plain float32 misses the limit as well.
    _, (plain_grad,) = gradients(lambda y: tmt_ext.reference.superpixel(y, cell), [x])
    assert_close(grad, expected_grad, max(limit, 2 * relative_error(plain_grad, expected_grad)), "gradient")
    assert_labels(tmt_ext.superpixel(x, cell).labels, oracle(x, cell))


@pytest.mark.parametrize(("shape", "cell"), [((2, 12, 11, 6), 2), ((3, 5, 13, 17), 5), ((2, 16, 16, 16), 4)])
def test_float32_gradient_is_as_good_as_plain_pytorch(shape, cell):
    kernel, reference = median_errors(shape, cell)
    assert torch.all(kernel <= 1e-5)
    assert torch.all(kernel <= 2 * reference)


@pytest.mark.parametrize(("shape", "cell"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_within_twice_the_reference(shape, cell, dtype):
    x = features(shape, dtype)
    expected, (expected_grad,) = oracle_gradients(x, cell)
    plain, (plain_grad,) = gradients(lambda y: tmt_ext.reference.superpixel(y, cell), [x])
    outputs, (grad,) = gradients(lambda y: tmt_ext.superpixel(y, cell), [x])
    assert outputs[0].dtype == outputs[1].dtype == grad.dtype == dtype
    for name, got, other, exact in zip(("region_features", "assignment"), outputs, plain, expected, strict=True):
        assert_twice(got, other, exact, name)
    assert_twice(grad, plain_grad, expected_grad, "gradient")
    # The sums are carried in float32: far better than half-precision arithmetic throughout.
    assert relative_error(outputs[0], expected[0]) < 2 * FLOOR[dtype]


@pytest.mark.parametrize("output", [0, 1])
def test_gradient_of_each_output_alone(output):
    x = features((2, 6, 9, 10), torch.float32)
    _, (expected,) = gradients(lambda y: tmt_ext.reference.superpixel(y, 4)[output], [x.double()])
    _, (grad,) = gradients(lambda y: tmt_ext.superpixel(y, 4)[output], [x])
    assert_close(grad, expected)


@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_iterations(iterations):
    kernel, _ = median_errors((1, 8, 12, 20), 4, iterations=iterations)
    assert torch.all(kernel <= 1e-5)


@pytest.mark.parametrize(
    ("shape", "cell", "iterations"),
    [((1, 2, 4, 4), 2, 2), ((2, 2, 5, 7), 3, 3), ((1, 4, 4, 5), 1, 2), ((1, 3, 2, 9), 8, 2), ((1, 2, 3, 11), 10, 1)],
)
def test_gradcheck(shape, cell, iterations):
    x = features(shape).requires_grad_()

    def both(y):
        return tmt_ext.superpixel(y, cell, iterations=iterations, kappa=3.0)[:2]

    assert torch.autograd.gradcheck(both, (x,))


# ---- the same bits, whatever the strides, threads and batch --------------------------------------------------------


def strided_versions(x):
    wide = torch.empty(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype)
    wide[..., ::2] = x
    yield "step 2", wide[..., ::2]
    yield "channels last", x.contiguous(memory_format=torch.channels_last)
    yield "transposed", x.transpose(2, 3).contiguous().transpose(2, 3)
    yield "offset", torch.cat([x[:, :1], x], 1)[:, 1:]


def test_any_strides_give_the_same_bits():
    x = features((2, 6, 9, 11), torch.float32)
    expected, (expected_grad,) = gradients(lambda y: tmt_ext.superpixel(y, 4), [x])
    for name, version in strided_versions(x):
        leaf = version.detach().requires_grad_()
        assert leaf.stride() != x.stride() or leaf.storage_offset() != 0, name
        outputs = tmt_ext.superpixel(leaf, 4)[:2]
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
        strided = [w.flip(-1).contiguous().flip(-1).transpose(1, 2).contiguous().transpose(1, 2) for w in weights]
        (grad,) = torch.autograd.grad(outputs, [leaf], strided)
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True)), name
        assert torch.equal(grad, expected_grad), name


def test_same_bits_for_any_number_of_threads():
    x = features((3, 40, 33, 41), torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            outputs, grads = gradients(lambda y: tmt_ext.superpixel(y, 4), [x])
            results.append([*outputs, *grads, tmt_ext.superpixel(x, 4).labels])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_image_does_not_depend_on_its_batch():
    x = features((3, 10, 12, 12), torch.float32)
    together = tmt_ext.superpixel(x, 4)
    for i in range(3):
        alone = tmt_ext.superpixel(x[i : i + 1], 4)
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


LEVEL_SCRIPT = """
import sys, torch, tmt_ext
x, weights = torch.load(sys.argv[1])
results = {"active": tmt_ext.build_info()["simd_active"]}
for dtype, (cell, y) in [(d, v) for v in x for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)]:
    leaf = y.to(dtype).requires_grad_()
    regions, assignment, labels = tmt_ext.superpixel(leaf, cell)
    grad, = torch.autograd.grad((regions, assignment), leaf, [w.to(dtype) for w in weights[cell]])
    results[cell, dtype] = [regions.detach(), assignment.detach(), grad]
torch.save(results, sys.argv[2])
"""


@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_every_simd_level(level, tmp_path):
    inputs = [(3, features((1, 18, 10, 13))), (8, features((1, 40, 16, 27)))]
    exact = {cell: oracle_gradients(x.float(), cell) for cell, x in inputs}
    weights = {cell: [torch.ones_like(y) for y in outputs] for cell, (outputs, _) in exact.items()}
    torch.save((inputs, weights), tmp_path / "in.pt")
    if not run_at_level(level, LEVEL_SCRIPT, tmp_path / "in.pt", tmp_path / "out.pt"):
        pytest.skip(f"no {level} here")
    results = torch.load(tmp_path / "out.pt")
    assert results.pop("active") == level
    for (cell, dtype), got in results.items():
        leaf = dict(inputs)[cell].to(dtype).double().requires_grad_()
        expected = tmt_ext.reference.superpixel(leaf, cell)[:2]
        grad = torch.autograd.grad(expected, leaf, [w.to(dtype).double() for w in weights[cell]])
        limit = 1e-12 if dtype == torch.float64 else 1e-5 if dtype == torch.float32 else 2 * FLOOR[dtype]
        for value, exact_value in zip(got, [*expected, *grad], strict=True):
            assert_close(value, exact_value, limit, f"cell {cell} {dtype}")


# ---- torch's machinery ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    x = features((2, 3, 7, 9), dtype).requires_grad_()
    torch.library.opcheck(torch.ops.tmt.superpixel.default, (x, 4, 2, KAPPA))
    torch.library.opcheck(torch.ops.tmt.superpixel.default, (x.detach(), 4, 2, KAPPA, False))
    regions, assignment, _, history, masses = torch.ops.tmt.superpixel(x.detach(), 4, 2, KAPPA)
    arguments = (regions, assignment, x.detach(), history, masses, 4, 2, KAPPA)
    torch.library.opcheck(torch.ops.tmt.superpixel_backward.default, arguments)
    torch.library.opcheck(torch.ops.tmt.superpixel_backward.default, (None, *arguments[1:]))


def test_compile():
    def function(x):
        result = tmt_ext.superpixel(x.sin(), 4, iterations=3)
        return result.region_features.exp(), result.assignment * 2, result.labels + 1

    x = features((2, 6, 10, 12), torch.float32)
    expected, (expected_grad,) = gradients(function, [x])
    outputs, (grad,) = gradients(torch.compile(function, fullgraph=True), [x])
    for got, eager in zip((*outputs, grad), (*expected, expected_grad), strict=True):
        assert_close(got, eager)  # not the same bits: the compiled sin rounds differently
    assert torch.equal(torch.compile(function, fullgraph=True)(x)[2], function(x)[2])


def test_autocast_computes_in_float32():
    x = features((1, 8, 12, 12), torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = tmt_ext.superpixel(x, 4)
    expected = tmt_ext.superpixel(x.float(), 4)
    assert result.region_features.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_only_history_and_masses_are_saved_for_the_backward():
    sizes = []
    x = features((1, 16, 32, 32), torch.float32).requires_grad_()

    def note(tensor):
        if tensor.data_ptr() != x.data_ptr():
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        tmt_ext.superpixel(x, 8, iterations=4)
    assert sizes == [5 * 16 * 16, 4 * 16]  # (L+1) x h*w x C, L x h*w


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "cell"), CASES[:3])
def test_what_is_kept_changes_no_bit(shape, cell, dtype):
    x = features(shape, dtype)
    kept, nothing = (torch.ops.tmt.superpixel(x, cell, 3, KAPPA, keep) for keep in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(kept[:3], nothing[:3], strict=True))
    assert [t.shape for t in nothing[3:]] == [(0,), (0,)] and nothing[3].dtype == kept[3].dtype
    with pytest.raises(RuntimeError, match="history must be what superpixel returned with keep_history, got none"):
        torch.ops.tmt.superpixel_backward(kept[0], None, x, *nothing[3:], cell, 3, KAPPA)


def allocated_bytes(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        results = call()
    allocated = max(event.cpu_memory_usage for event in profile.events() if event.name == "tmt::superpixel")
    return allocated, sum(result.nbytes for result in results)


def test_without_a_gradient_nothing_is_kept():
    x = features((1, 16, 32, 32), torch.float32)
    kept = 4 * (5 * 16 * 16 + 4 * 16)  # bytes: (L+1) x h*w x C, L x h*w

    def call():
        return tmt_ext.superpixel(x, 8, iterations=4)

    allocated, results = allocated_bytes(call)
    assert allocated == results
    x.requires_grad_()
    allocated, results = allocated_bytes(call)
    assert allocated == results + kept
    with torch.no_grad():
        allocated, results = allocated_bytes(call)
    assert allocated == results
    with torch.inference_mode():
        allocated, results = allocated_bytes(call)
    assert allocated == results
    with torch.autocast("cpu", dtype=torch.bfloat16):
        allocated, results = allocated_bytes(call)
    assert allocated == results + kept


def test_without_a_gradient_compiled():
    compiled = torch.compile(lambda x: tmt_ext.superpixel(x, 4, iterations=3), fullgraph=True)
    x = features((2, 6, 10, 12), torch.float32)
    for y in (x, x.clone().requires_grad_()):
        with torch.no_grad():
            assert all(
                torch.equal(a, b) for a, b in zip(compiled(y), tmt_ext.superpixel(y, 4, iterations=3), strict=True)
            )
    y = x.clone().requires_grad_()
    outputs, (grad,) = gradients(compiled, [y])
    assert torch.equal(grad, gradients(lambda z: tmt_ext.superpixel(z, 4, iterations=3), [y])[1][0])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recomputed_under_a_checkpoint(use_reentrant):
    x = features((1, 6, 10, 12), torch.float32).requires_grad_()

    def regions(y):
        return tmt_ext.superpixel(y, 4, iterations=3).region_features

    (expected,) = torch.autograd.grad(regions(x).square().sum(), x)
    torch.utils.checkpoint.checkpoint(regions, x, use_reentrant=use_reentrant).square().sum().backward()
    assert torch.equal(x.grad, expected)


def test_masses_are_the_assignment_s_sums():
    x = features((2, 6, 9, 10))
    index, exists = tmt_ext._reference_superpixel.neighbour_regions(9, 10, 4, x.device)
    for iterations in (1, 3):
        _, assignment, _, _, masses = torch.ops.tmt.superpixel(x, 4, iterations, KAPPA)
        expected = torch.zeros(2, 9, dtype=x.dtype)
        expected.index_add_(1, index[exists], assignment.flatten(2)[:, exists])
        assert_close(masses[:, -1], expected, 1e-12)


def test_labels_and_double_use():
    x = features((1, 8, 12, 12), torch.float32).requires_grad_()
    result = tmt_ext.superpixel(x, 4)
    assert not result.labels.requires_grad
    (result.region_features.sum() + result.region_features.square().sum()).backward()
    assert x.grad.isfinite().all()
