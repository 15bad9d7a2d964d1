"""One command for all: `tmt train --config demo` is `python -m tmt.train --config demo`, and so on."""

from collections.abc import Sequence
from importlib import import_module

from tmt.cli.choice import Choice
from tmt.cli.command import command

COMMANDS = Choice(
    "tmt",
    {
        "train": "train a source model, the transferability estimator, and target models",
        "evaluate": "score a saved model on a dataset",
        "predict": "segment images with a saved model",
        "explain": "draw superpixels, T and attention of an image",
        "label": "choose the regions that a person should label next",
        "export": "write a saved model as a torch or ONNX file",
        "data": "draw synthetic scenes, check datasets",
        "study": "run the many trainings behind a table or figure",
        "report": "make the tables, tests, charts and pictures of a study",
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script `tmt`; the exit code of the command."""
    return command(run, argv)


def run(argv: Sequence[str]) -> int:
    """Run the command that the first argument names; returns its exit code. Raises ConfigError where there is none."""
    name, rest = COMMANDS.of(argv)
    return 0 if name is None else import_module(f"tmt.cli.{name}").main(rest)
