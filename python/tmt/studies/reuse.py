"""Takes over from another study's folder what it has trained with the same settings."""

import shutil
from dataclasses import replace
from pathlib import Path

from tmt.errors import ConfigError
from tmt.runtime.files import replace_folder, write_json
from tmt.studies.jobs import Job
from tmt.studies.study import Study


def reuse(study: Study, other: str | Path) -> list[str]:
    """Copy from the study in the folder `other` the results, and the models, of jobs that this study still misses.

    Returns their ids. Raises ConfigError where there is no study, or one that trains with other threads or on other
    images.
    """
    theirs = Study.open(other)
    _check(study, theirs)
    found = {_key(job, theirs): job for job in theirs.jobs.values() if theirs.done(job.id)}
    taken = []
    study.save()
    for job in study.jobs.values():
        match = found.get(_key(job, study))
        if match is None or study.done(job.id):
            continue
        if match.folder.is_dir():
            _copy(match.folder, job.folder)
        named = {"id": job.id, "variant": job.variant, "regions": job.regions, "needs": list(job.needs)}
        write_json(study.result_file(job.id), {**theirs.row(match.id), **named})
        taken.append(job.id)
    return taken


def _copy(folder: Path, to: Path) -> None:
    def fill(part: Path) -> None:
        shutil.copytree(folder, part, dirs_exist_ok=True)

    to.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(to, fill)


def _check(study: Study, theirs: Study) -> None:
    ours, data = study.definition, theirs.definition
    for name, mine, other in (
        ("threads", ours.threads, data.threads),
        ("domains", sorted(ours.domains), sorted(data.domains)),  # that source models are scored on
        (
            "roots",
            {domain: ours.roots.get(domain) for domain in ours.domains},
            {**dict.fromkeys(data.domains), **data.roots},
        ),
    ):
        if mine != other:
            raise ConfigError(
                f"from: {theirs.folder} must have the study's {name}, {mine}, got {other}; leave --from out"
            )


def _key(job: Job, study: Study) -> object:
    """Everything that decides a job's result: its settings, and those of what it starts from, but no folders."""
    data = replace(job.config.data, source_root=None, target_root=None)
    if job.kind == "source":
        data = replace(data, target="cityscapes", target_classes=None)  # plays no part
    config = replace(job.config, out="", source_model=None, estimator_weights=None, data=data)
    return job.kind, config, tuple(_key(study.jobs[need], study) for need in job.needs)
