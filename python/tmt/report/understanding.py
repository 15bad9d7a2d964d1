"""Does T point at what fails? 1 - T of a region against the source model's share of wrong pixels there.

`region_failures` and `correlation_of` work on any plain model with a trained discriminator; `of_study` applies them to
every pair of a study and keeps what it finds, so that the page can be made again without the models.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tmt.data import IGNORE, Dataset, normalise
from tmt.data.resized import resized
from tmt.inference.sliding_window import WHOLE, enlarge, plan, segment
from tmt.model import TMTForSemanticSegmentation
from tmt.report.formats import Table, interval, signed
from tmt.report.models import NotThere, estimators_of, judge, kinds_of, target_images, tell_left_out
from tmt.report.scores import arrow, estimators
from tmt.report.statistics import bootstrap_mean, spearman, summarise
from tmt.runtime.files import read_json, write_json
from tmt.settings import InferenceConfig
from tmt.studies import Pair, Result, Study
from tmt.studies.export import REPORTED
from tmt.studies.jobs import Job
from tmt.training.examples import LEAST_PIXELS

BINS = 10
KIND_TITLES = {
    "domain": "the domain",
    "conditional": "the domain given the classes",
    "entropy": "the source model's entropy",
    "error": "the expected error",
}


@dataclass(frozen=True)
class RegionFailures:
    """Regions of several images, n in all."""

    novelty: np.ndarray
    """(n,) float64, 1 - T: how unlike the source the region is."""
    error: np.ndarray
    """(n,) float64, share of the region's labelled pixels that the source model gets wrong."""
    image: np.ndarray
    """(n,) int64, which image the region is of."""


@dataclass(frozen=True)
class Correlation:
    """How well 1 - T ranks regions by their error."""

    rho: float
    """Spearman's correlation over all regions of all images; nan where one of the two does not vary."""
    low: float
    """Lower end of the 95 % interval by bootstrap over images."""
    high: float
    within: float
    """Mean over images of Spearman's correlation among one image's regions: what TMA, whose threshold is taken image
    by image, can use."""
    within_low: float
    within_high: float
    images: int
    regions: int
    bins: tuple[tuple[float, float, int], ...]
    """Regions in ten equal parts by 1 - T: mean 1 - T, mean error, number."""


@torch.no_grad()
def region_failures(
    model: TMTForSemanticSegmentation,
    dataset: Dataset,
    inference: InferenceConfig = WHOLE,
    least_pixels: int = LEAST_PIXELS,
    predictions: dict[int, np.ndarray] | None = None,
) -> RegionFailures:
    """Judge every region of a dataset's images, and count the pixels that the model gets wrong there.

    Args:
        model: in evaluation mode, transferability off, so that its predictions are the plain source model's, with a
            trained discriminator. Its configuration says which regions are judged.
        dataset: labelled images of the target domain.
        inference: how images are segmented; T is judged in the same windows.
        least_pixels: regions with fewer labelled pixels are left out.
        predictions: what the same source model predicts, (H, W) uint8 by image, filled where it is empty: estimators of
            one source model share it.
    """
    known = {} if predictions is None else predictions
    parts: list[tuple[np.ndarray, np.ndarray, int]] = []
    images = resized(dataset, model.config.image_height)
    for index in range(len(images)):
        sample = images[index]
        pixels = normalise(sample.image, model.scaling)[None].to(model.device)
        if index not in known:
            known[index] = segment(model, pixels, inference).prediction.byte().cpu().numpy()
        prediction = torch.from_numpy(known[index])
        truth = torch.from_numpy(sample.label.astype(np.int64))
        height, width = sample.label.shape
        for one in plan((height, width), replace(inference, scales=(1.0,), flip=False)):
            inside = (one.rows.slice, one.columns.slice)
            judged = _judge(model, pixels[(..., *inside)], truth[inside], prediction[inside], least_pixels)
            parts.append((*judged, index))
    novelty, error = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    return RegionFailures(novelty, error, np.repeat([part[2] for part in parts], [len(part[0]) for part in parts]))


