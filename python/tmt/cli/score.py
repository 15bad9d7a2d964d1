"""Score a study's source model on every domain: the last step of its job.

python -m tmt.cli.score JOB gtav=FOLDER mapillary:broad:v1.2=FOLDER ...

JOB is the job's folder; writes JOB/on.json. Mapillary's mapping and version may follow its name, as in tmt.data.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tmt.cli.command import command
from tmt.errors import ConfigError
from tmt.settings import outcome
from tmt.settings.arguments import from_yaml
from tmt.studies.collect import SCORED


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as of `tmt.train`."""
    return command(score, argv)


def score(argv: Sequence[str]) -> None:
    """Evaluate the last weights of the source model in the folder `argv[0]` on the domains `argv[1:]`."""
    from tmt.data.spec import DatasetSpec
    from tmt.inference.evaluation import evaluate
    from tmt.model.factory import freeze, open_model
    from tmt.runtime.distributed import join
    from tmt.runtime.files import write_json
    from tmt.runtime.signals import listen

    if len(argv) < 2:
        raise ConfigError(f"score: arguments must be JOB DATASET=FOLDER ..., got {' '.join(argv)}")
    folder, specs = Path(argv[0]), [DatasetSpec.parse(text) for text in argv[1:]]
    config = from_yaml(folder / "config.yaml")
    results = {}
    with join(config.device) as world, world.only_one(folder), listen() as stop:
        model = open_model(outcome(folder, "source")).to(world.device)
        freeze(model)
        for spec in specs:
            result = evaluate(model, spec.open("val"), world, config.evaluation, stop)
            world.say(f"on {spec.name} val: {result.headline()}")
            results[spec.name] = result.to_dict()
        if world.main:
            write_json(folder / SCORED, results)


if __name__ == "__main__":
    sys.exit(main())
