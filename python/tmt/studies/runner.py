"""Runs what is missing of a study: a job once what it needs is done, several at a time, again where it fails."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tqdm import tqdm

from tmt.errors import ConfigError
from tmt.runtime.files import write_json, write_text
from tmt.runtime.signals import Interrupted, Stop
from tmt.studies.attempts import ATTEMPTS, LOG, Attempt, add_attempt, lost_its_state, reason
from tmt.studies.backends import BUSY, POLL_SECONDS, Backend, Handle
from tmt.studies.collect import Keep, remove_all_but, result_of, size_of, thin_out
from tmt.studies.jobs import Job, config_text, drawn_root, images_drawn
from tmt.studies.lock import held
from tmt.studies.process import Commands
from tmt.studies.study import Study
from tmt.synthetic import make

DATA_SEED = 0
"""Of the drawn domains: all seeds of a study train on the same images."""


class StudyInterrupted(Interrupted):
    """The study stopped on request, its running jobs with their state saved."""

    def __init__(self, signum: int, where: str):
        super().__init__(signum, where)
        self.args = (str(self).replace("the same command with --resume goes on", "the same command goes on"),)


def commands_of(job: Job, study: Study, processes: int = 1) -> Commands:
    """The commands of a job, to be run one after another; with several processes, under torchrun."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    train = [*launcher, "tmt.train", "--config", str(job.folder / "config.yaml"), "--resume"]
    if job.kind != "source":
        return [train]
    roots = [f"{_with_options(study, domain)}={study.root(domain)}" for domain in study.domains]
    return [train, [*launcher, "tmt.cli.score", str(job.folder), *roots]]


def _with_options(study: Study, domain: str) -> str:
    """A domain as tmt.cli.score takes it."""
    data = study.definition.config.data
    return f"mapillary:{data.mapillary_mapping}:{data.mapillary_version or ''}" if domain == "mapillary" else domain


@dataclass
class _Running:
    handle: Handle
    started: float
    log_start: int