def _judge(
    model: TMTForSemanticSegmentation, pixels: Tensor, truth: Tensor, prediction: Tensor, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """pixels (1, 3, H, W), truth and prediction (H, W) -> 1 - T (r,) and error (r,) of the regions that count."""
    found = model.region_evidence(pixels)
    novelty = torch.sigmoid(model.estimator.judge(found.features, found.probabilities).double()).flatten().cpu()
    regions = enlarge(found.labels, (truth.shape[0], truth.shape[1]))[0].cpu()  # (H, W)
    return failures(novelty.numpy(), regions.numpy(), truth.numpy(), prediction.numpy(), least)


def failures(
    novelty: np.ndarray, regions: np.ndarray, truth: np.ndarray, prediction: np.ndarray, least: int = LEAST_PIXELS
) -> tuple[np.ndarray, np.ndarray]:
    """1 - T and error of an image's regions with at least `least` labelled pixels.

    novelty (R,); regions (H, W) integers in [0, R); truth and prediction (H, W) train ids, truth `IGNORE` not counting.
    """
    labelled = truth != IGNORE
    count = np.bincount(regions[labelled], minlength=len(novelty))
    wrong = np.bincount(regions[labelled], (truth != prediction)[labelled], minlength=len(novelty))
    kept = count >= max(1, least)
    return novelty[kept], wrong[kept] / count[kept]


def correlation_of(found: RegionFailures, resamples: int = 1000, seed: int = 0) -> Correlation:
    """Spearman's correlation of 1 - T and error, over all regions and within images, with bootstrap intervals."""
    whole = spearman(found.novelty, found.error, found.image, resamples, seed)
    within = np.array([_within(found, image) for image in np.unique(found.image)])
    within = within[~np.isnan(within)]
    low, high = bootstrap_mean(within, resamples, seed)
    return Correlation(
        whole.rho, whole.low, whole.high, float(within.mean()) if len(within) else math.nan, low, high,
        whole.groups, whole.count, _bins(found),
    )  # fmt: skip


def _within(found: RegionFailures, image: int) -> float:
    own = found.image == image
    return spearman(found.novelty[own], found.error[own], np.zeros(own.sum(), dtype=np.int64), resamples=0).rho


def _bins(found: RegionFailures) -> tuple[tuple[float, float, int], ...]:
    parts = np.array_split(np.argsort(found.novelty, kind="stable"), BINS)
    return tuple((float(found.novelty[p].mean()), float(found.error[p].mean()), len(p)) for p in parts if len(p))


@dataclass(frozen=True)
class Finding:
    """The correlation of one pair, seed and way to cut an image into regions."""

    source: str
    target: str
    seed: int
    regions: str
    """`superpixel` or `grid` (patches of the same first size)."""
    trained_on: str
    """What regions the discriminator was trained on."""
    fingerprint: tuple[object, ...]
    """Of the source model and the discriminator: what is kept is used as long as they are the same."""
    correlation: Correlation
    kind: str = "domain"
    """Of the estimator."""
    stride: int = 8
    """Image pixels between positions that are grouped into regions: at 4, regions are half as wide."""

    @property
    def pair(self) -> Pair:
        """Source and target."""
        return self.source, self.target


def of_study(study: Study, file: Path, say: Callable[[str], None] = print) -> list[Finding]:
    """The correlations of every pair and seed that has an estimator.

    Those kept in `file`, in the study's own report or in its table are used where they belong to the study's present
    results; the others are computed where the job folders are there. `file` is written where it holds others.
    """
    in_table = [_finding(tree) for tree in study.findings()]
    kept = {_key(one): one for one in (*in_table, *read_findings(study.folder / REPORTED), *read_findings(file))}
    found: list[Finding] = []
    failed: list[tuple[str, NotThere]] = []
    places = {(study.pairs.index(r.pair), r.seed) for r in estimators(study)}
    for pair, seed in ((study.pairs[place], seed) for place, seed in sorted(places)):
        try:
            found += list(_find(study, pair, seed, kept))
        except NotThere as error:
            mark = list(_source_mark(study, pair, seed))
            of_pair = [f for f in kept.values() if (f.pair, f.seed) == (pair, seed)]
            same = [finding for finding in of_pair if list(finding.fingerprint[:1]) == mark]
            found += same
            if not same:
                failed.append((f"{arrow(pair)} seed {seed}", error))
    tell_left_out("correlation", failed, say)
    if found and found != read_findings(file):
        write_json(file, [_tree(finding) for finding in found])
    return found


def _key(finding: Finding) -> tuple[object, ...]:
    what = finding.regions, finding.trained_on, finding.kind, finding.stride
    return *finding.pair, finding.seed, *what, *finding.fingerprint


def _source_mark(study: Study, pair: Pair, seed: int) -> tuple[object, ...]:
    source = study.sources.get((pair[0], seed))
    return (source.last.get("score") if source else None,)


def _find(study: Study, pair: Pair, seed: int, kept: dict) -> Iterator[Finding]:
    """Superpixels and patches, each judged by an estimator trained on them or, for want of one, by the other's.

    Every kind of estimator that the study has; where it compares several, on regions of half the width as well.
    """
    kinds, predictions = kinds_of(study, pair, seed), {}
    for kind in kinds:
        jobs = estimators_of(study, pair, seed, kind)
        for stride, regions in product((8, 4) if len(kinds) > 1 else (8,), ("superpixel", "grid")):
            trained_on = regions if regions in jobs else next(iter(jobs))
            job = jobs[trained_on]
            mark = (*_source_mark(study, pair, seed), job.id, _estimator_mark(study.finished[job.id]))
            one = Finding(*pair, seed, regions, trained_on, mark, _NONE, kind, stride)
            yield kept.get(_key(one)) or replace(one, correlation=_compute(study, job, regions, stride, predictions))


def _estimator_mark(result: Result) -> object:
    measured = result.estimator or {}
    return measured.get("accuracy", measured.get("score"))


def _compute(study: Study, job: Job, regions: str, stride: int, predictions: dict[int, np.ndarray]) -> Correlation:
    images = target_images(study, job)
    model = judge(study, job, images.label_set, regions, stride)
    return correlation_of(region_failures(model, images, job.config.evaluation, predictions=predictions))


_NONE = Correlation(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0, ())


def _tree(finding: Finding) -> dict[str, Any]:
    tree = asdict(finding)
    numbers = tree["correlation"]
    tree["correlation"] = {name: None if _is_nan(value) else value for name, value in numbers.items()}
    return tree


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def read_findings(file: Path) -> list[Finding]:
    """What `of_study` kept; nothing where there is no such file."""
    if not file.is_file():
        return []
    return [_finding(tree) for tree in read_json(file)]


def _finding(tree: dict[str, Any]) -> Finding:
    numbers: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in tree["correlation"].items()
    }
    numbers["bins"] = tuple(tuple(part) for part in numbers["bins"])
    return Finding(**{**tree, "fingerprint": tuple(tree["fingerprint"]), "correlation": Correlation(**numbers)})


