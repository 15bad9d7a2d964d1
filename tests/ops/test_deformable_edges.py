"""tmt_ext.deformable_attention on the CPU: places, values that are not finite, strides, empty inputs, bad arguments."""

import math

import pytest
import torch
from attention_layouts import copies
from deformable_cases import NAMES, Inputs, differentiate, inputs, oracle, same_bits, upstream
from helpers import FLOOR, assert_close

import tmt_ext

BAD = [math.nan, math.inf, -math.inf]
bad_numbers = pytest.mark.parametrize("bad", BAD)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])


def attend(data):
    return tmt_ext.deformable_attention(*data)


# ---- places ---------------------------------------------------------------------------------------------------------


def one_map(height, width, points, dtype=torch.float32, dim=5):
    """A map of random values, and a query a point (x, y) of weight 1."""
    g = torch.Generator().manual_seed(0)
    value = torch.randn(1, height * width, 1, dim, generator=g).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    locations = torch.tensor(points, dtype=wide).view(1, -1, 1, 1, 1, 2)
    return Inputs(value, [(height, width)], locations, torch.ones(1, len(points), 1, 1, 1, dtype=wide))


@dtypes
@pytest.mark.parametrize(("height", "width"), [(4, 8), (1, 1), (2, 16)])
def test_pixel_centres_give_the_pixels(height, width, dtype):
    points = [((x + 0.5) / width, (y + 0.5) / height) for y in range(height) for x in range(width)]
    data = one_map(height, width, points, dtype)
    assert torch.equal(attend(data), data.value[:, :, 0])
    found, expected = differentiate(tmt_ext.deformable_attention, data), oracle(data)
    for name, got, right in zip(NAMES, found, expected, strict=True):  # of the pixel and the next: where gradients jump
        assert_close(got, right, FLOOR[got.dtype], name)


@dtypes
def test_pixel_centres_that_are_rounded(dtype):
    """Sizes whose inverses are no binary numbers: a place may come to lie a rounding before the pixel."""
    for size in (3, 5, 7, 11, 13, 49, 97):
        data = one_map(1, size, [((x + 0.5) / size, 0.5) for x in range(size)], dtype)
        torch.testing.assert_close(attend(data), data.value[:, :, 0], rtol=1e-4, atol=1e-4)


@dtypes
def test_borders_give_half_a_pixel_and_corners_a_quarter(dtype):
    data = one_map(2, 4, [(0, 0.25), (1, 0.25), (0.125, 0), (0.125, 1), (0, 0), (1, 0), (0, 1), (1, 1)], dtype)
    pixels = data.value[0, [0, 3, 0, 4, 0, 3, 4, 7], 0]
    shares = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25], dtype=dtype)
    assert torch.equal(attend(data)[0], pixels * shares[:, None])
    for name, got, right in zip(NAMES, differentiate(tmt_ext.deformable_attention, data), oracle(data), strict=True):
        assert_close(got, right, FLOOR[got.dtype], name)


OUTSIDE = [-0.5, 1.5, -0.51, 1.51, -1.0, 2.0, -7.0, 1e4, -1e9, 1e30, -3e38, 3e38, math.inf, -math.inf]


@dtypes
@pytest.mark.parametrize("axis", [0, 1])
def test_places_without_a_pixel_nearer_than_one_give_exactly_0(axis, dtype):
    """On a map of one pixel -0.5 and 1.5 are one pixel away; elsewhere such places are all the farther."""
    for shape in ((1, 1), (3, 2)):
        points = [(p, 0.4) if axis == 0 else (0.4, p) for p in OUTSIDE]
        results = differentiate(tmt_ext.deformable_attention, one_map(*shape, points, dtype))
        assert not any(x.any() for x in results)


@dtypes
@pytest.mark.parametrize("size", [2, 4, 32])
def test_borders_of_reach(size, dtype):
    """A pixel outside the first pixel and the last a sample is 0; a little nearer it is a little of the pixel."""
    reach, little = 0.5 / size, 2.0**-9 / size  # in one pixel: 2^-9
    points = [(-reach, 0.5), (1 + reach, 0.5), (-reach + little, 0.5), (1 + reach - little, 0.5)]
    data = one_map(1, size, points, dtype)
    output = attend(data)[0]
    assert not output[:2].any()
    torch.testing.assert_close(output[2:], data.value[0, [0, -1], 0] * 2.0**-9)


