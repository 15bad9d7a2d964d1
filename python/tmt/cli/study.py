"""Run a study: everything behind one table or figure of the paper, or of your own.

python -m tmt.experiments                              the studies that come with the package
python -m tmt.experiments table1                       run what is missing of it, in runs/table1
python -m tmt.experiments table1 --list                what is done, running, missing and failed
python -m tmt.experiments table2 --from runs/table1    what is the same there is not trained again
python -m tmt.experiments runs/table1 --export results/table1    keep its results in one table, without the models
python -m tmt.experiments my.yaml --root cityscapes=PATH --root gtav=PATH --out runs/mine
python -m tmt.experiments table1 --backend ray --address auto --gpus 0.5

Killed and started again, a study goes on with what is missing; what was at work goes on from its checkpoint. A failed
job does not stop those that do not need it, is tried again once, and again by the next call.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from tmt.cli.command import command
from tmt.errors import ConfigError, TrainingError
from tmt.runtime.processors import processors
from tmt.settings import StudyConfig
from tmt.settings.arguments import parse_command
from tmt.studies import definition as definitions
from tmt.studies.definition import STUDIES, Definition, find, studies
from tmt.studies.study import STATES, Study

if TYPE_CHECKING:  # imports torch
    from tmt.studies.backends import Backend


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake or failed jobs, 128 + n stopped by signal n."""
    return command(lambda given: run(parse_command("python -m tmt.experiments", given, StudyConfig)), argv)


def run(config: StudyConfig) -> None:
    """Do what a command line says. Raises tmt.errors.TMTError."""
    if config.study is None:
        print("\n".join(f"{name:10} {definitions.read(STUDIES / f'{name}.yaml').title}" for name in studies()))
        return
    study = open_study(config.study, config.out, config.root)
    if config.list:
        print(listing(study))
    elif config.export:
        from tmt.studies.export import export

        print(f"{export(study, config.export)} of {len(study.jobs)} jobs written to {config.export}")
    elif config.commands:
        print_commands(study, config)
    else:
        _run(study, config)


def open_study(name: str, out: str | None = None, roots: Sequence[str] = ()) -> Study:
    """The study of a name, file or folder, in the folder `out`, with real datasets as DATASET=PATH."""
    if (Path(name) / "study.yaml").is_file():
        opened = Study.open(name)
        definition, default = opened.definition, opened.folder
    else:
        definition = definitions.read(find(name))
        default = Path("runs") / definition.name
    return Study.begin(_with_roots(definition, roots), out or default)


def _with_roots(definition: Definition, roots: Sequence[str]) -> Definition:
    found = dict(definition.roots)
    for text in roots:
        domain, equals, root = text.partition("=")
        if not equals or not root or domain not in definition.domains:
            raise ConfigError(
                f"root: must be DATASET=PATH with a dataset of the study ({', '.join(definition.domains)}), got {text}"
            )
        found[domain] = str(Path(root).expanduser().resolve())
    return replace(definition, roots=found)


def listing(study: Study) -> str:
    """What is done, running, missing and failed, as text."""
    from tmt.runtime.markdown import markdown_table

    states = study.states()
    titles = {variant.name: variant.title for variant in study.variants}
    rows = []
    for name in ("source", "estimator", *titles):
        found = [states[job.id] for job in study.jobs.values() if job.variant == name]
        if found:
            counts = [str(found.count(state) or "-") for state in STATES]
            rows.append((titles.get(name, f"({name}s)"), *counts, str(len(found))))
    total = [sum(state == wanted for state in states.values()) for wanted in STATES]
    rows.append(("all jobs", *(str(count or "-") for count in total), str(len(states))))
    lines = [f"{study.name}: {study.title}", f"folder: {study.folder}"]
    lines += ["", markdown_table(("variant", *STATES, "jobs"), rows)]
    lines += [f"running: {name}" for name, state in states.items() if state == "running"]
    lines += [f"failed: {study.failure(name)}" for name, state in states.items() if state == "failed"]
    return "\n".join(lines)


def print_commands(study: Study, config: StudyConfig) -> None:
    """The commands of all jobs that are not done; the study writes the settings they name when it runs."""
    from tmt.studies.commands import commands_of

    for job in study.jobs.values():
        if fnmatch(job.id, config.only) and not study.done(job.id):
            print(f"# {job.id}{' after ' + ', '.join(job.needs) if job.needs else ''}")
            for words in commands_of(job, study, config.processes):
                print(shlex.join(["python", *words[1:]]))


def _run(study: Study, config: StudyConfig) -> None:
    from tmt.runtime.lock import only_one
    from tmt.runtime.signals import listen
    from tmt.studies.commands import commands_of
    from tmt.studies.reuse import reuse
    from tmt.studies.scheduler import Scheduler

    with only_one(study.folder, " (--list works meanwhile)"), listen() as stop:
        if config.reuse:
            print(f"{len(reuse(study, config.reuse))} jobs taken over from {config.reuse}")
        backend = _backend(study, config)
        try:
            failed = Scheduler(
                study, backend, stop, config.retry, config.keep, config.only,
                lambda job: commands_of(job, study, config.processes),
            ).run()  # fmt: skip
        finally:
            backend.close()
    print(f"\n{listing(study)}")
    if failed:
        raise TrainingError(
            f"{study.folder}: {failed} jobs failed or wait for one that did; the same command tries again"
        )


def _backend(study: Study, config: StudyConfig) -> "Backend":
    from tmt.studies.backends import Local, RayCluster, visible_gpus

    threads = study.definition.threads
    if config.backend == "ray":
        return RayCluster(config.jobs, config.address, threads if config.cpus is None else config.cpus, config.gpus)
    gpus = () if study.definition.config.device == "cpu" else visible_gpus()
    cores = max(1, processors() // threads)
    return Local(config.jobs or len(gpus) or cores, gpus if config.processes == 1 else ())
