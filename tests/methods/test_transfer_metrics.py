"""LEEP and OTCE: values known in closed form, what counts, and that the gradients go where they should."""

import math

import numpy as np
import ot
import pytest
import torch
from torch.nn.functional import normalize, one_hot

from tmt.data import CITYSCAPES19, IGNORE
from tmt.methods import TransferMetric, method_of, metric_steps
from tmt.methods.leep import LEEP
from tmt.methods.otce import OTCE, conditional_entropy, coupling, joint_labels
from tmt.methods.transfer_metric import labelled_pixels
from tmt.model.factory import new_model
from tmt.runtime.distributed import World
from tmt.settings import MetricConfig, ModelConfig, TMTSettings

WORLD = World(torch.device("cpu"))
CLASSES = 7
COUNTS = [40, 25, 0, 20, 10, 5, 0]  # two classes are absent
LABELS = torch.arange(CLASSES).repeat_interleave(torch.tensor(COUNTS))
ENTROPY = -sum(n / 100 * math.log(n / 100) for n in COUNTS if n)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leep_of(scores: torch.Tensor, labels: torch.Tensor, metric: LEEP | None = None) -> tuple[torch.Tensor, float]:
    metric = metric or LEEP(CLASSES, pixels=100, batch_size=1, momentum=0.9)
    score, value = metric.score(scores, labels, torch.ones(len(labels)), WORLD)
    return score, float(value)


def otce_of(features: torch.Tensor, labels: torch.Tensor, domains: torch.Tensor) -> tuple[torch.Tensor, float]:
    score, value = OTCE(CLASSES, pixels=100, batch_size=1, epsilon=0.1, iterations=50).score(
        features, labels, domains, WORLD
    )
    return score, float(value)


def test_leep_of_perfect_scores_is_zero() -> None:
    """Each target class has a source class of its own, whichever."""
    scores = 3.7 * one_hot((LABELS + 2) % CLASSES, CLASSES).float()  # need not be normalised
    score, value = leep_of(scores, LABELS)
    assert score.item() == pytest.approx(0, abs=1e-6) and value == pytest.approx(0, abs=1e-6)


def test_leep_of_independent_scores_is_minus_the_entropy() -> None:
    scores = torch.rand(CLASSES).expand(100, -1)
    assert leep_of(scores, LABELS)[1] == pytest.approx(-ENTROPY, rel=1e-5)


def test_leep_is_its_definition() -> None:
    scores = torch.rand(100, CLASSES)
    theta = (scores / scores.sum(1, keepdim=True)).double().numpy()
    joint = np.stack([theta[LABELS.numpy() == y].sum(0) / 100 for y in range(CLASSES)])
    conditional = joint / joint.sum(0)
    expected = np.mean([math.log(conditional[y] @ t) for y, t in zip(LABELS.tolist(), theta, strict=True)])
    score, value = leep_of(scores.requires_grad_(), LABELS)
    assert value == pytest.approx(expected, rel=1e-5)
    score.backward()
    assert scores.grad.isfinite().all() and scores.grad.abs().sum() > 0


def test_leep_keeps_a_running_joint_distribution_without_gradient() -> None:
    metric = LEEP(CLASSES, pixels=100, batch_size=1, momentum=0.9)
    first, second = (torch.rand(100, CLASSES, requires_grad=True) for _ in range(2))
    each = [
        one_hot(LABELS, CLASSES).float().T @ (scores / scores.sum(1, keepdim=True)) / 100 for scores in (first, second)
    ]
    leep_of(first, LABELS, metric)
    torch.testing.assert_close(metric.joint, each[0].detach())
    score, _ = leep_of(second, LABELS, metric)
    torch.testing.assert_close(metric.joint, (0.9 * each[0] + 0.1 * each[1]).detach())
    assert not metric.joint.requires_grad
    score.backward()
    assert first.grad is None


def test_leep_of_a_class_that_earlier_steps_did_not_have() -> None:
    metric = LEEP(CLASSES, pixels=100, batch_size=1, momentum=0.9)
    leep_of(torch.rand(50, CLASSES), torch.zeros(50, dtype=torch.int64), metric)
    scores = torch.rand(50, CLASSES, requires_grad=True)
    score, value = leep_of(scores, torch.full((50,), 5), metric)
    score.backward()
    assert math.log(0.05) < value < 0  # about a tenth of the running mean is class 5
    assert scores.grad.isfinite().all() and scores.grad.abs().sum() > 0


def test_leep_ignores_pixels_without_label() -> None:
    scores = torch.rand(100, CLASSES)
    some = torch.where(torch.arange(100) % 3 == 0, IGNORE, LABELS)
    kept = some != IGNORE
    assert leep_of(scores, some)[1] == pytest.approx(leep_of(scores[kept], LABELS[kept])[1], rel=1e-6)


def labels_twice() -> tuple[torch.Tensor, torch.Tensor]:
    """The labels for both domains, and the domains."""
    return torch.cat([LABELS, LABELS.flip(0)]), torch.arange(2).repeat_interleave(100).float()


