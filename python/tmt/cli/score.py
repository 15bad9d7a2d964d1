"""Score a study's source model on every domain: the last step of its job.

python -m tmt.cli.score STUDY JOB

STUDY is the study's folder, JOB the id of a source model's job; writes on.json into the job's folder.
"""

import sys
from collections.abc import Sequence

from tmt.cli.command import command
from tmt.errors import ConfigError
from tmt.studies.collect import SCORED
from tmt.studies.study import Study


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as of `tmt.train`."""
    return command(score, argv)


def score(argv: Sequence[str]) -> None:
    """Evaluate the last weights of the source model of the job `argv[1]` on all domains of the study `argv[0]`."""
    from tmt.inference.evaluation import evaluate
    from tmt.model.factory import freeze, open_model
    from tmt.runtime.distributed import join
    from tmt.runtime.files import write_json
    from tmt.runtime.signals import listen
    from tmt.studies.commands import dataset_of

    if len(argv) != 2:
        raise ConfigError(f"score: arguments must be STUDY JOB, got {' '.join(argv)}")
    study = Study.open(argv[0])
    job = study.job(argv[1])
    results = {}
    with join(job.config.device) as world, world.only_one(job.folder), listen() as stop:
        model = open_model(job.weights).to(world.device)
        freeze(model)
        for name in study.domains:
            result = evaluate(model, dataset_of(study, name).open("val"), world, job.config.evaluation, stop)
            world.say(f"on {name} val: {result.headline()}")
            results[name] = result.to_dict()
        if world.main:
            write_json(job.folder / SCORED, results)


if __name__ == "__main__":
    sys.exit(main())
