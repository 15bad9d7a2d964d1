"""The estimator stage's parts: which regions count, what the loss averages, what is reported."""

import pytest
import torch
from torch import nn

from tmt.model.acte import Regions
from tmt.model.evidence import Evidence, evidence
from tmt.runtime.distributed import World
from tmt.settings import EstimatorConfig, InferenceConfig
from tmt.training import examples, hold_out, streams

CPU = torch.device("cpu")
WORLD = World(CPU)


class Domains(nn.Module):
    """A stand-in for the source model: regions in halves of the image, features from the mean brightness."""

    def region_evidence(self, pixel_values: torch.Tensor) -> Evidence:
        """pixel_values (B, 3, 16, 32) -> features (B, 3, 1, 2), labels (B, 2, 4)."""
        features = nn.functional.adaptive_avg_pool2d(pixel_values, (1, 2))
        labels = torch.tensor([[0, 0, 1, 1]]).expand(len(pixel_values), 2, 4)
        return evidence(Regions(features, labels), None)


class Brightness(nn.Module):
    """A stand-in for the discriminator: its logit is the first feature."""

    def forward(self, features: torch.Tensor, probabilities: None) -> torch.Tensor:
        """features (B, C, h, w) -> (B, h, w)."""
        return features[:, 0]


def batch_of(values: list[float], ignored: list[int]) -> dict[str, object]:
    """Images of one brightness each, first half source, second target; the right half of `ignored` ones is padding."""
    labels = torch.zeros(len(values), 16, 32, dtype=torch.int64)
    for i in ignored:
        labels[i, :, 16:] = 255
    return {
        "pixel_values": torch.tensor(values)[:, None, None, None].expand(-1, 3, 16, 32).clone(),
        "labels": labels,
        "domains": torch.arange(2).repeat_interleave(len(values) // 2).float(),
    }


def test_regions_without_a_labelled_pixel_do_not_count() -> None:
    batch = batch_of([0.0, 0.0], ignored=[1])
    assert examples.examples(Domains(), batch, EstimatorConfig(), CPU).valid.tolist() == [[True, True], [True, False]]
    batch["labels"][1, 3, 20] = 7
    assert examples.examples(Domains(), batch, EstimatorConfig(), CPU).valid.all()


def test_regions_of_the_image_count_without_labels_where_asked() -> None:
    settings = EstimatorConfig(counted="image")
    batch = batch_of([0.0, 0.0], ignored=[0, 1])
    assert examples.examples(Domains(), batch, settings, CPU).valid.all()
    batch["extents"] = torch.tensor([[16, 32], [16, 16]])
    assert examples.image_area(batch)[1].sum() == 16 * 16
    assert examples.examples(Domains(), batch, settings, CPU).valid.tolist() == [[True, True], [True, False]]


def test_loss_averages_over_valid_regions() -> None:
    values, valid = torch.tensor([-2.0, 1.0, 0.5, 3.0]), torch.tensor([2.0, 1.0, 2.0, 1.0])
    batch = batch_of(values.tolist(), ignored=[1, 3])
    network = Brightness()
    loss, logged = examples.estimator_loss(Domains(), network, network, EstimatorConfig(), WORLD, batch)
    each = nn.functional.softplus(values * torch.tensor([1, 1, -1, -1]))  # source 0, target 1
    assert float(loss) == pytest.approx(float((each * valid).sum() / valid.sum()))
    assert logged["accuracy"] == pytest.approx(5 / 6, abs=1e-4)


def test_proxy_a_distance_runs_from_zero_to_two() -> None:
    assert hold_out.HoldOut(0.5, 0, 0, 0).to_dict()["proxy_a_distance"] == 0
    assert hold_out.HoldOut(1.0, 0, 0, 0).to_dict()["proxy_a_distance"] == 2


def test_saturation_is_told() -> None:
    graded = hold_out.HoldOut(0.8, 0.7, 0.3, 0.2).to_dict()
    saturated = hold_out.HoldOut(0.995, 0.99, 0.01, 0.0).to_dict()
    assert "warning" not in hold_out.verdict(graded, 0.98)
    assert "saturated" in hold_out.verdict(saturated, 0.98) and "0.995" in hold_out.verdict(saturated, 0.98)


def test_batches_are_balanced() -> None:
    source, target = (
        {**batch_of([float(i)] * 2, []), "sample_seeds": torch.arange(2), "names": [str(i)] * 2} for i in range(2)
    )
    joined = streams.joined(source, target)
    assert joined["pixel_values"].shape == (4, 3, 16, 32) and joined["domains"].tolist() == [0, 0, 1, 1]
    assert joined["names"] == ["0", "0", "1", "1"]


def test_held_out_images_are_judged_in_evaluations_windows() -> None:
    labels = torch.arange(20 * 30).reshape(1, 20, 30)
    batch = {"pixel_values": labels[:, None].expand(1, 3, 20, 30).float(), "labels": labels, "names": ["x"]}
    (whole,) = hold_out.windows_of(batch, InferenceConfig(scales=(0.5, 2.0), flip=True))
    assert torch.equal(whole["labels"], labels) and whole["pixel_values"].shape == (1, 3, 20, 30)
    parts = list(hold_out.windows_of(batch, InferenceConfig(window=(20, 16), stride=(20, 14), scales=(2.0,))))
    assert [part["labels"][0, 0, 0].item() for part in parts] == [0, 14]
    assert all(torch.equal(part["pixel_values"][:, 0].long(), part["labels"]) for part in parts)


def test_judgement_sums_up_regions() -> None:
    logits = torch.tensor([-2.0, 1.0, 3.0], dtype=torch.float64)
    for domain, right in ((0, 1), (1, 2)):
        found = hold_out.judgement(logits, logits + 1, domain)
        transfer = 1 - torch.sigmoid(logits + 1)
        loss = nn.functional.softplus(logits * (1 - 2 * domain)).sum().item()
        expected = [right, transfer.sum().item(), transfer.square().sum().item(), loss, 3]
        assert found.tolist() == pytest.approx(expected)


def test_the_expected_error_is_compared_with_the_error() -> None:
    """Two images: one ranked right, one in reverse; the third has regions of one error alone, without a rank."""
    rows = [([-1.0, 0.0, 1.0], [0.0, 0.5, 1.0]), ([1.0, 0.0, -1.0], [0.0, 0.5, 1.0]), ([0.0, 1.0], [0.5, 0.5])]
    images = [hold_out.Judged(*(torch.tensor(v, dtype=torch.float64) for v in (x, x, y))) for x, y in rows]
    result = hold_out.expected_errors(hold_out.sum_up([hold_out.error_sums(image) for image in images], 9))
    logits, error = (torch.tensor([v for row in rows for v in row[i]], dtype=torch.float64) for i in (0, 1))
    expected = torch.sigmoid(logits)
    assert result["rho"] == pytest.approx(0)
    off = (error - expected).square().sum() / (error - error.mean()).square().sum()
    assert result["r2"] == pytest.approx(1 - float(off))
    assert result["loss"] == pytest.approx(float(nn.functional.binary_cross_entropy_with_logits(logits, error)))
    assert result["transferability_target_mean"] == pytest.approx(float((1 - expected).mean()))
    assert "R2" in hold_out.verdict(result, 0.98)


def test_an_error_that_does_not_vary_has_no_correlation() -> None:
    one = torch.zeros(3, dtype=torch.float64)
    result = hold_out.expected_errors(hold_out.error_sums(hold_out.Judged(one, one, one)))
    assert result["r2"] is None and result["rho"] is None
    assert "undefined" in hold_out.verdict(result, 0.98)
