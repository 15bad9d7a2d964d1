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
    from tmt.data import open_dataset
    from tmt.inference.evaluation import evaluate
    from tmt.model.factory import freeze, open_model
    from tmt.runtime.distributed import join
    from tmt.runtime.files import write_json
    from tmt.runtime.signals import listen

    if len(argv) < 2 or not all("=" in domain for domain in argv[1:]):
        raise ConfigError(f"score: arguments must be JOB DATASET=FOLDER ..., got {' '.join(argv)}")
    folder = Path(argv[0])
    config = from_yaml(folder / "config.yaml")
    results = {}
    with join(config.device) as world, listen() as stop:
        model = open_model(outcome(folder, "source")).to(world.device)
        freeze(model)
        for name, root in (text.split("=", 1) for text in argv[1:]):
            domain, mapping, version = (*name.split(":"), "", "")[:3]
            dataset = open_dataset(domain, root, "val", mapping=mapping or "strict", version=version or None)
            result = evaluate(model, dataset, world, config.evaluation, stop)
            world.say(f"on {domain} val: {result.headline()}")
            results[domain] = result.to_dict()
        if world.main:
            write_json(folder / SCORED, results)


if __name__ == "__main__":
    sys.exit(main())