def region_title(finding: Finding) -> str:
    """What was judged, and by which discriminator where that is another one."""
    title = {"superpixel": "superpixels", "grid": "patches"}[finding.regions]
    title += f" at stride {finding.stride}" if finding.stride != 8 else ""
    title += f", T from {KIND_TITLES[finding.kind]}" if finding.kind != "domain" else ""
    other = "" if finding.regions == finding.trained_on else f" (discriminator of {finding.trained_on} regions)"
    return title + other


def verdict(findings: Sequence[Finding]) -> str:
    """What was found, in one sentence a kind of regions; an interval counts where all of it is on one side of 0."""
    said = []
    for title in dict.fromkeys(map(region_title, findings)):
        own = [f.correlation for f in findings if region_title(f) == title and not math.isnan(f.correlation.rho)]
        above, below = sum(one.low > 0 for one in own), sum(one.high < 0 for one in own)
        mean = signed(summarise([one.rho for one in own]).mean)
        said.append(
            f"With {title}, T points at what fails in {above} of {len(own)} pairs and seeds (interval of ρ above 0), "
            f"at what does not in {below} (below 0); mean ρ {mean}."
        )
    return " ".join(said)


def table(findings: Sequence[Finding], origin: str) -> Table:
    """One row a pair, seed and kind of regions; `origin`: what the numbers are of."""
    rows = []
    for finding in findings:
        one = finding.correlation
        rows.append((
            arrow(finding.pair), region_title(finding), f"{finding.seed}", f"{one.images}",
            f"{one.regions}", signed(one.rho), interval(one.low, one.high), signed(one.within),
            interval(one.within_low, one.within_high),
        ))  # fmt: skip
    header = (
        "source → target", "regions", "seed", "images", "n regions", "ρ", "95 % interval", "ρ within images",
        "95 % interval of it",
    )  # fmt: skip
    caption = (
        "Spearman's ρ of 1 − T and the source model's share of wrong labelled pixels, over regions with at least "
        f"{LEAST_PIXELS} labelled pixels of the target's validation images; intervals by bootstrap over images (1000 "
        "samples). Above 0: what is judged unlike the source fails more. Within images: mean of each image's own ρ. "
        f"{origin}"
    )
    return Table("understanding", "1 − T against the source model's error", caption, header, tuple(rows))


def ranking(findings: Sequence[Finding], origin: str) -> Table | None:
    """One row a kind of estimator, kind of regions and stride: how well 1 - T ranks an image's regions; None where a
    study has estimators of one kind."""
    if len({finding.kind for finding in findings}) < 2:
        return None
    groups: dict[tuple[str, str, int], list[Correlation]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.regions, finding.stride), []).append(finding.correlation)
    rows = [_ranking_row(*what, found) for what, found in groups.items()]
    header = (
        "T from", "regions", "stride", "pairs and seeds", "images", "ρ within images", "95 % interval",
        "interval above 0",
    )  # fmt: skip
    caption = (
        "Does 1 − T rank the regions of an image by the source model's share of wrong pixels? Spearman's ρ among each "
        "validation image's regions, its mean over the images of a pair and seed, and the mean of those; interval by "
        "bootstrap over pairs and seeds (1000 samples). Last: in how many of them the interval over images is above 0. "
        f"Estimators were trained at stride 8. {origin}"
    )
    return Table("ranking", "How kinds of T rank regions", caption, header, tuple(rows))


def _ranking_row(kind: str, regions: str, stride: int, found: Sequence[Correlation]) -> tuple[str, ...]:
    within = np.array([one.within for one in found if not math.isnan(one.within)])
    low, high = bootstrap_mean(within)
    mean = float(within.mean()) if len(within) else math.nan
    above = sum(one.within_low > 0 for one in found)
    title = {"superpixel": "superpixels", "grid": "patches"}[regions]
    images = sum(one.images for one in found)
    return (
        KIND_TITLES[kind], title, f"{stride}", f"{len(within)}", f"{images}", signed(mean), interval(low, high),
        f"{above} of {len(found)}",
    )  # fmt: skip
