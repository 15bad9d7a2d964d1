"""What an exported file predicts, compared with the model that it was made of."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from tmt.data import Scaling, normalise
from tmt.errors import TMTError
from tmt.inference.exporting import INPUT, OUTPUTS, Shape
from tmt.inference.sliding_window import segment_batch
from tmt.model import TMTForSemanticSegmentation
from tmt.settings import InferenceConfig
from tmt.synthetic import DOMAINS, render

EQUAL = 0.999
"""Share of all pixels whose labels must be the model's."""

Run = Callable[[Tensor], Tensor]
"""From pixels (B, 3, H, W) to labels (B, H, W) int64."""


def run_torch(path: Path) -> Run:
    """A .pt2 file as it is loaded anywhere."""
    program = torch.export.load(path).module()
    return lambda pixels: program(pixels)[OUTPUTS.index("prediction")]


def run_onnx(path: Path) -> Run:
    """An ONNX file in ONNX Runtime, on the CPU."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(["prediction"], {INPUT: pixels.numpy()})[0])


def batches(shape: Shape, images: int, scaling: Scaling) -> Iterator[Tensor]:
    """At least so many drawn scenes of all domains in turn, (B, 3, H, W); where B is free, a last one alone, too."""
    domains = sorted(DOMAINS)
    full = math.ceil(images / (shape.batch * len(shape.sizes)))
    first = 0
    for size in shape.sizes:
        for count in [shape.batch] * full + [1] * (shape.free == "batch"):
            scenes = [render(domains[i % len(domains)], 0, i, size)[0] for i in range(first, first + count)]
            yield torch.stack([normalise(scene, scaling) for scene in scenes])
            first += count


@torch.no_grad()
def check(path: Path, run: Run, model: TMTForSemanticSegmentation, shape: Shape, images: int) -> float:
    """The share of pixels with the same label as by the model and its compiled operators, mean over the images.

    Raises TMTError below `EQUAL`; `path` is what the message calls the file.
    """
    own_size, shares = InferenceConfig(height=0), []
    for pixels in batches(shape, images, model.scaling):
        expected = segment_batch(model, pixels, [f"scene {i}" for i in range(len(pixels))], own_size)
        labels = torch.stack([one.prediction for one in expected])
        shares += (run(pixels) == labels).double().mean((1, 2)).tolist()
    share = sum(shares) / len(shares)
    if share < EQUAL:
        raise TMTError(
            f"{path}: at least {EQUAL:.1%} of the pixels must get the model's label, got {share:.2%} of {len(shares)} "
            "images; nothing was written: labels of a model that is hardly trained hang on rounding, train it on"
        )
    return share