def test_far_outside_in_one_axis_and_anything_in_the_other():
    values = [*OUTSIDE, 0.0, 0.5, 1.0]
    points = [(x, y) for x in values for y in OUTSIDE]
    assert not any(x.any() for x in differentiate(tmt_ext.deformable_attention, one_map(4, 4, points)))


@pytest.mark.parametrize("width", [2**20, 2**22])
def test_long_maps(width):
    """Places up to the last pixel are those of float32 arithmetic, like the reference's."""
    points = [(x, 0.5) for x in (0.0, 0.25, 0.7310586, 0.9999, 1 - 2**-22, 1.0)]
    data = one_map(1, width, points, dim=1)
    assert_close(attend(data), tmt_ext.reference.deformable_attention(*data).double(), 1e-6)
    grad_value = differentiate(tmt_ext.deformable_attention, data)[1]
    grad_expected = differentiate(tmt_ext.reference.deformable_attention, data)[1]
    assert_close(grad_value, grad_expected.double(), 1e-6)


# ---- values that are not finite ------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_locations_stay_in_their_query_and_head(axis, dtype):
    data = inputs(heads=3, queries=20, dtype=dtype)
    clean = differentiate(tmt_ext.deformable_attention, data)
    data.locations[1, 7, 2, 0, 1, axis] = math.nan
    found = differentiate(tmt_ext.deformable_attention, data)
    broken = found[0].unflatten(2, (3, -1)).isnan()
    assert broken[1, 7, 2].all() and broken.sum() == broken[1, 7, 2].numel()
    sample, query = (1, 7, 2, 0, 1), (1, 7, 2)
    assert found[2][sample].isnan().any() and found[3][sample].isnan()
    for name, dims, whole in (("value", 2, found[1]), ("locations", 2, found[2]), ("weights", 2, found[3])):
        others = torch.arange(3) != query[2]
        assert whole.index_select(dims, others.nonzero()[:, 0]).isfinite().all(), name
        assert whole[0].isfinite().all(), name
    for got, right in zip(found[2:], clean[2:], strict=True):  # the other samples' are what they were
        got[sample], right[sample] = 0, 0
        assert torch.equal(got, right)


@dtypes
def test_a_place_with_a_nan_is_nan_wherever_else_it_lies(dtype):
    values = [math.nan, math.inf, -math.inf, 0.3, -7.0, 1e30, 1.0]
    points = [(x, y) for x in values for y in values]
    data = one_map(3, 4, points, dtype)
    expected = torch.tensor([math.isnan(x) or math.isnan(y) for x, y in points])
    for operator in (tmt_ext.deformable_attention, tmt_ext.reference.deformable_attention):
        broken = operator(*data)[0].isnan()
        assert torch.equal(broken.any(-1), expected) and torch.equal(broken.all(-1), expected)


@dtypes
@bad_numbers
def test_weights_that_are_not_finite_stay_in_their_query_and_head(bad, dtype):
    data = inputs([(4, 5)], heads=3, queries=20, dtype=dtype)
    data.locations[1, 7, 2] = 0.4
    data.weights[1, 7, 2, 0, 1] = bad
    broken = ~attend(data).unflatten(2, (3, -1)).isfinite()
    assert broken[1, 7, 2].all() and broken.sum() == broken[1, 7, 2].numel()


@dtypes
@bad_numbers
def test_values_out_of_reach_leave_no_trace(bad, dtype):
    """The last rows and columns of the map are far from every sample, also from those outside."""
    data = inputs([(8, 9), (2, 2)], dim=9, queries=40, dtype=dtype)
    data.locations[..., 0, :, :] = data.locations[..., 0, :, :].clamp(-0.4, 0.5)
    data.locations[:, ::3, :, 0, 0] = torch.tensor([math.inf, 0.2], dtype=data.locations.dtype)
    data.locations[:, 1::3, :, 0, 0] = torch.tensor([0.3, 1.9], dtype=data.locations.dtype)
    clean = differentiate(tmt_ext.deformable_attention, data)
    maps = data.value[:, :72].view(2, 8, 9, 2, 9)
    maps[:, 6:], maps[:, :, 6:] = bad, bad
    assert all(x.isfinite().all() for x in clean)
    assert all(torch.equal(a, b) for a, b in zip(differentiate(tmt_ext.deformable_attention, data), clean, strict=True))


