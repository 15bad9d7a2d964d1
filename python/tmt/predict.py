"""Segment images with a saved model: `python -m tmt.predict --help`."""

import sys

from tmt.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
