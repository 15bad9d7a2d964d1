"""Kinds of estimators: T of each by hand, the frozen copy that is judged, and the same T after loading."""

import math

import pytest
import torch

from tmt.errors import CheckpointError
from tmt.model import load_model
from tmt.model.acte import Regions
from tmt.model.estimator import ConditionalDiscriminator, EntropyEstimator, ErrorEstimator, new_estimator
from tmt.model.evidence import evidence, region_means
from tmt.model.factory import kind_of_estimator, load_estimator, save_estimator
from tmt.model.semantic import Queries
from tmt.settings import RegionSettings, TMTSettings

KINDS = ("conditional", "entropy", "error")
FEATURES = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(3))
PROBABILITIES = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(4)).softmax(1)


def judged(build, kind: str, **fields):
    """A model with T by an estimator of a kind, whose weights are random, and a frozen copy of itself."""
    model = build(estimator_kind=kind, transfer_features="source", **fields)
    if kind == "conditional":
        model.estimator.remember(torch.rand(2, 5))
    model.freeze_source_features()
    return model


def test_means_over_regions_by_hand() -> None:
    planes = torch.tensor([[[[1.0, 2.0, 5.0], [3.0, 4.0, 7.0]]]])
    regions = Regions(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 0, 2], [0, 0, 2]]]))
    assert region_means(planes, regions).flatten().tolist() == [2.5, 0.0, 6.0]


def test_probabilities_are_scores_over_their_sum() -> None:
    """Two queries that split the image into halves, sure of one class each."""
    masks = torch.tensor([30.0, 30.0, -30.0, -30.0]).expand(4, 4)
    queries = Queries(torch.tensor([[[0.5, 0.0], [0.0, 0.25]]]), torch.stack([masks, -masks])[None])
    labels = torch.tensor([[[0, 1], [0, 1]]])
    found = evidence(Regions(torch.zeros(1, 3, 1, 2), labels), queries)
    torch.testing.assert_close(found.probabilities[0, :, 0], torch.eye(2), atol=1e-6, rtol=0)


def test_conditional_takes_out_how_often_classes_come() -> None:
    torch.manual_seed(0)
    estimator = ConditionalDiscriminator(6, RegionSettings(estimator_hidden=8), 5)
    raw = estimator(FEATURES, PROBABILITIES)
    per_class = estimator.per_class(FEATURES.movedim(1, -1))  # (B, h, w, K)
    torch.testing.assert_close(raw, (per_class * PROBABILITIES.movedim(1, -1)).sum(-1))
    assert torch.equal(estimator.judge(FEATURES, PROBABILITIES), raw)  # nothing counted yet: no ratio
    estimator.remember(torch.tensor([[1.0, 1.0, 1.0, 1.0, 4.0], [4.0, 1.0, 1.0, 1.0, 1.0]]))
    ratio = math.log((0.5 + 1e-3) / (0.125 + 1e-3))
    expected = raw - ratio * (PROBABILITIES[:, 0] - PROBABILITIES[:, 4])
    torch.testing.assert_close(estimator.judge(FEATURES, PROBABILITIES), expected)


def test_conditional_ignores_a_shift_of_classes_alone() -> None:
    """Features say nothing, class 0 is rarer in the source: the plain logit says so, the judgement does not."""
    torch.manual_seed(0)
    estimator = ConditionalDiscriminator(2, RegionSettings(estimator_hidden=16), 2)
    drawn = torch.Generator().manual_seed(5)
    domains = torch.arange(2).repeat_interleave(500).float()
    first = torch.rand(1000, generator=drawn) < torch.where(domains == 1, 0.8, 0.2)
    probabilities = torch.stack([first, ~first], 1).float()[:, :, None, None]
    features = torch.zeros(1000, 2, 1, 1)
    optimizer = torch.optim.Adam(estimator.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        logits = estimator(features, probabilities).flatten()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, domains).backward()
        optimizer.step()
    estimator.remember(torch.stack([probabilities[domains == i].mean((0, 2, 3)) for i in (0, 1)]))
    with torch.no_grad():
        assert estimator(features, probabilities).abs().min() > 1
        assert estimator.judge(features, probabilities).abs().max() < 0.15


