"""All commands: `python -m tmt --help`, as the console script `tmt`."""

import sys

from tmt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
