"""`python -m tmt.data make`: draws synthetic street scenes and writes them in the layout of a dataset."""

import argparse
import sys

from tmt.data.synthetic import DOMAINS, make
from tmt.errors import TMTError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tmt.data", description=__doc__)
    command = top.add_subparsers(dest="command", required=True).add_parser(
        "make",
        help="draw synthetic scenes",
        description="Draws synthetic street scenes in the layout and label encoding of a dataset.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--dataset", required=True, help=f"layout and look: {', '.join(DOMAINS)}")
    command.add_argument("--root", required=True, help="folder to make; new or empty")
    command.add_argument("--train", type=int, default=400, help="number of training images")
    command.add_argument("--val", type=int, default=60, help="number of validation images")
    command.add_argument("--size", type=int, nargs=2, default=(96, 192), metavar=("H", "W"), help="pixels")
    command.add_argument("--seed", type=int, default=0, help="other seeds give other scenes")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, or 2 after one line about what is wrong."""
    values = vars(parser().parse_args(arguments))
    values.pop("command")
    try:
        print(make(**values))
    except TMTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