@dtypes
@bad_numbers
def test_values_in_reach_are_not_hidden(bad, dtype):
    data = one_map(4, 4, [(0.375, 0.375), (0.9, 0.9), (0.3, 0.3), (5.0, 0.4)], dtype)
    data.value[0, 5, 0, 2] = bad
    broken = ~attend(data)[0].isfinite()
    assert broken.nonzero().tolist() == [[0, 2], [2, 2]]


def test_gradient_that_is_not_finite_reaches_its_head_alone():
    data = inputs(heads=3, dtype=torch.float32)
    grad_output = upstream(data)
    grad_output[1, 4, 8 + 3] = math.nan  # channel 3 of head 1
    found = differentiate(tmt_ext.deformable_attention, data, grad_output)
    assert found[3][1, 4, 1].isnan().any() and found[1][1, :, 1, 3].isnan().any()
    for x in found[2:]:
        x[1, 4, 1] = 0
    found[1][1, :, 1, 3] = 0
    assert all(x.isfinite().all() for x in found)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e25])
def test_huge_and_tiny_numbers(scale):
    data = inputs(dtype=torch.float32)
    data = data._replace(value=data.value * scale)
    for name, got, right in zip(NAMES, differentiate(tmt_ext.deformable_attention, data), oracle(data), strict=True):
        assert_close(got, right, 1e-5, name)


# ---- strides --------------------------------------------------------------------------------------------------------


def heads_first(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def batch_last(x):
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def last_dim_strided(x):
    return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]


def of_a_larger_one(x):
    return torch.nn.functional.pad(x, (1, 2, 1, 0), value=torch.nan)[..., 1:, 1 : 1 + x.shape[-1]]


def with_offset(x):
    """Begins one element into its storage: aligned to the element only."""
    return torch.cat([x.new_full((1,), torch.nan), x.flatten()])[1:].view(x.shape)


def every_other_image(x):
    return torch.stack([torch.full_like(x, torch.nan), x], 1).flatten(0, 1)[1::2]


LAYOUTS = [heads_first, batch_last, last_dim_strided, of_a_larger_one, with_offset, every_other_image]
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@each_layout
@dtypes
def test_any_strides_give_the_same_bits(layout, dtype):
    data = inputs(dim=9, heads=3, dtype=dtype)
    expected = differentiate(tmt_ext.deformable_attention, data)
    tensors = {name: layout(getattr(data, name)) for name in ("value", "locations", "weights")}
    for name, tensor in tensors.items():
        given = getattr(data, name)
        assert torch.equal(tensor, given) and (tensor.stride(), tensor.storage_offset()) != (given.stride(), 0)
        assert same_bits(differentiate(tmt_ext.deformable_attention, data._replace(**{name: tensor})), expected), name
    found = differentiate(tmt_ext.deformable_attention, data._replace(**tensors), layout(upstream(data)))
    assert same_bits(found, expected)


@dtypes
def test_expanded_tensors(dtype):
    data = inputs(heads=3, dtype=dtype)
    value, locations = data.value[:1].expand_as(data.value), data.locations[:, :, :1].expand_as(data.locations)
    weights = data.weights[:, :1].expand_as(data.weights)
    expanded = data._replace(value=value, locations=locations, weights=weights)
    dense = data._replace(value=value.contiguous(), locations=locations.contiguous(), weights=weights.contiguous())
    grad_output = torch.ones((), dtype=dtype).expand(upstream(data).shape)  # as sum() gives it
    found = differentiate(tmt_ext.deformable_attention, expanded, grad_output)
    assert same_bits(found, differentiate(tmt_ext.deformable_attention, dense, grad_output.contiguous()))


@pytest.mark.parametrize("layout", [heads_first, with_offset, every_other_image, of_a_larger_one, last_dim_strided])
def test_values_are_copied_only_where_their_channels_are_apart(layout):
    data = inputs(dtype=torch.float32)
    data = data._replace(value=layout(data.value))
    count = 1 if layout is last_dim_strided else 0
    assert copies(lambda: attend(data)) == count
    grad_output, sizes = upstream(data), [5, 7, 3, 2]
    arguments = grad_output, data.value, sizes, data.locations, data.weights, False
    assert copies(lambda: torch.ops.tmt.deformable_attention_backward(*arguments)) == count


