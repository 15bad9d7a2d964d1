"""How a backbone is used: which of its maps, what size of image it needs, and which of its weights are of no use.

Found by a dry run on torch's meta device, where nothing is computed and no random number drawn.
"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone

from tmt.errors import ConfigError, reason_of

STRIDES = (4, 8, 16, 32)
"""Of the maps that the pixel decoder takes."""
NEAR = (0.8, 1.25)
"""How much smaller or larger than one of the strides a plain transformer's may be."""
PROBE = (2049, 2081)
"""Height and width of the dry run's image: no stride divides them, and rounding up or down gives different maps."""


@dataclass(frozen=True)
class Layout:
    """How a backbone is used."""

    features: tuple[str, ...]
    """Names of the maps that are taken, finest first; one only where all have one stride."""
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    multiple: tuple[int, int]
    """Images are padded to a multiple of this height and width."""
    tiled: bool
    """Whether the backbone takes images of that one size only, so that larger ones are seen in tiles."""
    unused: frozenset[str]
    """Parameters that none of these maps depends on."""

    @property
    def plain(self) -> bool:
        """Whether it has one stride, as plain vision transformers do."""
        return len(self.features) == 1


def layout_of(config: Any) -> Layout:
    """The layout of the backbone that a transformers configuration describes.

    `out_features` are kept where they are maps at strides 4, 8, 16 and 32; else the last map of each stride is taken.

    Raises:
        ConfigError: no such backbone, none that runs, or one whose maps lie at other strides.
    """
    return _layout_of(type(config), config.to_json_string(use_diff=False))


@lru_cache(maxsize=32)
@torch.inference_mode(False)
@torch.enable_grad()  # whoever asks first: without a graph every weight would seem unused
def _layout_of(kind: type, saved: str) -> Layout:
    config = kind.from_dict(json.loads(saved))
    given = _Run.of(config, config.out_features)
    if given.strides == STRIDES:
        return given.layout()
    every = _Run.of(config, _all_features(config))
    if len(set(every.strides)) == 1:
        nominal_stride(every.strides[0])
        return _Run.of(config, config.out_features[-1:]).layout()
    last = dict(zip(every.strides, every.features, strict=True))
    if not set(STRIDES) <= last.keys():
        raise ConfigError(
            f"model.backbone: maps must lie at strides 4, 8, 16 and 32, or all at one stride, got "
            f"{', '.join(map(str, sorted(last)))} of {config.model_type}; choose another backbone"
        )
    return _Run.of(config, [last[stride] for stride in STRIDES]).layout()


def nominal_stride(patch: int) -> int:
    """The stride that a plain transformer's patch is taken for; raises ConfigError where it is too far from all."""
    nominal = min(STRIDES, key=lambda stride: abs(math.log2(patch / stride)))
    if not NEAR[0] <= patch / nominal <= NEAR[1]:
        raise ConfigError(
            f"model.backbone: a plain transformer's patch must lie within {NEAR[0]} to {NEAR[1]} times one of "
            f"{', '.join(map(str, STRIDES))} pixels, got {patch}; choose one of another patch"
        )
    return nominal


def _all_features(config: Any) -> list[str]:
    """Every map that a backbone can give; some have none of their stem."""
    try:
        _build(config, config.stage_names)
    except ValueError:
        return list(config.stage_names[1:])
    return list(config.stage_names)


def _build(config: Any, features: Sequence[str]) -> nn.Module:
    """The backbone on the meta device, to give these maps."""
    config = copy.deepcopy(config)
    config.out_features = list(features)
    with torch.device("meta"):
        return AutoBackbone.from_config(config).eval()


