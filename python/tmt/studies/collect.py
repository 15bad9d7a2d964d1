"""What is kept of a finished job: a small file of results; its folder can be thinned out."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from tmt.runtime.files import read_lines, read_record
from tmt.settings import Keep
from tmt.studies.attempts import ATTEMPTS, LOG, read_attempts
from tmt.studies.jobs import Job
from tmt.studies.results import Row

ALWAYS_KEPT = (LOG, ATTEMPTS, "config.yaml", "run.json", "metrics.jsonl", "done.json")
"""Names of the small files that stay in a job's folder."""
MEND = "remove the job's folder, and the study trains it anew"
SCORED = "on.json"
"""What a source model scores on every domain, in its job's folder."""


def result_of(job: Job, seconds: float) -> Row:
    """The fields of `Result`, from the folder of a job that has ended well.

    Raises OSError, CheckpointError for a damaged file, and ValueError, KeyError, TypeError or AttributeError for one of
    other content.
    """
    measured = _measured(job)
    return {
        "id": job.id,
        "kind": job.kind,
        "source": job.source,
        "target": job.target,
        "variant": job.variant,
        "stage": job.stage,
        "seed": job.seed,
        "regions": job.regions,
        "needs": list(job.needs),
        "steps": job.fit.steps,
        "seconds": round(seconds + sum(attempt.seconds for attempt in read_attempts(job.folder)), 1),
        "revision": read_record(job.folder / "run.json", MEND)["revision"],
        **measured,
    }


def _measured(job: Job) -> Row:
    stage = job.folder / job.stage
    done = read_record(stage / "done.json", MEND)
    lines = read_lines(stage / "metrics.jsonl")
    attention = next((line for line in reversed(lines) if "allowed_fraction" in line), {})
    curve = {line["step"]: line["evaluation"]["score"] for line in lines if "evaluation" in line}
    return {
        "mask_rule": done.get("mask_rule"),
        "last": done["last"],
        "best": done["best"],
        "estimator": done[done.get("kept", "last")] if job.kind == "estimator" else None,
        "curve": sorted(curve.items()),
        "allowed_fraction": attention.get("allowed_fraction"),
        "fallback_rate": attention.get("fallback_rate"),
        "on": read_record(job.folder / SCORED, MEND) if job.kind == "source" else None,
    }


def thin_out(folder: Path, keep: Keep, stage: str) -> None:
    """Remove from a finished job's folder what is no longer needed.

    all: nothing but the checkpoint that training resumes from; models: the best weights, too; nothing: every model.
    """
    checkpoint = folder / stage / "checkpoint.pt"
    checkpoint.unlink(missing_ok=True)
    if keep == "models":
        shutil.rmtree(folder / stage / "best", ignore_errors=True)
    if keep == "nothing":
        remove_all_but(folder, ALWAYS_KEPT)


def remove_all_but(folder: Path, names: Iterable[str]) -> None:
    """Remove every file below a folder that has another name, and the folders that this leaves empty."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.name not in names:
            path.unlink()


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
