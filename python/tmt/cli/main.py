"""One command for all: `tmt train --config demo` is `python -m tmt.train --config demo`, and so on."""

import sys
from collections.abc import Sequence
from importlib import import_module

from tmt.cli.command import USER_ERROR

COMMANDS = {
    "train": "train a source model, the transferability estimator, and target models",
    "evaluate": "score a saved model on a dataset",
    "predict": "segment images with a saved model",
    "data": "draw synthetic scenes, check datasets",
    "study": "run the many trainings behind a table or figure",
    "report": "make the tables, tests, charts and pictures of a study",
}
USAGE = "usage: tmt COMMAND ...; tmt COMMAND --help explains one\n\n" + "\n".join(
    f"  {name:10}{text}" for name, text in COMMANDS.items()
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script `tmt`; the exit code of the command."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name not in COMMANDS:
        print(f"error: command must be one of {', '.join(COMMANDS)}, got {name}; see tmt --help", file=sys.stderr)
        return USER_ERROR
    return import_module(f"tmt.cli.{name}").main(rest)
