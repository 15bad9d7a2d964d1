"""A model as one file that runs without this package: a program of `torch.export`, or an ONNX graph.

Both are traced from the operators' plain PyTorch form (`tmt_ext.plain_torch`), at one size of the images.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import tmt_ext
from tmt import __version__
from tmt.model import Queries, TMTForSemanticSegmentation, present
from tmt.model.factory import label_set_of
from tmt.settings import ExportConfig

INPUT = "pixel_values"
OUTPUTS = ("class_queries_logits", "masks_queries_logits", "prediction")
METADATA = "tmt.json"
"""The file within a torch program's file that holds its metadata."""
MOST = 1024
"""Images in a batch, at most, where their number is free: exporters want a bound."""


@dataclass(frozen=True)
class Shape:
    """What a file takes: (B, 3, H, W) float32."""

    size: tuple[int, int]
    """H, W."""
    batch: int
    """B; where `free`, the number of images that it is traced and checked with."""
    free: bool

    @classmethod
    def of(cls, config: ExportConfig) -> "Shape":
        """The shape of a command; a batch that is free is traced with two images, as one would be taken for fixed."""
        free = config.dynamic == "batch"
        return cls(config.size, max(2, config.batch) if free else config.batch, free)

    def example(self, channels: int) -> Tensor:
        """Images to trace with, (B, channels, H, W) float32."""
        return torch.zeros(self.batch, channels, *self.size)

    @property
    def dynamic(self) -> dict[str, Any] | None:
        """Free dimensions as `torch.export` wants them."""
        return {INPUT: {0: Dim("batch", min=1, max=MOST)}} if self.free else None


class Segmenting(nn.Module):
    """A model from pixels to tensors under the names of `OUTPUTS`."""

    def __init__(self, model: TMTForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixel_values (B, 3, H, W) -> logits (B, Q, K + 1) and (B, Q, H / 4, W / 4), and labels (B, H, W) int64."""
        outputs = self.model(pixel_values=pixel_values)
        logits = present(outputs.class_queries_logits), present(outputs.masks_queries_logits)
        height, width = pixel_values.shape[-2:]
        return *logits, label_map(Queries.of(*logits), (height, width))


def label_map(queries: Queries, size: tuple[int, int]) -> Tensor:
    """The class of the largest score at each pixel, (B, H, W) int64: a whole image in one pass, as `tmt.predict`."""
    rows = queries.image(0).strip(size[1])  # of one image: a batch that is free has no number to divide by
    strips = [(top, min(top + rows, size[0])) for top in range(0, size[0], rows)]
    return torch.cat([queries.scores(top, bottom, size).argmax(1) for top, bottom in strips], 1)


@torch.no_grad()
def trace(model: TMTForSemanticSegmentation, shape: Shape) -> ExportedProgram:
    """The program of a frozen model on the CPU, without operators of ours."""
    with tmt_ext.plain_torch(), _quiet():
        return torch.export.export(
            Segmenting(model).eval(), (shape.example(model.channels),), dynamic_shapes=shape.dynamic
        )


def metadata(model: TMTForSemanticSegmentation, shape: Shape) -> dict[str, Any]:
    """What a file says of itself.

    mean, deviation: of the channels of pixels 0..255, for `(pixel - mean) / deviation`; classes: the names of the
    labels; size: (H, W); batch: the number of images, none where it is free; transferability: whether T is in it.
    """
    mean, deviation = model.scaling.of_8_bit()
    return {
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "classes": list(label_set_of(model).names),
        "size": list(shape.size),
        "batch": None if shape.free else shape.batch,
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
