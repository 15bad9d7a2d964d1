"""Evaluate a saved segmentation model: `python -m tmt.evaluate --help`."""

import sys

from tmt.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
