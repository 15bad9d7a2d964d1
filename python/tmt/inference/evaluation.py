"""Scores of a model on a dataset, at the labels' resolution, every image counted once over all processes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tmt.data import Dataset, eval_batches
from tmt.inference.metrics import Scores, class_table, confusion_matrix, score_table, scores, summary_line
from tmt.inference.sliding_window import WHOLE, segment
from tmt.runtime.distributed import World
from tmt.settings import InferenceConfig


@dataclass(frozen=True)
class Attention:
    """How the decoder's masked attention behaved, averaged over images; one value a layer."""

    allowed_fraction: list[float]
    fallback_rate: list[float]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one dataset."""

    scores: Scores
    names: tuple[str, ...]
    images: int
    attention: Attention

    def tables(self) -> str:
        """The scores of every class and every mean, as markdown that reads well as plain text."""
        return f"{class_table(self.scores, self.names)}\n\n{score_table(self.scores)}"

    def headline(self) -> str:
        """The scores on one line."""
        return summary_line(self.scores)

    def to_dict(self) -> dict[str, object]:
        """JSON values; `score` is the mIoU."""
        return {
            "score": self.scores.to_dict()["miou"] or 0.0,
            "images": self.images,
            "classes": list(self.names),
            **self.scores.to_dict(),
            "allowed_fraction": self.attention.allowed_fraction,
            "fallback_rate": self.attention.fallback_rate,
        }


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    world: World,
    inference: InferenceConfig = WHOLE,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Evaluate a segmentation model of the dataset's classes, left in the mode it came in.

    model: `TMTForSemanticSegmentation`. Returns the same on all processes; None when `stopped` on any of them.
    """
    training = model.training
    model.eval()
    sums = _evaluate_share(model, dataset, world, inference, stopped)
    model.train(training)
    if sums is None:
        return None
    confusion, attention = (world.sum(part).cpu() for part in sums)
    names, mean = dataset.label_set.names, attention / len(dataset)
    return Evaluation(scores(confusion, names), names, len(dataset), Attention(*mean.tolist()))


def _evaluate_share(
    model: nn.Module, dataset: Dataset, world: World, inference: InferenceConfig, stopped: Callable[[], bool]
) -> tuple[Tensor, Tensor] | None:
    """Sums over this process's images: confusion matrix (K, K), and (2, layers) as in `Segmentation.behaviour`."""
    common = len(dataset) // world.size  # images that every process has at least
    classes = len(dataset.label_set)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    attention = torch.zeros(2, model.config.decoder_layers - 1, dtype=torch.float64)
    quiet = not world.main or not sys.stderr.isatty()
    batches = eval_batches(dataset, world.rank, world.size)
    for i, batch in enumerate(tqdm(batches, "evaluate", common, leave=False, mininterval=5, disable=quiet)):
        if i < common and asked_to_stop(world, stopped()):
            return None
        found = segment(model, batch["pixel_values"].to(world.device), inference)
        truth = batch["labels"][0].to(world.device)  # (H, W), the image's size
        confusion += confusion_matrix(truth, found.prediction(), classes).cpu()
        attention += found.behaviour
    return confusion, attention


def asked_to_stop(world: World, stopped: bool) -> bool:
    """Whether any process was asked to stop; all processes must call it together."""
    return bool(world.sum(torch.tensor([float(stopped)])).item())
