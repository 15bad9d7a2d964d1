"""A made-up study: a folder with the results of jobs that never ran, with scores that a test can work out by hand."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tmt.data import CITYSCAPES19
from tmt.studies import Study, definition

DOMAINS = ("cityscapes", "bdd100k", "mapillary", "synthia", "gtav")
VARIANTS = {
    "linear": {"title": "Linear", "seeds": [0]},
    "full": {"title": "Full", "seeds": [0, 1, 2]},
    "tmt": {"title": "TMT", "seeds": [0, 1, 2]},
    "tmt_foreground": {
        "title": "TMT",
        "stage": "tmt",
        "seeds": [0, 1, 2],
        "settings": {"model.mask_rule": "foreground"},
    },
    "wo_acte": {"title": "w/o ACTE", "stage": "tmt", "seeds": [0], "settings": {"model.regions": "grid"}},
    "tmt_p0.1": {"title": "p_T 10 %", "stage": "tmt", "seeds": [0], "settings": {"model.transfer_fraction": 0.1}},
    "tmt_p0.5": {"title": "p_T 50 %", "stage": "tmt", "seeds": [0], "settings": {"model.transfer_fraction": 0.5}},
}
CLASSES = CITYSCAPES19.names
Score = Callable[[str, int, int], float]


def plain_score(variant: str, pair: int, seed: int) -> float:
    """mIoU: by pair and seed, and TMT 1, 2, 3, ... tenths above the others by pair, with a ripple over its seeds."""
    gain = {"tmt": (pair + 1) / 10 + (0.0, 0.3, -0.3)[seed], "tmt_foreground": -0.5, "linear": -8.0}
    return 40.0 + pair + 0.5 * seed + gain.get(variant, 0.0)


def make_study(
    folder: Path,
    score: Score = plain_score,
    pairs: Sequence[tuple[str, str]] | None = None,
    variants: dict[str, dict] = VARIANTS,
    title: str = "Made-up study for tests, not a result",
) -> Path:
    """Write study.yaml and a result for every job; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"title": title, "domains": list(DOMAINS), "base": "tiny", "variants": variants}
    tree["settings"] = {"model.mask_rule": "uncertain"}
    tree |= {"pairs": [list(pair) for pair in pairs]} if pairs else {}
    given = folder / "given.yaml"
    given.write_text(json.dumps(tree))
    study = Study(folder, definition.read(given))
    (folder / "study.yaml").write_text(definition.to_yaml(study.definition))
    given.unlink()
    (folder / "results").mkdir(exist_ok=True)
    for job in study.jobs.values():
        pair = study.pairs.index((job.source, job.target)) if job.target else 0
        value = score(job.variant, pair, job.seed)
        study.result_file(job.id).write_text(json.dumps(result_of(job, value, study)))
    return folder


def scores(miou: float, step: int = 100) -> dict[str, object]:
    """An evaluation with this mIoU; the last class is in no ground truth."""
    present = [1000] * (len(CLASSES) - 1) + [0]
    return {
        "step": step, "score": miou, "images": 7, "classes": list(CLASSES), "miou": miou, "fwiou": miou + 10,
        "macc": miou + 5, "pacc": miou + 20, "iou": [miou + i for i in range(len(CLASSES))], "pixels": present,
    }  # fmt: skip


def result_of(job, miou: float, study: Study) -> dict[str, object]:
    """A result file's content."""
    common = {
        "id": job.id, "kind": job.kind, "source": job.source, "target": job.target, "variant": job.variant,
        "stage": job.stage, "seed": job.seed, "regions": job.regions, "steps": 100, "seconds": 36.0,
        "revision": "made-up-revision",
    }  # fmt: skip
    if job.kind == "estimator":
        estimator = {
            "accuracy": 0.8, "proxy_a_distance": 1.2, "transferability_source_mean": 0.7,
            "transferability_target_mean": 0.3, "transferability_target_std": 0.1, "score": 0.8, "step": 100,
        }  # fmt: skip
        return common | {"mask_rule": None, "last": estimator, "best": estimator, "estimator": estimator}
    on = {domain: scores(20.0) for domain in study.domains} if job.kind == "source" else None
    return common | {
        "mask_rule": job.config.model.mask_rule if job.stage == "tmt" else "foreground",
        "last": scores(miou), "best": scores(miou + 1, 50), "curve": [[0, 20.0], [50, miou + 1], [100, miou]],
        "allowed_fraction": [0.6, 0.4], "fallback_rate": [0.0, 0.1], "on": on,
    }  # fmt: skip