@dataclass(frozen=True)
class _Run:
    """What a dry run found."""

    features: tuple[str, ...]
    maps: tuple[Tensor, ...]
    size: tuple[int, int]  # of the image
    tiled: bool
    backbone: nn.Module

    @classmethod
    def of(cls, config: Any, features: Sequence[str]) -> "_Run":
        """Run on an image of odd size, else on one of the only size that the backbone takes."""
        kind = config.model_type
        try:
            backbone = _build(config, features)
        except (ImportError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"model.backbone: {kind} cannot be built: {reason_of(error)}") from error
        failure: Exception | None = None
        for size in (PROBE, _own_size(config)):
            image = torch.empty(1, getattr(config, "num_channels", 3), *size, device="meta")
            try:
                with torch.device("meta"):
                    maps = tuple(backbone(image).feature_maps)
                return cls(tuple(features), maps, size, size != PROBE, backbone)
            except (RuntimeError, ValueError, AssertionError) as error:
                failure = failure or error
        raise ConfigError(f"model.backbone: {kind} cannot be run on an image: {reason_of(failure)}") from failure

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each map; raises ConfigError where its two sides differ."""
        return tuple(self._stride(one) for one in self.maps)

    def _stride(self, one: Tensor) -> int:
        down, across = (round(side / count) for side, count in zip(self.size, one.shape[2:], strict=True))
        if down != across:
            raise ConfigError(f"model.backbone: maps must have one stride, got one of {down} down and {across} across")
        return down

    def layout(self) -> Layout:
        rounds_up = all(
            one.shape[2:] == covering(self.size, stride) for one, stride in zip(self.maps, self.strides, strict=True)
        )
        step = 1 if rounds_up else max(self.strides)
        multiple = self.size if self.tiled else (step, step)
        channels = tuple(one.shape[1] for one in self.maps)
        return Layout(self.features, channels, self.strides, multiple, self.tiled, self._unused())

    def _unused(self) -> frozenset[str]:
        reached = reached_by(self.maps)
        return frozenset(name for name, weight in self.backbone.named_parameters() if id(weight) not in reached)


def _own_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or 224
    return (size, size) if isinstance(size, int) else (size[-2], size[-1])


def reached_by(results: Sequence[Tensor]) -> set[int]:
    """The identities of the leaves that a backward pass from these results would reach, found without one."""
    open_, seen, leaves = [result.grad_fn for result in results], set(), set()
    while open_:
        node: Any = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        open_ += [follower for follower, _ in node.next_functions]
    return leaves


def covering(size: Sequence[int], stride: int) -> tuple[int, int]:
    """Height and width of a map at a stride that covers an image of this size."""
    return (size[0] + stride - 1) // stride, (size[1] + stride - 1) // stride  # ONNX rounds towards zero


def maps_of(backbone: nn.Module, layout: Layout, pixels: Tensor) -> tuple[Tensor, ...]:
    """pixels (B, C, H, W) -> the backbone's maps, each (B, C_i, ceil(H / stride), ceil(W / stride)).

    A plain transformer's one map covers the whole padded image.
    """
    if layout.multiple == (1, 1):
        return tuple(backbone(pixels).feature_maps)
    size = pixels.shape[2:]
    padded = _padded(pixels, layout.multiple)
    maps = _by_tiles(backbone, padded, layout.multiple) if layout.tiled else backbone(padded).feature_maps
    if layout.plain:
        return tuple(maps)
    wanted = (covering(size, stride) for stride in layout.strides)
    return tuple(one[..., :height, :width] for one, (height, width) in zip(maps, wanted, strict=True))


def _padded(pixels: Tensor, multiple: tuple[int, int]) -> Tensor:
    """Zeros, the mean of normalised pixels, below and to the right."""
    down, across = (-side % step for side, step in zip(pixels.shape[2:], multiple, strict=True))
    return F.pad(pixels, (0, across, 0, down)) if down or across else pixels


def _by_tiles(backbone: nn.Module, pixels: Tensor, tile: tuple[int, int]) -> list[Tensor]:
    """Maps of pixels (B, C, rows * h, columns * w), seen in tiles of (h, w)."""
    rows, columns = pixels.shape[2] // tile[0], pixels.shape[3] // tile[1]
    tiles = pixels.unflatten(3, (columns, tile[1])).unflatten(2, (rows, tile[0]))  # (B, C, rows, h, columns, w)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    maps = (one.unflatten(0, (-1, rows, columns)) for one in backbone(tiles).feature_maps)
    return [one.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3) for one in maps]
