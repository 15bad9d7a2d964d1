"""The public operators: names become numbers here, values are checked; tensors are checked in csrc/*/checks.h."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.jit._trace import is_tracing

from . import _autograd, _plain
from ._library import require_device
from ._types import Fallback, PackedMask, Rule, SuperpixelOutput

KAPPA = 1 / 0.07  # sharpness of the assignment, Eq. 8
RULES = {rule.name: int(rule) for rule in Rule}
FALLBACKS = {fallback.name: int(fallback) for fallback in Fallback}


def superpixel(features: Tensor, cell: int, *, iterations: int = 6, kappa: float = KAPPA) -> SuperpixelOutput:
    """Groups pixels into regions by iterated soft assignment to the 3x3 nearest region centres (Eqs. 6-9).

    Regions start as cells of `cell` x `cell` pixels on a grid h = ceil(H / cell), w = ceil(W / cell). `iterations`
    times: a region's feature is the mean of its pixels' features weighted by the assignment; a pixel's assignment
    is the softmax, over the regions around its own cell that exist, of kappa times the cosine of region and pixel.
    Region features are computed once more from the last assignment.

    Args:
        features: (B, C, H, W), float32, bfloat16, float16 (sums in float32) or, on the CPU, float64.
        cell: side of a cell in pixels, at least 1.
        iterations: at least 1.
        kappa: sharpness, positive.

    Returns:
        SuperpixelOutput: region_features (B, C, h, w) and assignment (B, 9, H, W) in the dtype of `features`, the
        neighbour order row-major from (-1, -1), exactly 0 where a neighbour does not exist; labels (B, H, W) int64,
        the index y * w + x of the most probable region; cosines less than 2^-15 below the largest tie with it, in every
        dtype, and ties go to the pixel's own cell, else to the neighbour that comes first in that order.
        Differentiable once, backward, with respect to `features` from both floating-point results, through all
        iterations; for other derivatives see `plain_torch`.

    Raises:
        RuntimeError: wrong shape, dtype or value, a CUDA tensor without CUDA kernels, or a derivative that is none of
            those above.
    """
    if _plain.is_plain(features):
        return _plain.superpixel(features, cell, iterations, kappa)
    require_device("superpixel", features=features)
    differentiates = torch.is_grad_enabled() and features.requires_grad  # else nothing is kept for a backward
    return SuperpixelOutput(*_autograd.superpixel(features, cell, iterations, kappa, differentiates)[:3])


def pack_mask(
    mask_logits: Tensor | None = None,
    transferability: Tensor | None = None,
    *,
    mask_threshold: float = 0.5,
    transfer_threshold: Tensor | float | None = None,
    rule: str = "uncertain",
    fallback: str = "all",
    queries: int | None = None,
) -> PackedMask:
    """Decides where each query may attend (Eq. 13) and packs the decisions to bits, once for all heads.

    allowed[n, j] = rule(mask_logits[n, j]) and transferability[j] <= transfer_threshold, compared in float32; the
    mask in logit space: m <= logit(mask_threshold) for `uncertain` (the paper), >= for `foreground` (Mask2Former).
    A row with nothing allowed attends everywhere (`all`), or first wherever T allows (`transfer`). No gradient.

    Args:
        mask_logits: (B, N, S), any floating dtype, or None: T alone decides.
        transferability: (B, S), any floating dtype, or None: the mask alone decides.
        mask_threshold: probability in [0, 1].
        transfer_threshold: (B,) or one number, in [0, 1] (on CUDA a tensor's values are not inspected).
        rule: "uncertain", "foreground" or "none" (T alone decides).
        fallback: "all" or "transfer".
        queries: N, needed only where mask_logits is None.

    Raises:
        ValueError: unknown rule or fallback, threshold outside [0, 1], missing or superfluous argument.
        RuntimeError: wrong shape, dtype or device.
    """
    operator = "pack_mask"
    rule_number = _number(operator, "rule", rule, RULES)
    _require_mask_arguments(mask_logits, transferability, queries)
    number = queries if mask_logits is None else mask_logits.shape[1]
    tested = None if rule_number == RULES["none"] else mask_logits
    threshold = _threshold_tensor(operator, transfer_threshold, transferability)
    if tested is None and transferability is None:
        raise ValueError("pack_mask: rule 'none' without transferability decides nothing; give transferability")
    logit, fallback_number = _logit(operator, mask_threshold), _number(operator, "fallback", fallback, FALLBACKS)
    if _plain.is_plain(mask_logits, transferability):
        options = dict(mask_threshold=mask_threshold, transfer_threshold=threshold, rule=rule, fallback=fallback)
        return _plain.pack_mask(tested, transferability, queries=number, **options)
    require_device(operator, mask_logits=mask_logits, transferability=transferability, transfer_threshold=threshold)
    rule_number = RULES["none"] if tested is None else rule_number
    return PackedMask(
        *torch.ops.tmt.pack_mask(tested, transferability, threshold, logit, rule_number, fallback_number, number)
    )


def pack_predicted_mask(
    mask_embeddings: Tensor,
    mask_features: Tensor,
    transferability: Tensor | None = None,
    *,
    mask_threshold: float = 0.5,
    transfer_threshold: Tensor | float | None = None,
    rule: str = "uncertain",
    fallback: str = "all",
) -> PackedMask:
    """`pack_mask` of the mask logits mask_embeddings mask_features, which become bits without being stored.

    allowed[n, j] = rule(sum over e of mask_embeddings[n, e] mask_features[e, j]) and
    transferability[j] <= transfer_threshold; the rest as `pack_mask`. Sums are carried in float32 (float64 for
    float64) whatever the dtype, autocast or not; no logit is computed where T excludes the key. A decision can
    differ from that of separately computed logits only where a logit is within rounding of the threshold. No gradient.

    Args:
        mask_embeddings: (B, N, E); mask_features: (B, E, S); one dtype of float32, bfloat16, float16 or, on the CPU,
            float64 (under autocast they may differ: the wider one counts).
        transferability: (B, S), any floating dtype, or None: the mask alone decides.
        mask_threshold: see `pack_mask`.
        transfer_threshold: see `pack_mask`.
        rule: "uncertain" or "foreground".
        fallback: see `pack_mask`.

    Returns:
        PackedMask: bits (B, N, ceil(S / 64)) int64, allowed (B, N) int32.

    Raises:
        ValueError: unknown rule or fallback, threshold outside [0, 1], missing or superfluous argument.
        RuntimeError: wrong shape, dtype or device.
    """
    operator = "pack_predicted_mask"
    rule_number = _number(operator, "rule", rule, RULES)
    if rule_number == RULES["none"]:
        raise ValueError(f"{operator}: rule must be 'uncertain' or 'foreground', got 'none'; use pack_mask")
    threshold = _threshold_tensor(operator, transfer_threshold, transferability)
    logit, fallback_number = _logit(operator, mask_threshold), _number(operator, "fallback", fallback, FALLBACKS)
    if _plain.is_plain(mask_embeddings):
        options = dict(mask_threshold=mask_threshold, transfer_threshold=threshold, rule=rule, fallback=fallback)
        return _plain.pack_predicted_mask(mask_embeddings, mask_features, transferability, **options)
    require_device(
        operator,
        mask_embeddings=mask_embeddings,
        mask_features=mask_features,
        transferability=transferability,
        transfer_threshold=threshold,
    )
    return PackedMask(
        *torch.ops.tmt.pack_predicted_mask(
            mask_embeddings,
            mask_features,
            transferability,
            threshold,
            logit,
            rule_number,
            fallback_number,
        )
    )


def packed_attention(query: Tensor, key: Tensor, value: Tensor, bits: Tensor | None = None) -> Tensor:
    """softmax(query key^T / sqrt(D)) value over the keys whose bit is set (Eq. 12), without an N x S intermediate.

    Args:
        query: (B, heads, N, D); key, value: (B, heads, S, D); one dtype of float32, bfloat16, float16 (sums in
            float32) or, on the CPU, float64; D at most 256.
        bits: (B, N, ceil(S / 64)) int64 from `pack_mask`, shared by the heads, or None: every key.

    Returns:
        (B, heads, N, D) in the dtype of `query`. Differentiable once, backward, with respect to query, key and value;
        for other derivatives see `plain_torch`.

    Raises:
        RuntimeError: wrong shape, dtype or device, or a derivative that is none of those above.
    """
    if _plain.is_plain(query):
        return _plain.packed_attention(query, key, value, bits)
    require_device("packed_attention", query=query, key=key, value=value, bits=bits)
    return _autograd.packed_attention(query, key, value, bits)[0]


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask_logits: Tensor | None = None,
    transferability: Tensor | None = None,
    *,
    mask_threshold: float = 0.5,
    transfer_threshold: Tensor | float | None = None,
    rule: str = "uncertain",
    fallback: str = "all",
) -> Tensor:
    """Thresholded masked cross-attention (Eqs. 12-13): `packed_attention` under the mask of `pack_mask`.

    Args:
        query: (B, heads, N, D); key, value: (B, heads, S, D), see `packed_attention`.
        mask_logits: (B, N, S) or None; transferability: (B, S) or None; the rest: see `pack_mask`.
            With neither, or with rule "none" and no transferability, it is plain attention.

    Returns:
        (B, heads, N, D) in the dtype of `query`. Mask and transferability receive no gradient.

    Raises:
        ValueError, RuntimeError: as `pack_mask` and `packed_attention`, whose names they carry.
    """
    decided = _number("masked_attention", "rule", rule, RULES) != RULES["none"] and mask_logits is not None
    if not decided and transferability is None:
        _number("masked_attention", "fallback", fallback, FALLBACKS)
        _logit("masked_attention", mask_threshold)
        return packed_attention(query, key, value)
    packed = pack_mask(
        mask_logits,
        transferability,
        mask_threshold=mask_threshold,
        transfer_threshold=transfer_threshold,
        rule=rule,
        fallback=fallback,
        queries=query.shape[2] if mask_logits is None else None,
    )
    return packed_attention(query, key, value, packed.bits)


def deformable_attention(
    value: Tensor, shapes: Sequence[Sequence[int]] | Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., Deformable DETR, Eq. 3), without a sample being stored.

    output[q] = sum over levels and points of weights[q] times the bilinear sample of the level's map at locations[q].
    A location (x, y) is a share of the map's width and height, (0, 0) its upper left corner and (1, 1) its lower right
    (`grid_sample` with align_corners=False); what lies outside counts as 0, so a sample without a pixel nearer than one
    is exactly 0.

    Args:
        value: (B, S, heads, D), the levels' maps row by row, one level after another; float32, bfloat16, float16 (sums
            in float32) or, on the CPU, float64; D at most 1024. The D of a head lie side by side, else it is copied.
        shapes: height and width of each level, (levels, 2); a tensor on a GPU is waited for.
        locations: (B, Q, heads, levels, points, 2), x before y; weights: (B, Q, heads, levels, points), any real
            numbers. Both are used in float32 (float64 beside float64), in which they are best given: bfloat16 tells
            256 places apart.

    Returns:
        (B, Q, heads * D) in the dtype of `value`. Differentiable once, backward, with respect to value, locations and
        weights; for other derivatives see `plain_torch`, whose operators are what `torch.jit.trace` records. On the CPU
        gradients are the same bits every time; on CUDA that of `value` is, where
        `torch.use_deterministic_algorithms` asks for it.

    Raises:
        ValueError: shapes that are not pairs.
        RuntimeError: wrong shape, dtype or device, or a derivative that is none of those above.
    """
    sizes = _flat_shapes(shapes)
    wide = torch.float64 if value.dtype == torch.float64 else torch.float32
    locations, weights = locations.to(wide), weights.to(wide)
    if _plain.is_plain(value) or is_tracing():  # which records no list of sizes
        return _plain.deformable_attention(value, sizes, locations, weights)
    require_device("deformable_attention", value=value, locations=locations, weights=weights)
    return _autograd.deformable_attention(value, sizes, locations, weights)


def _flat_shapes(shapes):
    """Heights and widths one after another."""
    pairs = shapes.tolist() if isinstance(shapes, Tensor) else shapes
    try:
        return [size for height, width in pairs for size in (height, width)]
    except (TypeError, ValueError):
        wanted = "shapes must be a height and a width for each level"
        raise ValueError(f"deformable_attention: {wanted}, got {pairs}") from None


def _logit(operator: str, probability: float) -> float:
    """log(p / (1 - p)), infinite at 0 and 1. Raises ValueError outside [0, 1]."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"{operator}: mask_threshold must be in [0, 1], got {probability}")
    if probability in (0.0, 1.0):
        return math.inf if probability else -math.inf
    return math.log(probability / (1.0 - probability))


def _number(operator, argument, value, numbers):
    """The number that `value` names, else ValueError with the choices."""
    number = numbers.get(value)
    if number is None:
        raise ValueError(f"{operator}: {argument} must be one of {', '.join(numbers)}, got {value!r}")
    return number


def _require_mask_arguments(mask_logits, transferability, queries):
    if mask_logits is None and transferability is None:
        raise ValueError("pack_mask: mask_logits and transferability are both None; give at least one")
    if mask_logits is None and queries is None:
        raise ValueError("pack_mask: queries (N) must be given when mask_logits is None")


def _threshold_tensor(operator, threshold, transferability):
    """The threshold as (B,) float32 beside `transferability`, or None where both are."""
    if (transferability is None) != (threshold is None):
        raise ValueError(f"{operator}: transferability and transfer_threshold must be given together")
    if threshold is None:
        return None
    if isinstance(threshold, Tensor):
        return threshold if threshold.dtype == torch.float32 else threshold.float()
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"{operator}: transfer_threshold must be in [0, 1], got {threshold}")
    return transferability.new_full((transferability.shape[0],), threshold, dtype=torch.float32)
