"""Makes a study's folder ready to run: study.yaml, and the domains that are drawn."""

import sys
from pathlib import Path

from tmt.errors import ConfigError
from tmt.studies.domain_data import unset_variables
from tmt.studies.jobs import images_drawn
from tmt.studies.study import Study
from tmt.synthetic import make

DATA_SEED = 0
"""Of the drawn domains: all seeds of a study train on the same images."""


def prepare(study: Study) -> None:
    """Write study.yaml and draw the domains that have no root. Raises ConfigError or DataError."""
    config, roots = study.definition.config, study.definition.roots
    for domain in unset_variables(roots):
        raise ConfigError(
            f"roots.{domain}: {roots[domain]} names an environment variable that is not set; set it to the folder of "
            f"the data, or give --root {domain}=PATH"
        )
    for domain, root in roots.items():
        if not Path(root).is_dir():
            raise ConfigError(
                f"roots.{domain}: must be the folder of the dataset, got {root}; mend the study file, or give "
                f"--root {domain}=PATH"
            )
    study.save()
    for domain in (name for name in study.domains if name not in roots):
        dataset = study.definition.domain(domain).dataset
        make(
            dataset, study.root(domain), train=images_drawn(config), val=config.data.synthetic_val,
            size=config.data.synthetic_size, seed=DATA_SEED, distance=config.data.synthetic_distance,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
