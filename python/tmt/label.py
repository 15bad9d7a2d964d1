"""Choose what to label next: `python -m tmt.label --help`."""

import sys

from tmt.cli.label import main

if __name__ == "__main__":
    sys.exit(main())
