"""Small study files, and calls of a study whose jobs are stubs."""

import sys
from pathlib import Path

import yaml

from tmt.runtime.lock import only_one
from tmt.runtime.signals import Stop
from tmt.studies.backends import Local
from tmt.studies.definition import read
from tmt.studies.scheduler import Scheduler
from tmt.studies.study import Study

SMALL = {
    "title": "A small study",
    "domains": ["cityscapes", "gtav", "synthia"],
    "pairs": [["gtav", "cityscapes"], ["gtav", "synthia"], ["synthia", "cityscapes"]],
    "settings": {
        "data.synthetic_source": 3, "data.synthetic_target": 2, "data.synthetic_val": 1,
        "data.synthetic_size": [32, 64], "device": "cpu",
    },
    "variants": {
        "full": {"title": "Full", "stage": "full", "seeds": [0, 1]},
        "tmt": {"title": "TMT", "stage": "tmt"},
        "tmt_p0.1": {"title": "TMT 10 %", "stage": "tmt", "settings": {"model.transfer_fraction": 0.1}},
        "wo_acte": {"title": "w/o ACTE", "stage": "tmt", "settings": {"model": {"regions": "grid"}}},
    },
}  # fmt: skip
STUB = [sys.executable, str(Path(__file__).parent / "stub_job.py")]


def write(path: Path, **changes: object) -> Path:
    """A study file: SMALL with other keys."""
    content = {name: value for name, value in {**SMALL, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def begin(folder: Path, **changes: object) -> Study:
    """A small study in `folder`/out."""
    return Study.begin(read(write(folder / "small.yaml", **changes)), folder / "out")


def scheduler(study: Study, **options: object) -> Scheduler:
    """A call of a study with stub jobs, two at a time."""
    stub = lambda job: [[*STUB, str(job.folder / "config.yaml")]]  # noqa: E731
    return Scheduler(study, Local(2), Stop(), **{"commands": stub, **options})


def run(study: Study, **options: object) -> int:
    """Run a study with stub jobs; the number of jobs that are not done in the end."""
    with only_one(study.folder):
        return scheduler(study, **options).run()
