"""Scores of a model on a dataset, at the labels' resolution, every image counted once over all processes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from tmt.data import CLASSES, Dataset, eval_batches
from tmt.engine.distributed import World
from tmt.metrics import Scores, confusion_matrix, scores, summary_line


@dataclass(frozen=True)
class Attention:
    """How the decoder's masked attention behaved, averaged over images; one value a layer."""

    allowed_fraction: list[float]
    fallback_rate: list[float]


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one dataset."""

    scores: Scores
    images: int
    attention: Attention

    def headline(self) -> str:
        """The scores on one line."""
        return summary_line(self.scores)

    def to_dict(self) -> dict[str, object]:
        """JSON values; `score` is the mIoU."""
        return {
            "score": self.scores.to_dict()["miou"] or 0.0,
            "images": self.images,
            **self.scores.to_dict(),
            "allowed_fraction": self.attention.allowed_fraction,
            "fallback_rate": self.attention.fallback_rate,
        }


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: Dataset, world: World, stopped: Callable[[], bool] = lambda: False
) -> Evaluation | None:
    """Evaluate a segmentation model, left in the mode it came in.

    model: `TMTForSemanticSegmentation`. Returns the same on all processes; None when `stopped` on any of them.
    """
    training = model.training
    model.eval()
    sums = _evaluate_share(model, dataset, world, stopped)
    model.train(training)
    if sums is None:
        return None
    confusion, attention = (world.sum(part).cpu() for part in sums)
    return Evaluation(scores(confusion), len(dataset), Attention(*(attention / len(dataset)).tolist()))


def _evaluate_share(
    model: nn.Module, dataset: Dataset, world: World, stopped: Callable[[], bool]
) -> tuple[Tensor, Tensor] | None:
    """Sums over this process's images: confusion matrix (K, K), and (2, layers) as in `_evaluate_one`."""
    common = len(dataset) // world.size  # images that every process has at least
    confusion = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64)
    attention = torch.zeros(2, 1, dtype=torch.float64)
    quiet = not world.main or not sys.stderr.isatty()
    batches = eval_batches(dataset, world.rank, world.size)
    for i, batch in enumerate(tqdm(batches, "evaluate", common, leave=False, mininterval=5, disable=quiet)):
        if i < common and asked_to_stop(world, stopped()):
            return None
        counts, behaviour = _evaluate_one(model, batch, world.device)
        confusion, attention = confusion + counts, attention + behaviour
    return confusion, attention


def asked_to_stop(world: World, stopped: bool) -> bool:
    """Whether any process was asked to stop; all processes must call it together."""
    return bool(world.sum(torch.tensor([float(stopped)])).item())


def _evaluate_one(model: nn.Module, batch: dict[str, object], device: torch.device) -> tuple[Tensor, Tensor]:
    """Confusion matrix (K, K) of one image, and per layer (2, layers) the allowed fraction and the fallback rate."""
    outputs = model(pixel_values=batch["pixel_values"].to(device))
    truth = batch["labels"].to(device)  # (1, H, W)
    prediction = model.semantic_probabilities(outputs, truth.shape[-2:]).argmax(1)
    behaviour = torch.stack([outputs.allowed_fraction, outputs.fallback_rate]).double().cpu()
    return confusion_matrix(truth, prediction, len(CLASSES)).cpu(), behaviour
