"""A study's folder: study.yaml, data, a folder a job, and a small file of results for each job that is done."""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from tmt.errors import ConfigError
from tmt.runtime.files import remove_leftovers, write_text
from tmt.studies import definition as definitions
from tmt.studies.attempts import LOG, read_attempts
from tmt.studies.definition import Definition, Variant
from tmt.studies.jobs import Job, drawn_root, job_folder, plan
from tmt.studies.lock import held

STATES = ("done", "running", "missing", "failed", "blocked")
"""`blocked`: something that it needs has failed."""


@dataclass(frozen=True)
class Result:
    """What a finished job measured. Scores are in percent, as in tmt.inference.metrics."""

    id: str
    kind: str
    """`source`, `estimator` or `target`."""
    source: str
    target: str | None
    variant: str
    """The variant's name in the study; of sources and estimators, the kind."""
    stage: str
    mask_rule: str | None
    seed: int
    last: dict
    """Scores of the last weights."""
    best: dict
    """Scores of the best evaluation during training, with its `step`."""
    seconds: float
    """Wall time of all attempts at the job that came to an end."""
    revision: str
    steps: int
    estimator: dict | None = None
    """Of an estimator: held-out accuracy, proxy A-distance and how transferability spreads."""
    curve: tuple[tuple[int, float], ...] = ()
    """Step and score of each evaluation during training."""
    allowed_fraction: tuple[float, ...] | None = None
    """Per layer, as logged last in training."""
    fallback_rate: tuple[float, ...] | None = None
    """Per layer, as logged last in training."""
    on: dict[str, dict] | None = None
    """Of a source model: its scores on every domain of the study, its own among them."""
    regions: str | None = None
    """How the regions that transferability is judged on are made; None where it plays no part."""


@dataclass(frozen=True)
class Study:
    """A study and its folder."""

    folder: Path
    definition: Definition

    @classmethod
    def open(cls, folder: str | Path) -> "Study":
        """The study in a folder. Raises ConfigError where there is none."""
        path = Path(folder) / "study.yaml"
        if not path.is_file():
            raise ConfigError(
                f"{folder}: holds no study (study.yaml); run python -m tmt.experiments STUDY --out {folder}"
            )
        return cls(Path(folder).resolve(), definitions.read(path))

    @classmethod
    def begin(cls, definition: Definition, folder: str | Path) -> "Study":
        """The study of this definition in `folder`, without writing anything.

        Raises ConfigError for a folder that holds anything else, or the study with settings that would not go with the
        results that are there; more pairs, variants and seeds do.
        """
        folder = Path(folder).resolve()
        if (folder / "study.yaml").is_file():
            found = definitions.changes(cls.open(folder).definition, definition)
            if found:
                raise ConfigError(
                    f"out: the study's settings must be those {folder} was begun with, got {'; '.join(found[:5])}"
                    f"{' and more' if len(found) > 5 else ''}; use another --out"
                )
        elif folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()):
            raise ConfigError(f"out: {folder} must be new, empty or a study's folder (study.yaml); use another --out")
        return cls(folder, definition)

    def save(self) -> None:
        """Write study.yaml, so that the folder is this study's. Raises ConfigError where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "study.yaml", definitions.to_yaml(self.definition))
            (self.folder / "results").mkdir(exist_ok=True)
            remove_leftovers(self.folder / "results")
        except OSError as error:
            raise ConfigError(
                f"out: {self.folder} cannot be written ({error.strerror}); choose another --out"
            ) from error

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def title(self) -> str:
        return self.definition.title

    @property
    def variants(self) -> tuple[Variant, ...]:
        """In the order of the study file."""
        return self.definition.variants

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Source and target."""
        return self.definition.pairs

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains, sources and targets."""
        return self.definition.domains

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all variants."""
        return tuple(sorted({seed for variant in self.variants for seed in variant.seeds}))

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """All jobs by id, each after those that it needs."""
        return plan(self.definition, self.folder)

    def job_folder(self, job: str) -> Path:
        """The run's folder of a job; it may have been dropped since."""
        return job_folder(self.folder, job)

    def root(self, domain: str) -> Path:
        """The folder of a domain's images."""
        return Path(self.definition.roots.get(domain, drawn_root(self.folder, domain)))

    def result_file(self, job: str) -> Path:
        """The file whose presence says that a job is done."""
        return self.folder / "results" / f"{job}.json"

    def done(self, job: str) -> bool:
        """Whether a job's results are there."""
        return self.result_file(job).is_file()

    def results(self) -> list[Result]:
        """The results of all jobs that are done, in the order of the plan. Raises ConfigError for a damaged file."""
        return [read_result(self.result_file(job)) for job in self.jobs if self.done(job)]

    def lock_file(self, job: str) -> Path:
        """The file that is locked as long as a process works in the job's folder."""
        return self.folder / "jobs" / ".locks" / job

    def states(self) -> dict[str, str]:
        """The state of every job, one of STATES."""
        states: dict[str, str] = {}
        for job in self.jobs.values():
            if self.done(job.id):
                states[job.id] = "done"
            elif held(self.lock_file(job.id)):
                states[job.id] = "running"
            elif any(states[need] in ("failed", "blocked") for need in job.needs):
                states[job.id] = "blocked"
            else:
                attempts = read_attempts(job.folder)
                states[job.id] = "failed" if attempts and attempts[-1].code else "missing"
        return states

    def failure(self, job: str) -> str:
        """Why a job failed, and where its log is, on one line."""
        folder = self.job_folder(job)
        attempts = read_attempts(folder)
        count = f"{len(attempts)} attempts" if len(attempts) > 1 else "1 attempt"
        return f"{job}: {attempts[-1].message if attempts else 'failed'} ({count}; log: {folder / LOG})"


def read_result(path: Path) -> Result:
    """One job's results. Raises ConfigError for a file that is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name: content[item.name] for item in fields(Result) if item.name in content}
        for name in ("allowed_fraction", "fallback_rate"):
            known[name] = known.get(name) and tuple(known[name])
        return Result(**{**known, "curve": tuple((step, score) for step, score in content.get("curve", ()))})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is not a job's results ({error}); remove it, and the study makes it anew"
        ) from error
