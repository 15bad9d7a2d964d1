"""What is said of regions, against the same computed pixel by pixel; and what a budget buys."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.runs import TINY_MODEL
from tmt.data import CITYSCAPES19, normalise
from tmt.errors import ConfigError
from tmt.labelling.choice import Budget, Candidate, choose
from tmt.labelling.scores import of_image, score, see
from tmt.model import TMTForSemanticSegmentation
from tmt.model.acte import transferability_map
from tmt.model.factory import freeze, new_model
from tmt.settings import InferenceConfig, TMTSettings
from tmt.settings.arguments import parse


@pytest.fixture(scope="module")
def model() -> TMTForSemanticSegmentation:
    config = parse([f"--model.{name}={value}" for name, value in TINY_MODEL.items()]).model
    made = new_model(config, TMTSettings(cell=2, estimator_hidden=16), seed=0, label_set=CITYSCAPES19)
    freeze(made)
    return made


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def quarters() -> np.ndarray:
    rows, columns = np.mgrid[:64, :96]
    return (rows >= 20) * 2 + (columns >= 50)


def entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum() / np.log(19))


def test_numbers_of_regions(model: TMTForSemanticSegmentation) -> None:
    image, regions = picture(), quarters()
    seen = see(model, image, regions, InferenceConfig(), judged=True)
    pixels = normalise(image, model.scaling)[None]
    with torch.no_grad():
        outputs = model(pixels)
        scores = model.semantic_probabilities(outputs, (64, 96))[0].double().numpy()
    shares = scores / scores.sum(0)
    each = np.array([[entropy(shares[:, y, x]) for x in range(96)] for y in range(64)])
    prediction = scores.argmax(0)
    seen_t = np.kron(outputs.transferability[0].numpy(), np.ones((8, 8)))
    for region in range(4):
        own = regions == region
        count = np.bincount(prediction[own], minlength=19)
        assert seen.pixels[region] == own.sum() and seen.prediction[region] == count.argmax()
        assert seen.entropy[region] == pytest.approx(each[own].mean(), abs=1e-5)
        assert seen.impurity[region] == pytest.approx(entropy(count / own.sum()), abs=1e-9)
        assert seen.divergence is not None
        assert seen.divergence[region] == pytest.approx(1 - seen_t[own].mean(), abs=1e-5)
    assert see(model, image, regions, InferenceConfig(), judged=False).divergence is None
    ripu = score("ripu", seen, "a", 0)
    assert ripu == pytest.approx(seen.impurity * seen.entropy) and score("entropy", seen, "a", 0) is seen.entropy
    assert score("divergence", seen, "a", 0) is seen.divergence
    product = score("conditional_entropy", seen, "a", 0)
    assert product == pytest.approx(seen.entropy * (seen.divergence if seen.divergence is not None else 0))


def test_t_of_windows_is_their_mean(model: TMTForSemanticSegmentation) -> None:
    image = picture(1)
    whole = np.zeros((64, 96), dtype=np.int64)
    windows = InferenceConfig(window=(64, 64), stride=(64, 32))
    seen = see(model, image, whole, windows, judged=True)
    expected = np.zeros((64, 96))
    for first, share in ((0, np.r_[np.ones(32), np.full(32, 0.5)]), (32, np.r_[np.full(32, 0.5), np.ones(32)])):
        found = model.region_evidence(normalise(image[:, first : first + 64], model.scaling)[None])
        t = transferability_map(model.estimator.judge(found.features), found.labels)[0].numpy()
        expected[:, first : first + 64] += np.kron(t, np.ones((8, 8))) * share
    assert seen.divergence is not None and seen.divergence[0] == pytest.approx(1 - expected.mean(), abs=1e-5)


def test_t_is_judged_at_the_height_of_training(
    model: TMTForSemanticSegmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, whole = picture(2), np.zeros((64, 96), dtype=np.int64)
    monkeypatch.setattr(model.config, "image_height", 32)
    seen = see(model, image, whole, InferenceConfig(), judged=True)
    small = torch.nn.functional.interpolate(
        normalise(image, model.scaling)[None], size=(32, 48), mode="bilinear", antialias=True
    )
    found = model.region_evidence(small)
    t = transferability_map(model.estimator.judge(found.features), found.labels).mean()
    assert seen.divergence is not None and seen.divergence[0] == pytest.approx(1 - float(t), abs=1e-5)


def test_random_hangs_on_the_image_alone(model: TMTForSemanticSegmentation) -> None:
    seen = see(model, picture(), quarters(), InferenceConfig(), judged=False)
    first = score("random", seen, "a", 0)
    assert (first == score("random", replace(seen, entropy=seen.entropy * 0), "a", 0)).all()
    assert (first != score("random", seen, "b", 0)).all() and (first != score("random", seen, "a", 1)).all()
    assert of_image(np.array([1.0, 0.0]), np.array([1, 3])) == 0.25


def candidates() -> list[Candidate]:
    first = Candidate(np.array([0, 2, 5]), np.array([0.5, 0.9, 0.1]), np.array([10, 20, 30]))
    return [first, Candidate(np.array([1]), np.array([0.5]), np.array([40]))]


@pytest.mark.parametrize(
    ("budget", "picks"),
    [
        ("1", [(0, 2)]),
        ("3", [(0, 2), (0, 0), (1, 1)]),
        ("99", [(0, 2), (0, 0), (1, 1), (0, 5)]),
        ("10%", [(0, 2)]),
        ("15 %", [(0, 2), (0, 0)]),
        ("34.9%", [(0, 2), (0, 0)]),
        ("35%", [(0, 2), (0, 0), (1, 1)]),
        ("35.00%", [(0, 2), (0, 0), (1, 1)]),
        ("100%", [(0, 2), (0, 0), (1, 1), (0, 5)]),
    ],
)
def test_a_budget_buys_the_best(budget: str, picks: list[tuple[int, int]]) -> None:
    assert choose(candidates(), Budget.of(budget), 200) == picks


@pytest.mark.parametrize("budget", ["0", "0%", "101%", "-1", "2.5", "many", "", "%", "1e3"])
def test_what_is_no_budget(budget: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^budget: must be a share of all pixels such as 2.2%, or a number of regions"
    ):
        Budget.of(budget)


def test_a_budget_that_buys_nothing() -> None:
    with pytest.raises(ConfigError, match="must hold the first region, of 20 pixels, got 9.0000% of 200, which is 18"):
        choose(candidates(), Budget.of("9%"), 200)
    nothing = Candidate(np.array([], int), np.array([]), np.array([], int))
    with pytest.raises(ConfigError, match="must leave something"):
        choose([nothing], Budget.of("9%"), 200)