def test_entropy_by_hand() -> None:
    probabilities = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]).T[None, :, None]
    logits = EntropyEstimator().judge(torch.zeros(1, 3, 1, 3), probabilities)
    torch.testing.assert_close(torch.sigmoid(-logits).flatten(), torch.tensor([0.0, 1.0, 0.5]), atol=2e-6, rtol=0)


def test_error_sees_features_and_probabilities() -> None:
    estimator = ErrorEstimator(6, RegionSettings(estimator_hidden=8), 5)
    logits = estimator(FEATURES, PROBABILITIES)
    assert logits.shape == (2, 3, 4)
    assert not torch.allclose(logits, estimator(FEATURES, PROBABILITIES.roll(1, 1)))
    assert not torch.allclose(logits, estimator(FEATURES.roll(1, 1), PROBABILITIES))


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_model_has_the_same_transferability(kind, build, images, tmp_path) -> None:
    model = judged(build, kind)
    with torch.no_grad():
        before = model(images)
    assert before.transferability.min() >= 0 and before.transferability.max() <= 1
    assert before.transferability.std() > 0
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.estimator_kind == kind
    with torch.no_grad():
        after = loaded(images)
    assert torch.equal(after.transferability, before.transferability)
    assert torch.equal(after.masks_queries_logits, before.masks_queries_logits)


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_does_not_move_the_transferability(kind, build, images) -> None:
    """Every trainable weight changes, and training mode does; the copy does not."""
    model = judged(build, kind)
    with torch.no_grad():
        before = model(images)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)
        model.train()
        assert not model.source_predictor.training and not model.source_features.training
        after = model(images)
    assert torch.equal(after.transferability, before.transferability)
    assert not torch.allclose(after.masks_queries_logits, before.masks_queries_logits)


def test_the_copy_starts_as_the_loaded_model_under_its_own_rule(build, images, tmp_path) -> None:
    source = build(transferability=False, mask_rule="none")
    source.save_pretrained(tmp_path)

    def adapt(saved: TMTSettings) -> TMTSettings:
        return TMTSettings(mask_rule="uncertain", estimator_hidden=32).judged_by("entropy", saved)

    model = load_model(tmp_path, adapt)
    assert model.config.source_mask_rule == "none" and model.config.transfer_features == "source"
    with torch.no_grad():
        outputs = source(images)
        found = model.region_evidence(images)
        expected = Queries.of(outputs.class_queries_logits, outputs.masks_queries_logits)
    torch.testing.assert_close(found.queries.classes, expected.classes)
    torch.testing.assert_close(found.queries.masks, expected.masks)


def test_live_features_do_not_go_with_predictions(build) -> None:
    with pytest.raises(ValueError, match="transfer_features must be source with estimator_kind error, .* got 'live'"):
        build(estimator_kind="error")


@pytest.mark.parametrize("kind", ("domain", *KINDS))
def test_files_say_their_kind(kind, build, tmp_path) -> None:
    path = tmp_path / "estimator.safetensors"
    estimator = new_estimator(kind, 48, RegionSettings(estimator_hidden=32), 5)
    save_estimator(estimator, RegionSettings(estimator_hidden=32), path, kind)
    assert kind_of_estimator(path) == kind
    model = build(estimator_kind=kind, transferability=False)
    load_estimator(model, path)
    for name, value in estimator.state_dict().items():
        assert torch.equal(model.estimator.state_dict()[name], value)
    other = build(estimator_kind="entropy" if kind == "domain" else "domain", transferability=False)
    with pytest.raises(CheckpointError, match=f"estimator must be of kind .*, got {kind}"):
        load_estimator(other, path)
