"""Make the report of a study: `python -m tmt.report --help`."""

import sys

from tmt.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
