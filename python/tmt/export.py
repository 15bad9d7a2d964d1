"""Write a saved model as one file for other programs: `python -m tmt.export --help`."""

import sys

from tmt.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
