"""The models, discriminators and images behind a study's results, where its job folders are there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tmt.data import Dataset, LabelSet
from tmt.data.spec import DatasetSpec
from tmt.errors import DataError
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import freeze, load_estimator, open_model
from tmt.model.loading import Adapt
from tmt.report.scores import estimators
from tmt.settings import RegionSettings, TMTSettings, values_of
from tmt.studies import Pair, Study
from tmt.studies.jobs import Job


class NotThere(DataError):
    """A job's folder, or what it needs, that is not on this machine; the report goes on without it."""


def target_images(study: Study, job: Job) -> Dataset:
    """The validation split of a job's target."""
    data = job.config.data
    root = study.root(str(job.target))
    if not root.is_dir():
        raise NotThere(f"{root}: no such folder; pictures and correlations need the target's images")
    return DatasetSpec.of(data, "target", root).open("val")


def target_model(job: Job, label_set: LabelSet) -> TMTForSemanticSegmentation:
    """The trained model of a target job."""
    return _frozen(job.weights, None, label_set)


def judge(
    study: Study, job: Job, label_set: LabelSet, regions: str | None = None, stride: int = 8
) -> TMTForSemanticSegmentation:
    """The plain source model of an estimator's job, with the trained discriminator, which its attention ignores.

    `regions` other than the job's own: judge `superpixel` or `grid` with the same discriminator. `stride` 4: regions
    are cut from the mask features at their own size, as many positions wide and so half as many pixels.
    """
    judged = values_of(job.config.model, RegionSettings) | ({} if regions is None else {"regions": regions})
    judged["estimator_kind"] = job.config.estimator.kind

    def adapt(settings: TMTSettings) -> TMTSettings:
        return replace(settings, transferability=False, **judged)

    (source,) = study.finished[job.id].needs
    model = _frozen(study.jobs[source].weights, adapt, label_set)
    load_estimator(model, job.weights)
    model.acte = replace(model.acte, stride=stride)
    return model


def _frozen(folder: Path, adapt: Adapt | None, label_set: LabelSet) -> TMTForSemanticSegmentation:
    """A saved model for evaluation. Raises NotThere where its folder is gone."""
    if not (folder / "config.json").is_file():
        raise NotThere(f"{folder}: no such model; pictures and correlations need the study's job folders")
    model = open_model(folder, adapt, label_set)
    freeze(model)
    return model


def tell_left_out(what: str, failed: Sequence[tuple[str, NotThere]], say: Callable[[str], None]) -> None:
    """One line for everything that is not on this machine, with the reason of the first."""
    if failed:
        names = ", ".join(name for name, _ in failed[:4]) + (f" and {len(failed) - 4} more" if len(failed) > 4 else "")
        say(f"{what} left out of {names}: {failed[0][1]}")


def kinds_of(study: Study, pair: Pair, seed: int) -> list[str]:
    """The kinds of the finished estimators of a pair and seed, in the order of the plan."""
    return list(dict.fromkeys(job.config.estimator.kind for job in _estimator_jobs(study, pair, seed)))


def estimators_of(study: Study, pair: Pair, seed: int, kind: str = "domain") -> dict[str, Job]:
    """The first finished estimator of a kind on each kind of regions, `superpixel` and `grid`, of a pair and seed."""
    found: dict[str, Job] = {}
    for job in _estimator_jobs(study, pair, seed):
        if job.config.estimator.kind == kind:
            found.setdefault(job.config.model.regions, job)
    return found


def _estimator_jobs(study: Study, pair: Pair, seed: int) -> list[Job]:
    return [study.jobs[result.id] for result in estimators(study) if (result.pair, result.seed) == (pair, seed)]