# ---- nothing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [dict(batch=0), dict(queries=0), dict(batch=0, queries=0)])
@dtypes
def test_empty(sizes, dtype):
    data = inputs(**sizes, dtype=dtype)
    found = differentiate(tmt_ext.deformable_attention, data)
    assert [x.shape for x in found] == [
        upstream(data).shape,
        data.value.shape,
        data.locations.shape,
        data.weights.shape,
    ]
    assert not any(x.any() for x in found)
    with tmt_ext.plain_torch():
        assert attend(data).shape == found[0].shape


# ---- bad arguments --------------------------------------------------------------------------------------------------

SHAPES = [(4, 5), (2, 3)]
GOOD = dict(value=(2, 26, 3, 8), shapes=SHAPES, locations=(2, 6, 3, 2, 4, 2), weights=(2, 6, 3, 2, 4))
LONG = 2**29  # positions and pixels must be fewer


def given(changes):
    """The tensors of GOOD, changed; a tuple is a tensor's shape."""
    chosen = {**GOOD, **changes}
    return {name: torch.zeros(x) if isinstance(x, tuple) else x for name, x in chosen.items()}


def of_positions(number):
    return torch.zeros(1).expand(2, number, 3, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(value=(26, 3, 8)), r"value must be \(B, S, heads, D\), got \(26, 3, 8\)"),
        (dict(value=torch.zeros(2, 26, 3, 8).int()), "value must be float32, float64, bfloat16 or float16, got int32"),
        (dict(value=(2, 26, 0, 8)), r"value must have at least one head and channel, got \(2, 26, 0, 8\)"),
        (dict(value=(2, 26, 3, 0)), r"value must have at least one head and channel, got \(2, 26, 3, 0\)"),
        (dict(value=(2, 26, 3, 1025)), r"value must have at most 1024 channels a head, got \(2, 26, 3, 1025\)"),
        (dict(shapes=[]), "shapes must be a height and a width for each level, got 0 numbers"),
        (dict(shapes=[(4, 5), (0, 3)]), "shapes must be at least 1 x 1, got 0 x 3 at level 1"),
        (dict(shapes=[(4, -5), (2, 3)]), "shapes must be at least 1 x 1, got 4 x -5 at level 0"),
        (dict(shapes=[(2**20, 2**20)]), "a level must have at most 2.29 pixels, got 1048576 x 1048576"),
        (dict(shapes=[(LONG, 1)]), "a level must have at most 2.29 pixels, got 536870912 x 1"),
        (dict(shapes=[(2**62, 2**62)]), "a level must have at most 2.29 pixels, got 4611686018427387904 x 46"),
        (dict(shapes=[(4, 5), (2, 4)]), r"value must have the 28 positions of its levels, got \(2, 26, 3, 8\)"),
        (
            dict(value=of_positions(LONG), shapes=[(LONG // 2, 1)] * 2),
            r"value must have at most 2.29 positions, got \(2, 536870912, 3, 8\)",
        ),
        (dict(locations=(2, 6, 3, 8, 2)), r"locations must be \(B, Q, heads, levels, points, 2\), got \(2, 6, 3, 8, 2"),
        (dict(locations=(2, 6, 3, 2, 4, 3)), r"locations must be \(B, Q, .*, points, 2\), got \(2, 6, 3, 2, 4, 3\)"),
        (
            dict(locations=(1, 6, 3, 2, 4, 2)),
            r"locations must be \(2, Q, 3, 2, points, 2\) beside value \(2, 26, 3, 8\), got \(1, 6, 3, 2, 4, 2\)",
        ),
        (dict(locations=(2, 6, 1, 2, 4, 2)), r"locations must be \(2, Q, 3, 2, points, 2\) .* got \(2, 6, 1, 2, 4, 2"),
        (dict(locations=(2, 6, 3, 1, 4, 2)), r"locations must be \(2, Q, 3, 2, points, 2\) .* got \(2, 6, 3, 1, 4, 2"),
        (dict(locations=(2, 6, 3, 2, 0, 2)), r"locations must be \(2, Q, 3, 2, points, 2\) .* got \(2, 6, 3, 2, 0, 2"),
        (dict(locations=(2, 6, 3, 2, 513, 2)), "a query must have at most 1024 samples, got 1026"),
        (
            dict(weights=(2, 6, 3, 8)),
            r"weights must be \(B, Q, heads, levels, points\) as locations \(2, 6, 3, 2, 4, 2\), got \(2, 6, 3, 8\)",
        ),
        (dict(weights=(2, 5, 3, 2, 4)), r"weights must be .* as locations \(2, 6, 3, 2, 4, 2\), got \(2, 5, 3, 2, 4\)"),
        (dict(weights=(2, 6, 3, 2, 3)), r"weights must be .* as locations \(2, 6, 3, 2, 4, 2\), got \(2, 6, 3, 2, 3\)"),
    ],
)  # fmt: skip
def test_refuses(changes, message):
    with pytest.raises(RuntimeError, match=f"^deformable_attention: {message}") as error:
        tmt_ext.deformable_attention(**given(changes))
    assert "\n" not in str(error.value).strip()


@pytest.mark.parametrize(
    "shapes", [[4, 5, 2, 3], [(4, 5, 2, 3)], [(1, 2, 3), (4,)], [(4, 5), 6], torch.tensor([4, 5, 2, 3])]
)
def test_refuses_shapes_that_are_no_pairs(shapes):
    wanted = "^deformable_attention: shapes must be a height and a width for each level, got "
    with pytest.raises(ValueError, match=wanted) as error:
        tmt_ext.deformable_attention(**given(dict(shapes=shapes)))
    assert str(error.value).endswith(str(shapes.tolist() if isinstance(shapes, torch.Tensor) else shapes))


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        (("float32", "float64", "float32"), "locations must be float32 beside value in float32, got float64"),
        (("bfloat16", "bfloat16", "float32"), "locations must be float32 beside value in bfloat16, got bfloat16"),
        (("float16", "float32", "float16"), "weights must be float32 beside value in float16, got float16"),
        (("float64", "float64", "float32"), "weights must be float64 beside value in float64, got float32"),
    ],
)
def test_the_kernels_refuse_other_dtypes(dtypes, message):
    """Which the public function casts."""
    tensors = given({})
    value, locations, weights = (
        tensors[name].to(getattr(torch, dtype))
        for name, dtype in zip(("value", "locations", "weights"), dtypes, strict=True)
    )
    with pytest.raises(RuntimeError, match=f"^deformable_attention: {message}"):
        torch.ops.tmt.deformable_attention(value, [4, 5, 2, 3], locations, weights)


