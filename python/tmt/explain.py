"""Draw how a model treats an image: `python -m tmt.explain --help`."""

import sys

from tmt.cli.explain import main

if __name__ == "__main__":
    sys.exit(main())
