"""Run a study: `python -m tmt.experiments --help`."""

import sys

from tmt.cli.study import main

if __name__ == "__main__":
    sys.exit(main())