def test_the_kernels_refuse_half_a_shape():
    with pytest.raises(RuntimeError, match="shapes must be a height and a width for each level, got 3 numbers"):
        torch.ops.tmt.deformable_attention(**{**given({}), "shapes": [4, 5, 2]})


@pytest.mark.parametrize(
    ("grad_output", "message"),
    [
        (torch.zeros(2, 6, 3, 8), r"grad_output must be \(2, 6, 24\), got \(2, 6, 3, 8\)"),
        (torch.zeros(1, 6, 24), r"grad_output must be \(2, 6, 24\), got \(1, 6, 24\)"),
        (torch.zeros(2, 5, 24), r"grad_output must be \(2, 6, 24\), got \(2, 5, 24\)"),
        (torch.zeros(2, 6, 8), r"grad_output must be \(2, 6, 24\), got \(2, 6, 8\)"),
        (torch.zeros(2, 6, 24).double(), "grad_output must be float32, got float64"),
    ],
)
def test_bad_arguments_of_the_backward(grad_output, message):
    tensors = {**given({}), "shapes": [4, 5, 2, 3], "deterministic": False}
    torch.ops.tmt.deformable_attention_backward(torch.zeros(2, 6, 24), **tensors)
    with pytest.raises(RuntimeError, match=f"^deformable_attention: {message}"):
        torch.ops.tmt.deformable_attention_backward(grad_output, **tensors)
    wrong = {**tensors, "weights": torch.zeros(2, 6, 3, 2, 3)}
    with pytest.raises(RuntimeError, match="^deformable_attention: weights must be"):
        torch.ops.tmt.deformable_attention_backward(torch.zeros(2, 6, 24), **wrong)
