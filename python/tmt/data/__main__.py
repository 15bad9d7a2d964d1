"""Make synthetic scenes and check datasets: `python -m tmt.data --help`."""

import sys

from tmt.cli.data import main

if __name__ == "__main__":
    sys.exit(main())
