"""The distance of domains against what the source model loses, in a made-up study whose numbers are known."""

import json

import pytest

from tests.report.made_up import VARIANTS, make_study
from tmt.report import distance, figures
from tmt.report.scores import open_study

PAIRS = [("gtav", "cityscapes"), ("gtav", "synthia"), ("gtav", "mapillary"), ("gtav", "bdd100k")]
PAIRS += [("synthia", "gtav"), ("synthia", "cityscapes")]


@pytest.fixture
def folder(tmp_path):
    """On the i-th pair the distance is 0.1 (i + 1), 0.2 less and more with seeds 0 and 2, and i + 1 points are lost."""
    folder = make_study(tmp_path / "study", pairs=PAIRS, variants={name: VARIANTS[name] for name in ("full", "tmt")})
    for path in (folder / "results").iterdir():
        result = json.loads(path.read_text())
        if result["kind"] == "source":
            lost = {target: i + 1 for i, (source, target) in enumerate(PAIRS) if source == result["source"]}
            home = result["last"]["miou"]
            result["on"] = {target: {**result["last"], "miou": home - points} for target, points in lost.items()}
        if result["kind"] == "estimator":
            i = PAIRS.index((result["source"], result["target"]))
            result["estimator"]["proxy_a_distance"] = 0.1 * (i + 1) + 0.2 * (result["seed"] - 1)
        path.write_text(json.dumps(result))
    return folder


def test_gaps_are_means_over_seeds(folder):
    (kind, found), *others = distance.gaps(open_study(folder)).items()
    assert kind == "superpixel" and not others
    assert [gap.pair for gap in found] == PAIRS and {gap.seeds for gap in found} == {3}
    assert [gap.distance for gap in found] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert [gap.lost for gap in found] == pytest.approx([1, 2, 3, 4, 5, 6])


def test_correlation_over_pairs(folder):
    study = open_study(folder)
    (found,) = distance.gaps(study).values()
    assert distance.correlation(found).rho == pytest.approx(1)
    assert "superpixel ρ +1.00" in distance.table(study).caption
    assert "ρ +1.00" in figures.distance_chart(study).svg
    swapped = [found[1], found[0], *found[2:]]  # the same points in another order
    assert distance.correlation(swapped).rho == pytest.approx(1)


def test_a_seed_or_pair_that_is_missing_is_left_out(folder):
    (folder / "results" / "estimator-gtav-cityscapes-superpixel-s2.json").unlink()
    for seed in range(3):
        (folder / "results" / f"estimator-gtav-synthia-superpixel-s{seed}.json").unlink()
    study = open_study(folder)
    (found,) = distance.gaps(study).values()
    assert [gap.pair for gap in found] == [PAIRS[0], *PAIRS[2:]]
    assert (found[0].seeds, found[0].distance) == (2, pytest.approx(0.0))
    assert distance.correlation(found) is None
    assert "too few pairs for a correlation (5 of 6)" in distance.table(study).caption


def test_nothing_to_say(folder):
    for path in (folder / "results").glob("estimator-*.json"):
        path.unlink()
    study = open_study(folder)
    assert distance.table(study) is None and figures.distance_chart(study) is None
