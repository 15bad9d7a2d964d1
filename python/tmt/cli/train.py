"""Train a source model, the transferability estimator, and target models.

    python -m tmt.train --config demo                    everything, on synthetic scenes, small enough for a CPU
    python -m tmt.train --config paper --data.source_root GTAV --data.target_root Cityscapes --out runs/paper
    python -m tmt.train --stages linear,full,leep,otce --source_model MODEL ...    what TMT is compared with
    torchrun --nproc_per_node 2 -m tmt.train ...         the same on two processes
    ... --resume                                         goes on where the run in --out was stopped

A run's folder holds config.yaml and run.json (settings, code, versions, seed), a folder for each stage (metrics.jsonl,
checkpoint.pt, done.json, and the models `model` (last weights) and `best`), results.json, results.md and pictures.
"""

from collections.abc import Sequence

from tmt.cli.command import command
from tmt.settings.arguments import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(train, argv)


def train(argv: Sequence[str]) -> None:
    """Run the stages that a command line asks for."""
    config = parse(argv)
    # Here and not above: --help needs no torch, and a missing extension becomes one line.
    from tmt.training.run import train as run

    run(config, argv)
