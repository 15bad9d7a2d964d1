"""Segmentation scores from one confusion matrix over all pixels.

Everything is in percent. Class IoU is tp / (truth + predicted - tp), class accuracy is tp / truth. The headline `miou`
is the mean IoU over the classes present in the ground truth (detectron2's rule); `miou_mmseg` also counts classes that
are absent but predicted, as 0 (mmsegmentation's rule); `miou_all` divides by the number of classes.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict, cast

import torch
from torch import Tensor

from tmt.data.labels import CLASSES, IGNORE
from tmt.runtime.markdown import markdown_table

# Cityscapes classes that SYNTHIA is scored on.
SYNTHIA_16 = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
SYNTHIA_13 = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
HEADLINES = (("miou", "mIoU"), ("fwiou", "fwIoU"), ("macc", "mACC"), ("pacc", "pACC"))


def confusion_matrix(truth: Tensor, prediction: Tensor, classes: int, ignore: int = IGNORE) -> Tensor:
    """Count pixels by (true class, predicted class).

    truth, prediction: integers of one shape (any); pixels whose truth is `ignore` do not count.
    Returns (classes, classes) int64, rows are the truth.
    Raises ValueError when the shapes differ or an id lies outside [0, classes).
    """
    if truth.shape != prediction.shape:
        raise ValueError(
            f"confusion_matrix: truth and prediction must have one shape, got {tuple(truth.shape)} "
            f"and {tuple(prediction.shape)}; resize the prediction to the label"
        )
    valid = truth != ignore
    rows, columns = truth[valid].to(torch.int64), prediction[valid].to(torch.int64)
    _check_ids("truth", rows, classes)
    _check_ids("prediction", columns, classes)
    return torch.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def _check_ids(name: str, ids: Tensor, classes: int) -> None:
    if ids.numel() and (ids.min() < 0 or ids.max() >= classes):
        raise ValueError(
            f"confusion_matrix: {name} must lie in [0, {classes}), got {int(ids.min())} to {int(ids.max())}; "
            f"map labels to train ids first"
        )


class ScoreValues(TypedDict):
    """The fields of `Scores` as JSON values."""

    miou: float | None
    fwiou: float | None
    macc: float | None
    pacc: float | None
    miou_mmseg: float | None
    miou_all: float | None
    miou_16: float | None
    miou_13: float | None
    iou: list[float | None]
    accuracy: list[float | None]
    pixels: list[int]


@dataclass(frozen=True)
class Scores:
    """All scores of one evaluation, in percent; nan where nothing defines the value."""

    miou: float
    """Mean IoU over the classes present in the ground truth: the headline."""
    fwiou: float
    """IoU weighted by the ground truth's pixel counts."""
    macc: float
    """Mean class accuracy over the classes present in the ground truth."""
    pacc: float
    """Share of pixels that are right."""
    miou_mmseg: float
    """Mean IoU where classes that are predicted but absent count as 0."""
    miou_all: float
    """Sum of IoU over all classes, divided by their number."""
    miou_16: float
    """Mean IoU over SYNTHIA's 16 classes that are present (of the 19 Cityscapes classes only)."""
    miou_13: float
    """Mean IoU over SYNTHIA's 13 classes that are present (of the 19 Cityscapes classes only)."""
    iou: tuple[float, ...]
    """IoU per class; nan for a class neither present nor predicted."""
    accuracy: tuple[float, ...]
    """Accuracy per class; nan for a class that is not present."""
    pixels: tuple[int, ...]
    """Ground-truth pixels per class."""

    def to_dict(self) -> ScoreValues:
        """The scores as plain JSON values: nan becomes None."""
        return cast(ScoreValues, {name: _plain(value) for name, value in asdict(self).items()})


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def scores(confusion: Tensor, names: Sequence[str] = ()) -> Scores:
    """Scores of a confusion matrix (K, K) whose rows are the truth; of the classes `names`, where they have names."""
    counts = confusion.to(torch.float64)
    right, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = 100 * right / (truth + predicted - right)  # 0 / 0 = nan: neither present nor predicted
    accuracy = 100 * right / truth
    present, seen = truth > 0, (truth + predicted) > 0
    street = tuple(names) == CLASSES
    return Scores(
        miou=_mean(iou[present]),
        fwiou=float((iou[present] * truth[present]).sum() / truth.sum()),
        macc=_mean(accuracy[present]),
        pacc=float(100 * right.sum() / truth.sum()),
        miou_mmseg=_mean(iou[seen]),
        miou_all=float(iou[seen].sum() / len(iou)),
        miou_16=_mean_over(iou, present, SYNTHIA_16) if street else math.nan,
        miou_13=_mean_over(iou, present, SYNTHIA_13) if street else math.nan,
        iou=tuple(iou.tolist()),
        accuracy=tuple(accuracy.tolist()),
        pixels=tuple(int(count) for count in truth.tolist()),
    )


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else math.nan


def _mean_over(iou: Tensor, present: Tensor, subset: Sequence[int]) -> float:
    index = torch.tensor(subset)
    return _mean(iou[index][present[index]])


def class_table(result: Scores, names: Sequence[str]) -> str:
    """A markdown table, one row per class and the means below, that also reads well as plain text."""
    rows = [
        (name, _percent(iou), _percent(accuracy), f"{pixels}")
        for name, iou, accuracy, pixels in zip(names, result.iou, result.accuracy, result.pixels, strict=True)
    ]
    rows.append(("mean over present", _percent(result.miou), _percent(result.macc), f"{sum(result.pixels)}"))
    return markdown_table(("class", "IoU", "acc", "pixels"), rows)


def score_table(result: Scores) -> str:
    """A markdown table of the means, the headline first, each with the convention it follows."""
    classes = len(result.iou)
    rows = [
        ("mIoU (headline)", result.miou, "classes present in the ground truth; detectron2"),
        (
            "mIoU, absent classes too",
            result.miou_mmseg,
            "predicted but absent ones count 0; mmsegmentation, Cityscapes",
        ),
        (f"mIoU over all {classes}", result.miou_all, f"sum of IoU / {classes}"),
    ]
    if not math.isnan(result.miou_16):
        rows.append(("mIoU, SYNTHIA 16", result.miou_16, "without terrain, truck, train"))
        rows.append(("mIoU, SYNTHIA 13", result.miou_13, "without wall, fence and pole either"))
    rows += [
        ("fwIoU", result.fwiou, "IoU weighted by ground-truth pixels"),
        ("mACC", result.macc, "class accuracy over classes present"),
        ("pACC", result.pacc, "share of pixels that are right"),
    ]
    return markdown_table(("score", "%", "over"), [(name, _percent(value), over) for name, value, over in rows])


def summary_line(result: Scores) -> str:
    """The headline scores and the other mIoU conventions on one line."""
    parts = [f"{title} {_percent(getattr(result, name))}" for name, title in HEADLINES]
    others = f"mIoU mmseg {_percent(result.miou_mmseg)}, all {_percent(result.miou_all)}"
    if not math.isnan(result.miou_16):
        others += f", SYNTHIA-16 {_percent(result.miou_16)}, SYNTHIA-13 {_percent(result.miou_13)}"
    return "  ".join(parts) + f"  ({others})"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
