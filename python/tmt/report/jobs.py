"""A study's job folders: the models, discriminators and images behind its results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from tmt.data import Dataset, LabelSet, open_dataset
from tmt.errors import DataError
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import freeze, load_estimator, open_model
from tmt.model.loading import Adapt
from tmt.report.study import Pair, StudyView
from tmt.settings import Config, RegionSettings, arguments, outcome, values_of
from tmt.studies import Result
from tmt.training.domains import synthetic_root


class NotThere(DataError):
    """A job's folder, or what it needs, that is not on this machine; the report goes on without it."""


@dataclass(frozen=True)
class JobFolder:
    """The run folder of one finished job."""

    study: Path
    result: Result

    @property
    def path(self) -> Path:
        """The folder."""
        return self.study / "jobs" / self.result.id

    @cached_property
    def config(self) -> Config:
        """The settings that the job ran with."""
        path = self.path / "config.yaml"
        if not path.is_file():
            raise NotThere(f"{path}: no such file; pictures and correlations need the study's job folders")
        return arguments.from_yaml(path)

    @property
    def weights(self) -> Path:
        """A segmentation model's folder, or a discriminator's file."""
        return outcome(self.path, self.result.stage)

    @property
    def source_model(self) -> Path:
        """The folder of the source model that the job started from: this study's, wherever it is now, else as given."""
        given = Path(self.config.source_model or "")
        own = outcome(self.study / "jobs" / given.parent.parent.name, "source")
        return own if own.is_dir() else given

    def target_images(self) -> Dataset:
        """The target's validation split."""
        data = self.config.data
        root = data.target_root or synthetic_root(self.config, self.path, data.target)
        moved = self.study / "data" / data.target
        if not Path(root).is_dir() and moved.is_dir():
            root = moved
        if not Path(root).is_dir():
            raise NotThere(f"{root}: no such folder; pictures and correlations need the target's images")
        return open_dataset(data.target, root, "val", mapping=data.mapillary_mapping, version=data.mapillary_version)

    def model(self, label_set: LabelSet) -> TMTForSemanticSegmentation:
        """The trained model of a target job."""
        return frozen(self.weights, None, label_set)

    def judge(self, label_set: LabelSet, regions: str | None = None) -> TMTForSemanticSegmentation:
        """The plain source model of an estimator's job, with the trained discriminator, which its attention ignores.

        `regions` other than the job's own: judge `superpixel` or `grid` with the same discriminator.
        """
        judged = values_of(self.config.model, RegionSettings) | ({} if regions is None else {"regions": regions})
        adapt = partial(replace, transferability=False, **judged)
        model = frozen(self.source_model, adapt, label_set)
        load_estimator(model, self.weights)
        return model


def frozen(folder: Path, adapt: Adapt | None, label_set: LabelSet) -> TMTForSemanticSegmentation:
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


def estimators_of(study: StudyView, pair: Pair, seed: int) -> dict[str, JobFolder]:
    """The first estimator's job of each kind of regions, `superpixel` and `grid`, of a pair and seed."""
    found: dict[str, JobFolder] = {}
    for result in study.estimators:
        if ((result.source, result.target), result.seed) == (pair, seed):
            job = JobFolder(study.folder, result)
            found.setdefault(job.config.model.regions, job)
    return found
