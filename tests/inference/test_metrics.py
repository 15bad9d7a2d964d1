"""Scores against values worked out by hand and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics import classification

from tmt.data import CLASSES
from tmt.inference import metrics


def fixture_confusion() -> torch.Tensor:
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    confusion[0, :3] = torch.tensor([40, 5, 5])
    confusion[1, :2] = torch.tensor([6, 24])
    return confusion


def pixels_of(confusion: torch.Tensor, ignored: int) -> tuple[torch.Tensor, torch.Tensor]:
    cells = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat_interleave(confusion.flatten(), dim=0)
    truth = torch.cat([cells[:, 0], torch.full((ignored,), 255)])
    prediction = torch.cat([cells[:, 1], torch.arange(ignored) % 4])
    return truth, prediction


def random_labels(seed: int, present: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, present, (3, 32, 48), generator=generator)
    noise = torch.randint(0, 19, truth.shape, generator=generator)
    prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, noise)
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = 255
    return truth, prediction


def test_fixture_from_pixels() -> None:
    truth, prediction = pixels_of(fixture_confusion(), ignored=20)
    confusion = metrics.confusion_matrix(truth, prediction, 4)
    assert torch.equal(confusion, fixture_confusion())
    result = metrics.scores(confusion)
    assert result.iou[:3] == pytest.approx((71.4286, 68.5714, 0.0), abs=1e-3)
    assert math.isnan(result.iou[3]) and math.isnan(result.accuracy[2])
    assert result.miou == pytest.approx(70.0)
    assert result.miou_mmseg == pytest.approx(46.6667, abs=1e-3)
    assert result.miou_all == pytest.approx(35.0)
    assert result.fwiou == pytest.approx(70.357, abs=1e-3)
    assert result.macc == pytest.approx(80.0) and result.pacc == pytest.approx(80.0)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_torchmetrics(seed: int) -> None:
    truth, prediction = random_labels(seed, present=19)
    result = metrics.scores(metrics.confusion_matrix(truth, prediction, 19))
    options = {"num_classes": 19, "ignore_index": 255}
    iou = classification.MulticlassJaccardIndex(average="none", **options)(prediction, truth)
    accuracy = classification.MulticlassAccuracy(average="macro", **options)(prediction, truth)
    pixel = classification.MulticlassAccuracy(average="micro", **options)(prediction, truth)
    weighted = classification.MulticlassJaccardIndex(average="weighted", **options)(prediction, truth)
    assert result.iou == pytest.approx((100 * iou).tolist(), abs=1e-4)
    assert result.miou == pytest.approx(100 * float(iou.mean()), abs=1e-4)
    assert result.macc == pytest.approx(100 * float(accuracy), abs=1e-4)
    assert result.pacc == pytest.approx(100 * float(pixel), abs=1e-4)
    assert result.fwiou == pytest.approx(100 * float(weighted), abs=1e-4)


def test_synthia_subsets_leave_out_what_synthia_lacks() -> None:
    truth, prediction = random_labels(0, present=19)
    confusion = metrics.confusion_matrix(truth, prediction, 19)
    result = metrics.scores(confusion, CLASSES)
    sixteen = [value for i, value in enumerate(result.iou) if i not in (9, 14, 16)]
    thirteen = [value for i, value in enumerate(result.iou) if i not in (3, 4, 5, 9, 14, 16)]
    assert result.miou_16 == pytest.approx(sum(sixteen) / 16)
    assert result.miou_13 == pytest.approx(sum(thirteen) / 13)
    other = metrics.scores(confusion, [f"thing {i}" for i in range(19)])
    assert math.isnan(other.miou_16) and math.isnan(other.miou_13) and other.miou == result.miou


def test_absent_classes_do_not_count_in_the_headline() -> None:
    truth, prediction = random_labels(1, present=12)
    result = metrics.scores(metrics.confusion_matrix(truth, prediction, 19))
    assert result.miou == pytest.approx(sum(result.iou[:12]) / 12)
    assert result.miou_mmseg == pytest.approx(sum(result.iou[:12]) / 19)


def test_matrices_add_up() -> None:
    truth, prediction = random_labels(2, present=19)
    parts = sum(metrics.confusion_matrix(t, p, 19) for t, p in zip(truth, prediction, strict=True))
    assert torch.equal(parts, metrics.confusion_matrix(truth, prediction, 19))


def test_uint8_labels_do_not_overflow() -> None:
    truth = torch.full((4, 4), 18, dtype=torch.uint8)
    assert metrics.confusion_matrix(truth, truth, 19)[18, 18] == 16


def test_bad_ids_and_shapes_are_named() -> None:
    label = torch.tensor([[33]])
    with pytest.raises(ValueError, match=r"truth must lie in \[0, 19\), got 33"):
        metrics.confusion_matrix(label, torch.zeros_like(label), 19)
    with pytest.raises(ValueError, match="one shape"):
        metrics.confusion_matrix(torch.zeros(2, 3), torch.zeros(3, 2), 19)


def test_json_has_no_nan_and_table_names_every_class() -> None:
    result = metrics.scores(fixture_confusion())
    plain = result.to_dict()
    assert plain["iou"][3] is None and plain["miou_16"] is None
    table = metrics.class_table(result, ("road", "pole", "sky", "car"))
    assert all(name in table for name in ("road", "pole", "sky", "car", "mean over present"))
    assert len({len(line) for line in table.splitlines()}) == 1
    assert "mIoU 70.00" in metrics.summary_line(result)
    means = metrics.score_table(result)
    assert "| mIoU (headline)          | 70.00 |" in means and "SYNTHIA" not in means
    assert "46.67" in means and "| mIoU over all 4          | 35.00 |" in means and "70.36" in means


def test_nothing_labelled_gives_nan_not_an_error() -> None:
    result = metrics.scores(torch.zeros(19, 19, dtype=torch.int64))
    assert math.isnan(result.miou) and math.isnan(result.pacc)
