"""Correlations of 1 - T with errors, and pictures, on a study whose models were trained for two steps."""

import math
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from tests.report.test_html import check
from tests.report.trained import train_study
from tmt.data import IGNORE, normalise
from tmt.inference.attention import attend
from tmt.report import understanding
from tmt.report.models import estimators_of, judge, target_images
from tmt.report.qualitative import read_scenes
from tmt.report.scores import open_study
from tmt.report.understanding import RegionFailures, correlation_of, failures, region_failures
from tmt.report.write import write_report

PAIR = ("gtav", "cityscapes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_study(tmp_path_factory.mktemp("trained") / "study")


@pytest.fixture(scope="module")
def report(folder):
    write_report(folder, folder / "report", images=2)
    return folder / "report"


def test_shares_of_wrong_pixels_by_hand():
    """Region 0: 1 of 3 labelled wrong; region 1: 2 of 2; region 2: one labelled pixel, too few; region 3: none."""
    regions = np.array([[0, 0, 0, 0], [1, 1, 2, 3]])
    truth = np.array([[5, 5, 5, IGNORE], [1, 1, 1, IGNORE]])
    prediction = np.array([[5, 4, 5, 4], [2, 2, 1, 7]])
    novelty, error = failures(np.array([0.1, 0.9, 0.5, 0.3]), regions, truth, prediction, least=2)
    assert novelty.tolist() == [0.1, 0.9]
    assert error.tolist() == pytest.approx([1 / 3, 1.0])


def test_correlation_by_hand():
    """Image 0 in perfect order, image 1 in reverse: 0 within; image 2 does not vary and does not count."""
    found = RegionFailures(
        novelty=np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.5, 0.5]),
        error=np.array([0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.2, 0.4]),
        image=np.array([0, 0, 0, 1, 1, 1, 2, 2]),
    )
    one = correlation_of(found, resamples=50)
    assert one.within == pytest.approx(0)
    assert (one.images, one.regions) == (3, 8)
    assert one.rho == pytest.approx(stats.spearmanr(found.novelty, found.error).statistic)
    assert sum(part[2] for part in one.bins) == 8


def test_regions_that_never_vary_have_no_correlation():
    one = correlation_of(RegionFailures(np.full(6, 0.5), np.arange(6.0), np.repeat([0, 1], 3)))
    assert math.isnan(one.rho)
    assert math.isnan(one.within)


@pytest.mark.parametrize("regions", ["superpixel", "grid"])
def test_regions_of_a_model_one_by_one(folder, regions):
    """Every region, its T and its share of wrong pixels, by loops over pixels."""
    study = open_study(folder)
    job = estimators_of(study, PAIR, 0)["superpixel"]
    images = target_images(study, job)
    model = judge(study, job, images.label_set, regions)
    assert model.config.transferability is False
    assert model.config.regions == regions
    found = region_failures(model, images, least_pixels=1)
    sample = images[0]
    pixels = normalise(sample.image)[None]
    with torch.no_grad():
        prediction = model.semantic_probabilities(model(pixel_values=pixels), sample.label.shape).argmax(1)[0].numpy()
        features, labels = model.region_features(pixels)
        domain = torch.sigmoid(model.estimator(features)).flatten().numpy()
    own = found.image == 0
    expected = []
    for region in range(len(domain)):
        right = wrong = 0
        for y, x in np.ndindex(*sample.label.shape):
            if labels[0, y // 8, x // 8] == region and sample.label[y, x] != IGNORE:
                wrong += int(prediction[y, x] != sample.label[y, x])
                right += int(prediction[y, x] == sample.label[y, x])
        if right + wrong:
            expected.append((domain[region], wrong / (right + wrong)))
    np.testing.assert_allclose(found.novelty[own], [pair[0] for pair in expected], atol=1e-6)
    np.testing.assert_allclose(found.error[own], [pair[1] for pair in expected])
    assert set(found.image) == {0, 1, 2}


def test_verdict_counts_intervals_on_one_side_of_zero():
    def finding(rho, low, high):
        one = understanding.Correlation(rho, low, high, rho, low, high, 3, 30, ())
        return understanding.Finding(*PAIR, 0, "grid", "grid", (), one)

    findings = [finding(0.4, 0.2, 0.6), finding(0.1, -0.1, 0.3), finding(-0.2, -0.3, -0.1), finding(0.3, 0.1, 0.4)]
    findings.append(finding(math.nan, math.nan, math.nan))
    said = understanding.verdict(findings)
    assert "in 2 of 4 pairs and seeds" in said
    assert "in 1 (below 0); mean ρ +0.15" in said


def test_report_of_a_trained_study(report):
    page = check((report / "index.html").read_text())
    for section in ("segmentation", "transferability", "regions", "attention", "understanding"):
        assert section in page.ids
    scenes = read_scenes(report / "pictures" / "index.json")
    assert {scene.image for scene in scenes} and len(scenes) == 8  # two images, four groups
    for scene in scenes:
        for picture in scene.pictures:
            assert (report / "pictures" / picture.file).is_file()
            assert picture.alt
    segmentation = next(scene for scene in scenes if scene.group == "segmentation")
    captions = [picture.caption.split(",")[0] for picture in segmentation.pictures]
    assert captions == ["image", "ground truth", "source only", "Full", "TMT"]
    findings = understanding.read_findings(report / "understanding.json")
    assert [(one.regions, one.trained_on) for one in findings] == [("superpixel", "superpixel"), ("grid", "superpixel")]
    assert all(one.correlation.images == 3 for one in findings)


def test_the_page_again_without_the_models(folder, report, tmp_path, capsys):
    copy = tmp_path / "study"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("jobs", "data"))
    before = (report / "index.html").read_bytes()
    write_report(copy, copy / "report", images=2)
    assert (copy / "report" / "index.html").read_bytes() == before
    assert capsys.readouterr().out == ""


