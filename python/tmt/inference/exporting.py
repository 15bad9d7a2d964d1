"""A model as one file that runs without this package: a program of `torch.export`, or an ONNX graph.

Both are traced from the operators' plain PyTorch form (`tmt_ext.plain_torch`), with images of one size or of any.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config
from transformers import PreTrainedConfig

import tmt_ext
from tmt import __version__
from tmt.errors import TMTError, reason_of
from tmt.model import Queries, TMTForSemanticSegmentation, present
from tmt.model.factory import label_set_of
from tmt.model.free_size import free_size
from tmt.settings import ExportConfig

symbols: Any = _config
"""How tracing treats sizes that are free."""
INPUT = "pixel_values"
OUTPUTS = ("class_queries_logits", "masks_queries_logits", "prediction")
METADATA = "tmt.json"
"""The file within a torch program's file that holds its metadata."""
MOST = 1024
"""Images in a batch, at most, where their number is free: exporters want a bound."""
STEP = 32
"""Where the size is free, height and width are multiples of this."""
SMALLEST, LARGEST = 2 * STEP, 128 * STEP
"""Of a height or width that is free; one of `STEP` alone would be taken for fixed."""


@dataclass(frozen=True)
class Shape:
    """What a file takes: (B, 3, H, W) float32."""

    size: tuple[int, int]
    """H, W; where they are free, those that the file is traced with."""
    batch: int
    """B; where it is free, the number of images that the file is traced and checked with."""
    free: Literal["batch", "size"] | None = None

    @classmethod
    def of(cls, config: ExportConfig) -> "Shape":
        """The shape of a command; a batch that is free is traced with two images, as one would be taken for fixed."""
        batch = max(2, config.batch) if config.dynamic == "batch" else config.batch
        return cls(config.size, batch, config.dynamic)

    @property
    def any_size(self) -> bool:
        """Whether H and W are free."""
        return self.free == "size"

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Of the images that a file is checked with: where H and W are free, also turned, and a little larger."""
        height, width = self.size
        larger = (min(height + STEP, LARGEST), min(width + STEP, LARGEST))
        return tuple(dict.fromkeys([self.size, (width, height), larger])) if self.any_size else (self.size,)

    def example(self, channels: int) -> Tensor:
        """Images to trace with, (B, channels, H, W) float32."""
        return torch.zeros(self.batch, channels, *self.size)

    @property
    def dynamic(self) -> dict[str, Any] | None:
        """Free dimensions as `torch.export` wants them."""
        if self.free is None:
            return None
        if self.free == "batch":
            return {INPUT: {0: Dim("batch", min=1, max=MOST)}}
        rows, columns = (Dim(name, min=SMALLEST // STEP, max=LARGEST // STEP) for name in ("rows", "columns"))
        return {INPUT: {2: STEP * rows, 3: STEP * columns}}


class Segmenting(nn.Module):
    """A model from pixels to tensors under the names of `OUTPUTS`."""

    def __init__(self, model: TMTForSemanticSegmentation, any_size: bool = False):
        super().__init__()
        self.model = model
        self.any_size = any_size

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixel_values (B, 3, H, W) -> logits (B, Q, K + 1) and (B, Q, H / 4, W / 4), and labels (B, H, W) int64."""
        pixels = _in_steps(pixel_values) if self.any_size else pixel_values
        outputs = self.model(pixel_values=pixels)
        logits = present(outputs.class_queries_logits), present(outputs.masks_queries_logits)
        queries, size = Queries.of(*logits), (pixels.shape[2], pixels.shape[3])
        return *logits, queries.scores(0, size[0], size).argmax(1) if self.any_size else label_map(queries, size)


def _in_steps(pixels: Tensor) -> Tensor:
    """pixels (B, C, H, W) as they are: but tracing sees multiples of `STEP`, so that no map's size is rounded."""
    return pixels.unflatten(3, (-1, STEP)).unflatten(2, (-1, STEP)).flatten(2, 3).flatten(3, 4)


def label_map(queries: Queries, size: tuple[int, int]) -> Tensor:
    """The class of the largest score at each pixel, (B, H, W) int64: a whole image in one pass, as `tmt.predict`."""
    rows = queries.image(0).strip(size[1])  # of one image: a batch that is free has no number to divide by
    strips = [(top, min(top + rows, size[0])) for top in range(0, size[0], rows)]
    return torch.cat([queries.scores(top, bottom, size).argmax(1) for top, bottom in strips], 1)


@torch.no_grad()
def trace(model: TMTForSemanticSegmentation, shape: Shape) -> ExportedProgram:
    """The program of a frozen model on the CPU, without operators of ours.

    Raises TMTError where the size shall be free and the backbone fixes it.
    """
    program, example = Segmenting(model, shape.any_size).eval(), (shape.example(model.channels),)
    with tmt_ext.plain_torch(), _quiet():
        if not shape.any_size:
            return torch.export.export(program, example, dynamic_shapes=shape.dynamic)
        try:
            with free_size(model), symbols.patch(backed_size_oblivious=True):  # nor is one row of a map looked for
                traced = torch.export.export(program, example, dynamic_shapes=shape.dynamic)
            _try_sizes(traced, shape, model.channels)
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            backbone = cast(PreTrainedConfig, model.config.backbone_config).model_type
            raise TMTError(
                f"dynamic: the backbone {backbone} cannot be recorded for every size ({reason_of(error)}); leave "
                "--dynamic out and export a file for each --size"
            ) from error
    return traced


def _try_sizes(program: ExportedProgram, shape: Shape, channels: int) -> None:
    """Raise AssertionError for a height or width that a program refuses, as it was traced with others."""
    guards: Any = getattr(program.module(), "_guards_fn", None)  # asked alone: to run all of it would take minutes
    for side in range(SMALLEST, LARGEST + 1, STEP) if guards else ():
        for size in ((side, shape.size[1]), (shape.size[0], side)):
            guards(torch.empty(shape.batch, channels, *size, device="meta"))


def metadata(model: TMTForSemanticSegmentation, shape: Shape) -> dict[str, Any]:
    """What a file says of itself.

    mean, deviation: of the channels of pixels 0..255, for `(pixel - mean) / deviation`; classes: the names of the
    labels; size: (H, W), none where they are free; multiple: what H and W must be a multiple of then, else none; batch:
    the number of images, none where it is free; transferability: whether T is in it.
    """
    mean, deviation = model.scaling.of_8_bit()
    return {
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "classes": list(label_set_of(model).names),
        "size": None if shape.any_size else list(shape.size),
        "multiple": STEP if shape.any_size else None,
        "batch": None if shape.free == "batch" else shape.batch,
        "transferability": model.config.settings.infers_with_transferability,
        "version": __version__,
    }


def save_torch(program: ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    """Write a .pt2 file, its metadata as JSON in the file `METADATA` within."""
    with _quiet():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(facts)})


@torch.no_grad()
def save_onnx(program: ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    """Write an ONNX file, its metadata as JSON, an entry each, in `metadata_props`; needs onnx and onnxscript."""
    with _quiet():
        graph = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=list(OUTPUTS))
        assert graph is not None
        graph.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
        graph.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of packages that are not needed and of nodes that they leave as they are."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
