"""Scores of a model on a dataset, at the labels' resolution, every image counted once over all processes."""

import sys
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from tmt.data import Dataset, eval_batches, require_classes
from tmt.inference.metrics import Scores, ScoreValues, class_table, confusion_matrix, score_table, scores, summary_line
from tmt.inference.sliding_window import WHOLE, segment
from tmt.model import TMTForSemanticSegmentation
from tmt.runtime.distributed import World
from tmt.runtime.signals import Stop
from tmt.settings import InferenceConfig


class EvaluationValues(ScoreValues):
    """What files keep of an evaluation, JSON values."""

    score: float  # the mIoU
    images: int
    classes: list[str]
    allowed_fraction: list[float]  # of each layer's masked attention, mean over images
    fallback_rate: list[float]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one dataset."""

    scores: Scores
    names: tuple[str, ...]
    images: int
    allowed_fraction: list[float]
    """Of each decoder layer's masked attention, mean over images."""
    fallback_rate: list[float]

    def tables(self) -> str:
        """The scores of every class and every mean, as markdown that reads well as plain text."""
        return f"{class_table(self.scores, self.names)}\n\n{score_table(self.scores)}"

    def headline(self) -> str:
        """The scores on one line."""
        return summary_line(self.scores)

    def to_dict(self) -> EvaluationValues:
        """JSON values; `score` is the mIoU."""
        values = self.scores.to_dict()
        return {
            "score": self.scores.miou,
            "images": self.images,
            "classes": list(self.names),
            **values,
            "allowed_fraction": self.allowed_fraction,
            "fallback_rate": self.fallback_rate,
        }


def evaluate(
    model: TMTForSemanticSegmentation,
    dataset: Dataset,
    world: World,
    inference: InferenceConfig = WHOLE,
    stop: Stop | None = None,
) -> Evaluation:
    """Evaluate a segmentation model of the dataset's classes, left in the mode it came in.

    Returns the same on all processes; raises Interrupted on all where any of them was asked to stop, and TMTError for
    an image whose scores are not finite.
    """
    require_classes(dataset, "evaluate")
    training = model.training
    model.eval()
    try:
        sums = _evaluate_share(model, dataset, world, inference, stop or Stop())
    finally:
        model.train(training)
    confusion, attention = (world.sum(part).cpu() for part in sums)
    names, mean = dataset.label_set.names, attention / len(dataset)
    result = Evaluation(scores(confusion, names), names, len(dataset), *mean.tolist())
    if world.main:
        _warn_of_one_class(result)
    return result


def _warn_of_one_class(result: Evaluation) -> None:
    present = [name for name, pixels in zip(result.names, result.scores.pixels, strict=True) if pixels]
    if len(present) == 1:
        text = f"all labels are of class {present[0]}, the mIoU is its IoU alone; label what else there is"
        warnings.warn(f"evaluate: {text}", stacklevel=3)


def _evaluate_share(
    model: TMTForSemanticSegmentation, dataset: Dataset, world: World, inference: InferenceConfig, stop: Stop
) -> tuple[Tensor, Tensor]:
    """Sums over this process's images: confusion matrix (K, K), and (2, layers) as in `Segmentation.behaviour`."""
    common = len(dataset) // world.size  # images that every process has at least
    classes = len(dataset.label_set)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    attention = torch.zeros(2, model.config.decoder_layers - 1, dtype=torch.float64)
    quiet = not world.main or not sys.stderr.isatty()
    batches = eval_batches(dataset, world.rank, world.size, model.scaling)
    for i, batch in enumerate(tqdm(batches, "evaluate", common, leave=False, mininterval=5, disable=quiet)):
        if i < common:
            world.leave_if_asked(stop, "while evaluating")
        found = segment(model, batch["pixel_values"].to(world.device), inference, name=batch["names"][0])
        truth = batch["labels"][0].to(world.device)  # (H, W), the image's size
        confusion += confusion_matrix(truth, found.prediction, classes).cpu()
        attention += found.behaviour
    return confusion, attention
