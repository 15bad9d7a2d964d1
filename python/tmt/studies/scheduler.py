"""Runs what is missing of a study: a job once what it needs is done, as many at a time as there is room for."""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch

from tqdm import tqdm

from tmt.runtime.signals import Interrupted, Stop
from tmt.settings import Keep
from tmt.studies.backends import POLL_SECONDS, Backend
from tmt.studies.collect import size_of, thin_out
from tmt.studies.commands import commands_of, environment_of
from tmt.studies.jobs import Job
from tmt.studies.lifecycle import JobRun, Setting, State, thin_out_for_now
from tmt.studies.prepare import prepare
from tmt.studies.process import Commands
from tmt.studies.study import Study


class StudyInterrupted(Interrupted):
    """The study stopped on request, its running jobs with their state saved."""

    def __init__(self, signum: int, where: str):
        super().__init__(signum, where)
        self.args = (str(self).replace("the same command with --resume goes on", "the same command goes on"),)


@dataclass
class Scheduler:
    """One call of a study. The caller holds the study's folder (`lock.only_one`)."""

    study: Study
    backend: Backend
    stop: Stop
    retries: int = 1
    """Further attempts at a job that fails."""
    keep: Keep = "models"
    only: str = "*"
    """Pattern of the jobs that are wanted; what they need is run as well."""
    commands: Callable[[Job], Commands] | None = None
    """A job's commands; None: `commands_of`."""
    _runs: dict[str, JobRun] = field(default_factory=dict, init=False)
    """The jobs of this call, in the order of the plan."""

    def run(self) -> int:
        """Run until nothing is left that can; the number of jobs that failed or wait for such.

        Raises ConfigError or DataError before anything runs, and StudyInterrupted when asked to stop.
        """
        self._runs = self._plan()
        self._remove_checkpoints()
        if self._runs:
            prepare(self.study)
        with self._bar() as bar:
            while self._in("waiting", "working"):
                self._leave_if_asked()
                started = self._start_what_can()
                self._show(bar)
                if not self._in("working") and not started and not any(run.busy for run in self._in("waiting")):
                    break
                self._poll(bar)
        if self.keep == "nothing" and not self._in("waiting", "working"):
            self._drop_models()
        return len(self._in("lost"))

    def _in(self, *states: State) -> list[JobRun]:
        return [run for run in self._runs.values() if run.state in states]

    def _plan(self) -> dict[str, JobRun]:
        study = self.study
        commands = self.commands or (lambda job: commands_of(job, study))
        setting = Setting(self.backend, commands, environment_of(study), self.retries, self.keep)
        wanted = self._wanted()
        return {
            name: JobRun(job, study.lock_file(name), study.result_file(name), setting)
            for name, job in study.jobs.items()
            if name in wanted
        }

    def _wanted(self) -> set[str]:
        """The jobs to run, and those whose models they need."""
        wanted: set[str] = set()

        def want(job: Job) -> None:
            wanted.add(job.id)
            for need in (self.study.jobs[name] for name in job.needs):
                # Its results may be there while its weights have been dropped: then it is trained again.
                if need.id not in wanted and not (self.study.done(need.id) and need.weights.exists()):
                    want(need)

        for job in self.study.jobs.values():
            if fnmatch(job.id, self.only) and not self.study.done(job.id):
                want(job)
        return wanted

    def _remove_checkpoints(self) -> None:
        """Of jobs after whose end an earlier call was killed at once."""
        for job in self.study.jobs.values():
            if self.study.done(job.id) and (job.folder / job.stage / "checkpoint.pt").exists():
                thin_out_for_now(job, self.keep)

    def _start_what_can(self) -> bool:
        """Fill the free slots with the first jobs whose needs are done; whether any was started or given up."""
        acted = False
        for run in self._in("waiting"):
            if len(self._in("working")) >= self.backend.slots:
                break
            needs = {self._runs[need].state for need in run.job.needs if need in self._runs}
            if "lost" in needs:
                run.state, acted = "lost", True
            elif needs <= {"done"}:
                acted |= run.start()
        return acted

    def _poll(self, bar: tqdm) -> None:
        time.sleep(POLL_SECONDS)
        for run in self._in("working"):
            run.poll()
            if run.state == "done":
                bar.update()
                self._tell_of_the_disk(run.job)

    def _tell_of_the_disk(self, job: Job) -> None:
        """Once, after the first source model: what the jobs left will need."""
        if job.kind == "source" and [run.job.kind for run in self._in("done")].count("source") == 1:
            tqdm.write(self._disk_note(job))

    def _disk_note(self, job: Job) -> str:
        weights, free = size_of(job.weights), shutil.disk_usage(self.study.folder).free
        left = sum(not self.study.done(name) for name in self.study.jobs)
        # At work: weights, best weights, a checkpoint with two moments of each weight, and a new one beside it.
        need = 8 * weights * self.backend.slots + (0 if self.keep == "nothing" else left * weights)
        line = f"disk: the {left} jobs left need about {_gigabytes(need)}, {_gigabytes(free)} are free"
        return line if need < free else f"warning: {line}; make room, or give --keep nothing"

    def _drop_models(self) -> None:
        for job in self.study.jobs.values():
            if job.folder.is_dir() and self.study.done(job.id):
                thin_out(job.folder, "nothing", job.stage)

    def _leave_if_asked(self) -> None:
        if not self.stop.asked():
            return
        working = self._in("working")
        for run in working:
            run.stop()
        for run in working:
            run.wait()
        raise StudyInterrupted(self.stop.signum, f"with {len(working)} jobs at work, their state saved")

    def _bar(self) -> tqdm:
        done = sum(fnmatch(name, self.only) and name not in self._runs for name in self.study.jobs)
        return tqdm(
            total=done + len(self._runs), initial=done, desc=self.study.name, unit="job", dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 60,
        )  # fmt: skip

    def _show(self, bar: tqdm) -> None:
        names = sorted(run.job.id for run in self._in("working"))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lost = f", {len(self._in('lost'))} failed" if self._in("lost") else ""
        bar.set_postfix_str(f"{', '.join(names[:3])}{more}{lost}", refresh=sys.stderr.isatty())


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
