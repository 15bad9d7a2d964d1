"""Train a source model, the transferability estimator, and target models.

    python -m tmt.train --config demo                    everything, on synthetic scenes, small enough for a CPU
    python -m tmt.train --config paper --data.source_root GTAV --data.target_root Cityscapes --out runs/paper
    python -m tmt.train --stages linear,full,leep,otce --source_model MODEL ...    what TMT is compared with
    torchrun --nproc_per_node 2 -m tmt.train ...         the same on two processes
    ... --resume                                         goes on where the run in --out was stopped

A run's folder holds config.yaml and run.json (settings, code, versions, seed), a folder for each stage (metrics.jsonl,
checkpoint.pt, done.json, and the models `model` (last weights) and `best`), results.json, results.md and pictures.
"""

import sys
from collections.abc import Sequence

from tmt.cli.command import command
from tmt.settings import Config
from tmt.settings.arguments import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(lambda arguments: train(parse(arguments), arguments), argv)


def train(config: Config, argv: Sequence[str] = ()) -> None:
    """Run the configured stages in order; `argv` is put on record.

    Raises tmt.errors.TMTError for what the user can mend, and Interrupted when stopped by a signal.
    """
    # Here and not above: --help needs no torch, and a missing extension becomes one line.
    from tmt.methods import method_of
    from tmt.runtime.distributed import join
    from tmt.runtime.signals import listen
    from tmt.training.estimator import train_estimator
    from tmt.training.run import ORDER, open_run
    from tmt.training.segmentation import fine_tune, train_source
    from tmt.training.summary import summarise

    with join(config.device) as world, listen() as stop:
        run = open_run(config, argv, world, stop)
        for stage in ORDER:
            if stage not in config.stages:
                continue
            if run.result(stage):
                world.say(f"{stage}: finished before")
            elif stage == "source":
                train_source(run, method_of(stage))
            elif stage == "estimator":
                train_estimator(run)
            else:
                fine_tune(run, method_of(stage))
        summarise(run)


if __name__ == "__main__":
    sys.exit(main())
