"""Train a source model, the transferability estimator, and target models: `python -m tmt.train --help`."""

import sys

from tmt.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