@pytest.mark.parametrize("count, other", [(30, 30), (40, 25)])
def test_sinkhorn_equals_pot_in_numpy(count: int, other: int) -> None:
    source, target = (normalize(torch.randn(n, 16), dim=1) for n in (count, other))
    cost = ot.dist(source.double().numpy(), target.double().numpy(), metric="sqeuclidean")
    uniform = [np.full(n, 1 / n) for n in (count, other)]
    expected = ot.bregman.sinkhorn_log(*uniform, cost, 0.1, numItermax=50, stopThr=0, warn=False)
    plan = coupling(source, target, 0.1, 50)
    assert plan.dtype == torch.float32 and isinstance(expected, np.ndarray)
    np.testing.assert_allclose(plan.numpy() * count * other, expected * count * other, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(plan.sum(1), 1 / count, rtol=1e-5)
    plain = ot.sinkhorn(*uniform, cost, 0.1, numItermax=2000, stopThr=1e-12)  # not in the log domain, to convergence
    long = coupling(source.double(), target.double(), 0.1, 2000)
    np.testing.assert_allclose(long.numpy(), plain, rtol=1e-5, atol=1e-12)


def test_otce_of_identical_features_and_labels_is_zero() -> None:
    """Pixels of one class are alike, those of different classes at right angles: each finds its own class."""
    labels, domains = labels_twice()
    features = 5.0 * one_hot(labels, 16).float()  # need not be of length 1
    assert otce_of(features, labels, domains)[1] == pytest.approx(0, abs=1e-4)


def test_otce_of_a_uniform_coupling_is_minus_the_entropy() -> None:
    labels, domains = labels_twice()
    assert otce_of(torch.ones(200, 16), labels, domains)[1] == pytest.approx(-ENTROPY, rel=1e-5)


def test_conditional_entropy_by_hand() -> None:
    joint = torch.tensor([[0.3, 0.1, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    expected = -(0.3 * math.log(0.3 / 0.4) + 0.1 * math.log(0.1 / 0.4))
    entropy = conditional_entropy(joint)
    assert entropy.item() == pytest.approx(expected, rel=1e-5)
    entropy.backward()
    assert joint.grad.isfinite().all()


def test_joint_labels_sum_the_plan() -> None:
    plan = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    joint = joint_labels(plan, torch.tensor([2, 2]), torch.tensor([0, 1]), 3)
    torch.testing.assert_close(joint, torch.tensor([[0, 0, 0], [0, 0, 0], [0.4, 0.6, 0]]))


def test_otce_ignores_pixels_without_label() -> None:
    labels, domains = labels_twice()
    features = torch.randn(200, 16)
    some = torch.where(torch.arange(200) % 3 == 0, IGNORE, labels)
    kept = some != IGNORE
    left, right = otce_of(features, some, domains), otce_of(features[kept], labels[kept], domains[kept])
    assert left[1] == pytest.approx(right[1], rel=1e-6)


def test_otce_has_finite_gradients_where_classes_are_absent() -> None:
    labels, domains = labels_twice()
    features = torch.randn(200, 16, requires_grad=True)
    score, value = otce_of(features, labels, domains)
    score.backward()
    assert -ENTROPY <= value < 0 and features.grad.isfinite().all()
    assert (features.grad.abs().sum(1) > 0).all()  # of both domains


@pytest.mark.parametrize("missing", [0, 1, None])
def test_otce_without_labels_in_a_domain_gives_no_gradient(missing: int | None) -> None:
    labels, domains = labels_twice()
    labels = torch.full_like(labels, IGNORE) if missing is None else torch.where(domains == missing, IGNORE, labels)
    features = torch.randn(200, 16, requires_grad=True)
    score, value = otce_of(features, labels, domains)
    score.backward()
    assert score.item() == 0 and math.isnan(value) and not features.grad.any()


def test_leep_without_labels_gives_no_gradient_and_keeps_its_estimate() -> None:
    metric = LEEP(CLASSES, pixels=100, batch_size=1, momentum=0.9)
    leep_of(torch.rand(100, CLASSES), LABELS, metric)
    before, scores = metric.joint.clone(), torch.rand(100, CLASSES, requires_grad=True)
    score, value = leep_of(scores, torch.full_like(LABELS, IGNORE), metric)
    score.backward()
    assert score.item() == 0 and math.isnan(value) and not scores.grad.any()
    assert torch.equal(metric.joint, before)


def labels_of_images() -> torch.Tensor:
    """(2, 48, 64), part of the first image ignored."""
    labels = torch.randint(0, 5, (2, 6, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[0, :30] = IGNORE
    return labels


def test_pixels_are_labelled_ones_and_a_function_of_their_image_s_seed() -> None:
    labels, seeds = labels_of_images(), torch.tensor([3, 4])
    points, found = labelled_pixels(labels, seeds, 50)
    for i in range(2):
        columns, rows = ((points[i] * torch.tensor([64, 48])) - 0.5).round().long().unbind(1)
        assert torch.equal(labels[i, rows, columns], found[i]) and (found[i] != IGNORE).all()
        alone = labelled_pixels(labels[i : i + 1], seeds[i : i + 1], 50)
        assert torch.equal(alone[0][0], points[i]) and torch.equal(alone[1][0], found[i])
    assert len(points[1].unique(dim=0)) > 40
    other = labelled_pixels(labels, seeds + 1, 50)[0]
    assert not torch.equal(other, points)
    assert (labelled_pixels(torch.full_like(labels, IGNORE), seeds, 50)[1] == IGNORE).all()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    config = ModelConfig(
        embed_dim=16, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path=0.0, hidden=32, ffn=32,
        encoder_ffn=32, encoder_layers=1, decoder_layers=3, attention_heads=2, queries=8, points=64,
        estimator_hidden=16,
    )  # fmt: skip
    method = method_of("leep")
    made = new_model(config, method.configure(TMTSettings(), config), seed=0, label_set=CITYSCAPES19)
    method.choose_trainable(made)
    return made


def batch_of(metric: TransferMetric) -> dict[str, object]:
    """Two target images, with two of the source before them where the metric looks at them."""
    images = 4 if metric.sees_source else 2
    labels = torch.cat([labels_of_images() for _ in range(images // 2)])
    colours = torch.randn(5, 3)[labels.clamp(max=4)].permute(0, 3, 1, 2)
    batch = {"pixel_values": colours + 0.1 * torch.randn_like(colours), "labels": labels}
    batch["sample_seeds"] = torch.arange(images)
    if metric.sees_source:
        batch["domains"] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return batch


@pytest.mark.parametrize("name", ["leep", "otce"])
def test_gradients_reach_the_encoder(name: str, model: torch.nn.Module) -> None:
    metric = method_of(name).metric(MetricConfig(leep_pixels=200, otce_pixels=100), 19, 2)
    batch = batch_of(metric)
    model.zero_grad()
    score, value = metric(metric.network(model)(batch["pixel_values"]), batch, WORLD)
    assert -math.log(5) < value < 0 and score.item() == pytest.approx(value)
    score.backward()
    encoder = [p for p in model.model.pixel_level_module.encoder.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder)
    assert sum(bool(p.grad.any()) for p in encoder) > 0.9 * len(encoder)
    assert metric.first == metric.last == pytest.approx(value)


@pytest.mark.parametrize("name", ["leep", "otce"])
def test_steps_along_the_gradient_raise_the_metric(name: str, model: torch.nn.Module) -> None:
    metric = method_of(name).metric(MetricConfig(leep_pixels=200, otce_pixels=100), 19, 2)
    batch, network = batch_of(metric), metric.network(model)
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(25):  # LEEP begins slowly: a random model scores all pixels nearly alike
        optimizer.zero_grad()
        score, _ = metric(network(batch["pixel_values"]), batch, WORLD)
        (-score).backward()
        optimizer.step()
    model.load_state_dict(start)
    assert metric.last > metric.first + 0.02


def test_leep_reads_the_scores_at_the_masks_size(model: torch.nn.Module) -> None:
    """Sampling the small map at a pixel's centre gives, normalised, what the map upsampled to the labels has there."""
    metric, seen = LEEP(19, pixels=60, batch_size=2, momentum=0.9), []
    metric.score = lambda values, *rest: (seen.append(values), (values.sum(), torch.zeros(())))[1]
    batch = batch_of(metric)
    with torch.no_grad():
        metric(metric.network(model)(batch["pixel_values"]), batch, WORLD)
        small = model.semantic_probabilities(model(batch["pixel_values"]), (12, 16))
    whole = torch.nn.functional.interpolate(small, (48, 64), mode="bilinear")
    points, _ = labelled_pixels(batch["labels"], batch["sample_seeds"], metric.pixels_per_image)
    columns, rows = ((points * torch.tensor([64, 48])) - 0.5).round().long().unbind(2)
    expected = torch.cat([whole[i, :, rows[i], columns[i]].T for i in range(2)])
    left, right = (values / values.sum(1, keepdim=True) for values in (seen[0], expected))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_pixels_are_divided_among_the_images() -> None:
    config = MetricConfig()
    assert method_of("leep").metric(config, 19, 16).pixels_per_image == 256
    assert method_of("otce").metric(config, 19, 16).pixels_per_image == 64
    assert method_of("otce").metric(config, 19, 6).pixels_per_image == 171  # rounded up
    assert method_of("full").metric(config, 19, 6) is None and method_of("tmt").metric(config, 19, 6) is None


@pytest.mark.parametrize(
    "fraction, steps, expected",
    [(0.1, 20_000, 2000), (0.1, 70, 7), (0.1, 2, 1), (0.0, 50, 0), (1.0, 5, 5), (0.5, 1, 1)],
)
def test_steps_of_the_first_stage(fraction: float, steps: int, expected: int) -> None:
    assert metric_steps(fraction, steps) == expected
