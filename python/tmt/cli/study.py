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

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tmt.cli.command import command
from tmt.errors import ConfigError, TrainingError
from tmt.runtime.processors import processors
from tmt.studies import definition as definitions
from tmt.studies.definition import STUDIES, Definition, find, studies
from tmt.studies.study import STATES, Study

if TYPE_CHECKING:  # imports torch
    from tmt.studies.backends import Backend


class _Parser(argparse.ArgumentParser):
    """Mistakes as one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m tmt.experiments`."""
    made = _Parser(
        prog="python -m tmt.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("study", nargs="?", help=f"{', '.join(studies())}, a YAML file, or a study's folder; none: list the studies")
    add("--out", help="the study's folder (default: runs/NAME)")
    add("--list", action="store_true", help="only say what is done, running, missing and failed")
    add("--commands", action="store_true", help="only print the commands of the jobs that are not done")
    add("--export", metavar="DIR", help="only write the results, one table and study.yaml, to DIR, to be kept")
    add("--only", default="*", metavar="PATTERN", help="run the jobs whose id matches, and what these need")
    add("--from", dest="other", metavar="DIR", help="first take over what another study trained with the same settings")
    add("--root", action="append", default=[], metavar="DATASET=PATH", help="folder of a real dataset (repeat)")
    add("--jobs", type=_positive, help="jobs at a time (default: one per GPU; without GPUs, CPU cores / threads)")
    add("--processes", type=_positive, default=1, metavar="N", help="processes of each job, by torchrun (default: 1)")
    add("--retry", type=_count, default=1, metavar="N", help="further attempts at a job that fails (default: 1)")
    add(
        "--keep", choices=("all", "models", "nothing"), default="models",
        help="what stays in the folders of finished jobs: models, the last weights (default); all, the best ones too; "
        "nothing, neither. Results and logs always stay, checkpoints never",
    )  # fmt: skip
    add("--backend", choices=("local", "ray"), default="local", help="processes here, or tasks on a Ray cluster")
    add("--address", help="ray: the cluster's address, or auto (default: a cluster of this machine alone)")
    add("--cpus", type=_share, help="ray: CPU cores per job (default: the study's threads)")
    add("--gpus", type=_share, default=0.0, help="ray: GPUs per job, or a fraction of one (default: 0)")
    return made


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake or failed jobs, 128 + n stopped by signal n."""
    return command(run, argv)


def run(argv: Sequence[str]) -> None:
    """Do what a command line says. Raises tmt.errors.TMTError."""
    options = parser().parse_args(argv)
    if options.study is None:
        print("\n".join(f"{name:10} {definitions.read(STUDIES / f'{name}.yaml').title}" for name in studies()))
        return
    study = open_study(options)
    if options.list:
        print(listing(study))
    elif options.export:
        from tmt.studies.export import export

        print(f"{export(study, options.export)} of {len(study.jobs)} jobs written to {options.export}")
    elif options.commands:
        print_commands(study, options)
    else:
        _run(study, options)


def open_study(options: argparse.Namespace) -> Study:
    """The study that a command line names, in the folder that it says."""
    if (Path(options.study) / "study.yaml").is_file():
        opened = Study.open(options.study)
        definition, default = opened.definition, opened.folder
    else:
        definition = definitions.read(find(options.study))
        default = Path("runs") / definition.name
    return Study.begin(_with_roots(definition, options.root), options.out or default)


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


def print_commands(study: Study, options: argparse.Namespace) -> None:
    """The commands of all jobs that are not done; the study writes the settings they name when it runs."""
    from tmt.studies.commands import commands_of

    for job in study.jobs.values():
        if fnmatch(job.id, options.only) and not study.done(job.id):
            print(f"# {job.id}{' after ' + ', '.join(job.needs) if job.needs else ''}")
            for words in commands_of(job, study, options.processes):
                print(shlex.join(["python", *words[1:]]))


def _run(study: Study, options: argparse.Namespace) -> None:
    from tmt.runtime.lock import only_one
    from tmt.runtime.signals import listen
    from tmt.studies.commands import commands_of
    from tmt.studies.reuse import reuse
    from tmt.studies.scheduler import Scheduler

    with only_one(study.folder, " (--list works meanwhile)"), listen() as stop:
        if options.other:
            print(f"{len(reuse(study, options.other))} jobs taken over from {options.other}")
        backend = _backend(study, options)
        try:
            failed = Scheduler(
                study, backend, stop, options.retry, options.keep, options.only,
                lambda job: commands_of(job, study, options.processes),
            ).run()  # fmt: skip
        finally:
            backend.close()
    print(f"\n{listing(study)}")
    if failed:
        raise TrainingError(
            f"{study.folder}: {failed} jobs failed or wait for one that did; the same command tries again"
        )


def _backend(study: Study, options: argparse.Namespace) -> "Backend":
    from tmt.studies.backends import Local, RayCluster, visible_gpus

    threads = study.definition.threads
    if options.backend == "ray":
        return RayCluster(
            options.jobs, options.address, threads if options.cpus is None else options.cpus, options.gpus
        )
    gpus = () if study.definition.config.device == "cpu" else visible_gpus()
    cores = max(1, processors() // threads)
    return Local(options.jobs or len(gpus) or cores, gpus if options.processes == 1 else ())
