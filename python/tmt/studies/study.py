"""A study's folder: study.yaml, data, a folder a job, and the results of each job that is done.

These are a small file a job, or a line of a table where only the results were kept (tmt.studies.export).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tmt.errors import ConfigError
from tmt.runtime.files import remove_leftovers, write_text
from tmt.runtime.lock import held, holds_files
from tmt.settings.files import hint
from tmt.studies import definition as definitions
from tmt.studies.attempts import LOG, read_attempts
from tmt.studies.definition import Definition, Pair, Variant
from tmt.studies.jobs import Job, drawn_root, job_folder, plan
from tmt.studies.results import FINDINGS, Result, Row, read_file, read_table, to_result

STATES = ("done", "running", "missing", "failed", "blocked")
"""`blocked`: something that it needs has failed."""


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
        elif holds_files(folder):
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
    def pairs(self) -> tuple[Pair, ...]:
        """Source and target."""
        return self.definition.pairs

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains, sources and targets."""
        return self.definition.domains

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """All jobs by id, each after those that it needs."""
        return plan(self.definition, self.folder)

    def job(self, name: str) -> Job:
        """A job by its id. Raises ConfigError where there is none of that id."""
        if name not in self.jobs:
            raise ConfigError(f"job: {self.folder} has none called {name}{hint(name, self.jobs)}; --list shows them")
        return self.jobs[name]

    def job_folder(self, job: str) -> Path:
        """The run's folder of a job; it may have been dropped since."""
        return job_folder(self.folder, job)

    def root(self, domain: str) -> Path:
        """The folder of a domain's images."""
        return Path(self.definition.roots.get(domain, drawn_root(self.folder, domain)))

    def result_file(self, job: str) -> Path:
        """The file of a job's results, written at its end."""
        return self.folder / "results" / f"{job}.json"

    @cached_property
    def _table(self) -> dict[str, Row]:
        return read_table(self.folder)

    def done(self, job: str) -> bool:
        """Whether a job's results are there."""
        return job in self._table or self.result_file(job).is_file()

    def row(self, job: str) -> Row:
        """A finished job's results as they are kept: its file or, where there is none, its line of the table."""
        path = self.result_file(job)
        if path.is_file() or job not in self._table:
            return read_file(path)
        return {name: value for name, value in self._table[job].items() if name != FINDINGS}

    def results(self) -> list[Result]:
        """The results of all jobs that are done, in the order of the plan. Raises ConfigError for a damaged file."""
        done = [job for job in self.jobs.values() if self.done(job.id)]
        return [to_result(self.row(job.id), self.result_file(job.id), job.needs) for job in done]

    @cached_property
    def finished(self) -> dict[str, Result]:
        """`results` by job, as they are when first asked for: what a report is made from."""
        return {result.id: result for result in self.results()}

    @cached_property
    def targets(self) -> dict[tuple[str, Pair, int], Result]:
        """The finished target models by variant, pair and seed."""
        found = [result for result in self.finished.values() if result.kind == "target"]
        return {(one.variant, one.pair, one.seed): one for one in found}

    @cached_property
    def sources(self) -> dict[tuple[str, int], Result]:
        """The finished source models by domain and seed, without those that a variant has of its own."""
        own = {variant.name for variant in self.variants if variant.own_base}
        theirs = {need for job in self.jobs.values() if job.variant in own for need in job.needs}
        found = [one for one in self.finished.values() if one.kind == "source" and one.id not in theirs]
        return {(one.source, one.seed): one for one in found}

    def variant(self, name: str) -> Variant:
        """A variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)

    def changed(self, variant: Variant) -> dict[str, object]:
        """The settings that a variant has other than the study, by name."""
        return definitions.changed(variant.config, self.definition.config)

    def with_role(self, *roles: str) -> list[Variant]:
        """The variants of these roles, in the order of the study file."""
        return [variant for variant in self.variants if variant.role in roles]

    def findings(self) -> list[Row]:
        """What the report had found out, with the models, about the jobs of the table."""
        return [finding for row in self._table.values() for finding in row.get(FINDINGS, ())]

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
