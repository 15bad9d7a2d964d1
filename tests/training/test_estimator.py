"""The estimator stage's parts: which regions count, what the loss averages, what is reported."""

import pytest
import torch
from torch import nn

from tmt.model.acte import Regions
from tmt.runtime.distributed import World
from tmt.settings import InferenceConfig
from tmt.training import estimator, streams

WORLD = World(torch.device("cpu"))


class Domains(nn.Module):
    """A stand-in for the source model: regions in halves of the image, features from the mean brightness."""

    def region_features(self, pixel_values: torch.Tensor) -> Regions:
        """pixel_values (B, 3, 16, 32) -> features (B, 3, 1, 2), labels (B, 2, 4)."""
        features = nn.functional.adaptive_avg_pool2d(pixel_values, (1, 2))
        labels = torch.tensor([[0, 0, 1, 1]]).expand(len(pixel_values), 2, 4)
        return Regions(features, labels)


class Brightness(nn.Module):
    """A stand-in for the discriminator: its logit is the first feature."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
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
    regions = Domains().region_features(batch["pixel_values"]).labels
    assert estimator.valid_regions(batch["labels"], regions, 2).tolist() == [[True, True], [True, False]]
    batch["labels"][1, 3, 20] = 7
    assert estimator.valid_regions(batch["labels"], regions, 2).all()


def test_loss_averages_over_valid_regions() -> None:
    values, valid = torch.tensor([-2.0, 1.0, 0.5, 3.0]), torch.tensor([2.0, 1.0, 2.0, 1.0])
    batch = batch_of(values.tolist(), ignored=[1, 3])
    loss, logged = estimator.domain_loss(Domains(), Brightness(), WORLD, batch)
    each = nn.functional.softplus(values * torch.tensor([1, 1, -1, -1]))  # source 0, target 1
    assert float(loss) == pytest.approx(float((each * valid).sum() / valid.sum()))
    assert logged["accuracy"] == pytest.approx(5 / 6, abs=1e-4)


def test_proxy_a_distance_runs_from_zero_to_two() -> None:
    assert estimator.HoldOut(0.5, 0, 0, 0).to_dict()["proxy_a_distance"] == 0
    assert estimator.HoldOut(1.0, 0, 0, 0).to_dict()["proxy_a_distance"] == 2


def test_saturation_is_told() -> None:
    graded = estimator.HoldOut(0.8, 0.7, 0.3, 0.2).to_dict()
    saturated = estimator.HoldOut(0.995, 0.99, 0.01, 0.0).to_dict()
    assert "warning" not in estimator.verdict(graded, 0.98)
    assert "saturated" in estimator.verdict(saturated, 0.98) and "0.995" in estimator.verdict(saturated, 0.98)


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
    (whole,) = estimator.windows_of(batch, InferenceConfig(scales=(0.5, 2.0), flip=True))
    assert torch.equal(whole["labels"], labels) and whole["pixel_values"].shape == (1, 3, 20, 30)
    parts = list(estimator.windows_of(batch, InferenceConfig(window=(20, 16), stride=(20, 14), scales=(2.0,))))
    assert [part["labels"][0, 0, 0].item() for part in parts] == [0, 14]
    assert all(torch.equal(part["pixel_values"][:, 0].long(), part["labels"]) for part in parts)


def test_judgement_sums_up_regions() -> None:
    logits = torch.tensor([-2.0, 1.0, 3.0], dtype=torch.float64)
    for domain, right in ((0, 1), (1, 2)):
        found = estimator.judgement(logits, domain)
        transfer = 1 - torch.sigmoid(logits)
        expected = [right, transfer.sum().item(), transfer.square().sum().item(), 3]
        assert found.tolist() == pytest.approx(expected)