@dataclass
class Runner:
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
    _running: dict[str, _Running] = field(default_factory=dict, init=False)
    _failures: dict[str, int] = field(default_factory=dict, init=False)
    _lost: set[str] = field(default_factory=set, init=False)
    """Jobs that failed for good, and those that need one of them."""
    _anew: set[str] = field(default_factory=set, init=False)
    """Jobs whose next attempt begins in an empty folder."""
    _said: set[str] = field(default_factory=set, init=False)

    def run(self) -> int:
        """Run until nothing is left that can; the number of jobs that failed or wait for such.

        Raises ConfigError or DataError before anything runs, and StudyInterrupted when asked to stop.
        """
        todo = self._todo()
        self._remove_checkpoints()
        if todo:
            self._prepare_study()
        with self._bar(todo) as bar:
            while todo or self._running:
                self._leave_if_asked()
                started = self._start_what_can(todo)
                self._show(bar)
                if not self._running and not started and not self._waits_for_another_call(todo):
                    break
                self._poll(todo, bar)
        if self.keep == "nothing" and not todo:
            self._drop_models()
        return len(self._lost)

    def _todo(self) -> dict[str, Job]:
        """The jobs to run, in the order of the plan."""
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
        return {name: job for name, job in self.study.jobs.items() if name in wanted}

    def _remove_checkpoints(self) -> None:
        """Of jobs after whose end an earlier call was killed at once."""
        for job in self.study.jobs.values():
            if self.study.done(job.id) and (job.folder / job.stage / "checkpoint.pt").exists():
                self._thin_out(job)

    def _prepare_study(self) -> None:
        """Write study.yaml and draw the domains that have no root."""
        study, data = self.study, self.study.definition.config.data
        for domain, root in study.definition.roots.items():
            if not Path(root).is_dir():
                raise ConfigError(f"roots.{domain}: must be the folder of the dataset, got {root}; mend the study file")
        study.save()
        for domain in (name for name in study.domains if name not in study.definition.roots):
            make(
                domain,
                drawn_root(study.folder, domain),
                train=images_drawn(study.definition.config),
                val=data.synthetic_val,
                size=data.synthetic_size,
                seed=DATA_SEED,
                distance=data.synthetic_distance,
                progress=sys.stderr.isatty(),
            )

    def _start_what_can(self, todo: dict[str, Job]) -> bool:
        """Fill the free slots with the first jobs whose needs are done; whether any was started or tried."""
        acted = False
        for job in list(todo.values()):
            if len(self._running) >= self.backend.slots:
                break
            if job.id in self._running:
                continue
            if any(need in self._lost for need in job.needs):
                self._lost.add(todo.pop(job.id).id)
                acted = True
            elif not any(need in todo for need in job.needs):
                acted |= self._start(job, todo)
        return acted

    def _start(self, job: Job, todo: dict[str, Job]) -> bool:
        """Start a job; False where that must wait for a process that an earlier, killed call has left."""
        if held(self.study.lock_file(job.id)):
            return self._wait_for_earlier(job)
        try:
            self._prepare_job(job)
            log = job.folder / LOG
            log_start = log.stat().st_size if log.exists() else 0
            commands = self.commands(job) if self.commands else commands_of(job, self.study)
            handle = self.backend.start(job.folder, commands, self._environment(), self.study.lock_file(job.id))
        except OSError as error:
            self._failed(job, Attempt(1, 0.0, _of(error)), todo)
            return True
        if handle is None:
            return self._wait_for_earlier(job)
        self._running[job.id] = _Running(handle, time.monotonic(), log_start)
        return True

    def _prepare_job(self, job: Job) -> None:
        """The job's folder with its config.yaml: as an earlier attempt left it, or, where that is no use, empty."""
        text, path = config_text(job.config), job.folder / "config.yaml"
        job.folder.mkdir(parents=True, exist_ok=True)
        whole = path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text
        trained = (job.folder / job.stage / "done.json").exists()
        if not whole or (trained and not job.weights.exists()) or job.id in self._anew:
            remove_all_but(job.folder, (LOG, ATTEMPTS))
            write_text(path, text)

    def _environment(self) -> dict[str, str]:
        threads = str(self.study.definition.threads)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if os.environ.get("PYTHONPATH"):  # a worker may have another working directory
            paths = os.environ["PYTHONPATH"].split(os.pathsep)
            environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths)
        return environment

    def _wait_for_earlier(self, job: Job) -> bool:
        if job.id not in self._said:
            self._said.add(job.id)
            tqdm.write(f"{job.id}: a process of an earlier call still works on it; waiting for its end")
        return False

    def _waits_for_another_call(self, todo: dict[str, Job]) -> bool:
        return any(name in self._said for name in todo)

    def _poll(self, todo: dict[str, Job], bar: tqdm) -> None:
        time.sleep(POLL_SECONDS)
        for name, running in list(self._running.items()):
            job = self.study.jobs[name]
            try:
                code = running.handle.poll()
            except OSError as error:
                del self._running[name]
                self._failed(job, Attempt(1, round(time.monotonic() - running.started, 1), _of(error)), todo)
                continue
            if code is None:
                continue
            del self._running[name]
            if code == BUSY:
                self._wait_for_earlier(job)
            else:
                self._ended(job, code, running, todo)
                bar.update(name not in todo and name not in self._lost)

    def _ended(self, job: Job, code: int, running: _Running, todo: dict[str, Job]) -> None:
        seconds = time.monotonic() - running.started
        if code == 0:
            try:
                write_json(self.study.result_file(job.id), result_of(job, seconds))
            except OSError as error:
                self._failed(job, Attempt(1, seconds, _of(error)), todo)
            except (ValueError, KeyError) as error:
                self._failed(job, Attempt(1, seconds, f"left no readable results ({error})"), todo)
            else:
                del todo[job.id]
                self._done(job, Attempt(0, round(seconds, 1), ""))
            return
        self._failed(job, Attempt(code, round(seconds, 1), reason(code, self._log(job, running.log_start))), todo)

    def _log(self, job: Job, start: int) -> str:
        """The end of what an attempt wrote to the log."""
        path = job.folder / LOG
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 100_000))
            return file.read().decode("utf-8", errors="replace")

    def _done(self, job: Job, attempt: Attempt) -> None:
        try:
            add_attempt(job.folder, attempt)
            self._thin_out(job)
        except OSError as error:
            tqdm.write(f"warning: {job.id}: its folder could not be thinned out ({_of(error)})")
        if job.kind == "source" and "disk" not in self._said:
            self._said.add("disk")
            tqdm.write(self._disk_note(job))

    def _thin_out(self, job: Job) -> None:
        """Models that other jobs start from stay until the end."""
        thin_out(job.folder, self.keep if job.kind == "target" or self.keep != "nothing" else "models", job.stage)

    def _failed(self, job: Job, attempt: Attempt, todo: dict[str, Job]) -> None:
        """Put a failure on record; the job stays to be done where attempts are left."""
        self._failures[job.id] = self._failures.get(job.id, 0) + 1
        again = self._failures[job.id] <= self.retries
        self._anew.discard(job.id)
        if lost_its_state(attempt):
            self._anew.add(job.id)
        if not again:
            self._lost.add(todo.pop(job.id).id)
        tqdm.write(f"{job.id}: {attempt.message}; {'trying again' if again else 'failed'} (log: {job.folder / LOG})")
        try:
            add_attempt(job.folder, attempt)
        except OSError as error:
            tqdm.write(f"warning: {job.id}: its failure could not be put on record ({_of(error)})")

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
        for running in self._running.values():
            running.handle.stop()
        for running in self._running.values():
            running.handle.wait()
        raise StudyInterrupted(self.stop.signum, f"with {len(self._running)} jobs at work, their state saved")

    def _bar(self, todo: dict[str, Job]) -> tqdm:
        done = sum(fnmatch(name, self.only) and name not in todo for name in self.study.jobs)
        return tqdm(
            total=done + len(todo), initial=done, desc=self.study.name, unit="job", dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 60,
        )  # fmt: skip

    def _show(self, bar: tqdm) -> None:
        names = sorted(self._running)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lost = f", {len(self._lost)} failed" if self._lost else ""
        bar.set_postfix_str(f"{', '.join(names[:3])}{more}{lost}", refresh=sys.stderr.isatty())


def _of(error: OSError) -> str:
    return reason(1, f"{error.filename}: {error.strerror}" if error.filename else str(error)).removeprefix(
        "exit code 1 "
    )


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