def test_what_is_kept_is_not_computed_again(folder, report, monkeypatch):
    monkeypatch.setattr(understanding, "_compute", lambda *_: pytest.fail("computed again"))
    assert len(understanding.of_study(open_study(folder), report / "understanding.json")) == 2


def test_a_study_that_was_moved(folder, tmp_path):
    """config.yaml names the folders of then."""
    copy = tmp_path / "moved"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("report"))
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    try:
        write_report(copy, copy / "report")
        assert read_scenes(copy / "report" / "pictures" / "index.json")
        assert len(understanding.read_findings(copy / "report" / "understanding.json")) == 2
    finally:
        hidden.rename(folder)


def test_the_query_that_is_looked_at(folder):
    """Its attention is a distribution that is 0 where it may not attend."""
    study = open_study(folder)
    job = estimators_of(study, PAIR, 0)["superpixel"]
    images = target_images(study, job)
    sample, model = images[0], judge(study, job, images.label_set)
    look = attend(model, normalise(sample.image)[None], sample.label == 0, 0)
    assert look.weights.shape == look.allowed.shape == (8, 16)
    assert look.weights.sum() == pytest.approx(1, abs=1e-5)
    assert (look.weights[look.allowed == 0] == 0).all()
    assert 0 <= look.iou <= 1


KINDS = ("domain", "conditional", "entropy", "error")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A study of every kind of estimator."""
    variants = {
        kind: {"title": kind, "stage": "tmt", "seeds": [0], "settings": {"estimator.kind": kind}} for kind in KINDS
    }
    return train_study(tmp_path_factory.mktemp("kinds") / "study", variants)


def test_every_kind_is_asked_at_both_strides(kinds):
    write_report(kinds, kinds / "report", images=1)
    findings = understanding.read_findings(kinds / "report" / "understanding.json")
    expected = {(kind, stride, regions) for kind in KINDS for stride in (8, 4) for regions in ("superpixel", "grid")}
    assert len(findings) == len(expected) == len({(one.kind, one.stride, one.regions) for one in findings})
    assert {(one.kind, one.stride, one.regions) for one in findings} == expected
    count = {(one.kind, one.stride): one.correlation.regions for one in findings if one.regions == "grid"}
    assert all(count[kind, 4] > 2 * count[kind, 8] for kind in KINDS)
    page = (kinds / "report" / "index.html").read_text()
    assert "How kinds of T rank regions" in page and "at stride 4, T from the expected error" in page
    table = understanding.ranking(findings, "")
    assert table is not None and len(table.rows) == len(expected)


def test_entropy_of_regions_at_stride_4_by_hand(kinds):
    """1 - T of each region: the entropy of the mean of its positions' normalised scores."""
    study = open_study(kinds)
    job = estimators_of(study, PAIR, 0, "entropy")["superpixel"]
    images = target_images(study, job)
    model = judge(study, job, images.label_set, "grid", 4)
    pixels = normalise(images[0].image)[None]
    with torch.no_grad():
        scores = model.semantic_probabilities(model(pixel_values=pixels), (16, 32))[0]
        found = model.region_evidence(pixels)
        novelty = torch.sigmoid(model.estimator.judge(found.features, found.probabilities))[0]
    probabilities = scores / scores.sum(0)
    cell = job.config.model.cell
    for y, x in ((0, 0), (1, 2)):
        mean = probabilities[:, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].mean((1, 2)).numpy()
        assert float(novelty[y, x]) == pytest.approx(stats.entropy(mean) / np.log(len(mean)), abs=1e-4)


def test_ranking_takes_the_mean_over_pairs_and_seeds():
    def finding(kind, within, low):
        one = understanding.Correlation(0.0, 0.0, 0.0, within, low, 1.0, 3, 30, ())
        return understanding.Finding(*PAIR, 0, "grid", "grid", (), one, kind)

    findings = [finding("error", 0.2, 0.1), finding("error", 0.4, -0.1), finding("domain", math.nan, math.nan)]
    table = understanding.ranking(findings, "")
    assert table is not None
    assert [row[:6] for row in table.rows] == [
        ("the expected error", "patches", "8", "2", "6", "+0.30"),
        ("the domain", "patches", "8", "0", "3", table.rows[1][5]),
    ]
    assert table.rows[0][7] == "1 of 2"
    assert understanding.ranking(findings[:2], "") is None
