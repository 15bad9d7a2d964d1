"""A real study, trained for two steps on a handful of drawn images: there are models to look at, but nothing learnt."""

import json
from collections.abc import Mapping
from pathlib import Path

from tests.report.made_up import definition
from tmt.cli import score, train
from tmt.studies import Study, collect
from tmt.studies.jobs import config_text
from tmt.synthetic import make

SIZE = (64, 128)
TREE = {
    "title": "Two steps, nothing learnt",
    "base": "tiny",
    "domains": ["gtav", "cityscapes"],
    "pairs": [["gtav", "cityscapes"]],
    "settings": {
        "data": {"synthetic_source": 4, "synthetic_target": 4, "synthetic_val": 3, "synthetic_size": list(SIZE)},
        "source": {"steps": 2, "batch_size": 2, "log_every": 1},
        "estimator": {"steps": 2, "batch_size": 2, "eval_images": 2, "log_every": 1},
        "target": {"steps": 2, "batch_size": 2, "log_every": 1},
    },
    "variants": {
        "full": {"title": "Full", "seeds": [0]},
        "tmt": {"title": "TMT", "seeds": [0]},
    },
}


def train_study(folder: Path, variants: Mapping[str, object] | None = None) -> Path:
    """Train every job of the study, or of one with other variants, in this process; returns the folder."""
    folder.mkdir(parents=True)
    given = folder / "given.yaml"
    given.write_text(json.dumps(TREE if variants is None else {**TREE, "variants": variants}))
    study = Study(folder, definition.read(given))
    (folder / "study.yaml").write_text(definition.to_yaml(study.definition))
    (folder / "results").mkdir()
    for domain in study.domains:
        make(domain, study.root(domain), train=4, val=3, size=SIZE, seed=0)
    for job in study.jobs.values():
        settings = folder / f"{job.id}.yaml"
        settings.write_text(config_text(job.config))
        assert train.main(["--config", str(settings), "--device", "cpu"]) == 0
        if job.kind == "source":
            assert score.main([str(folder), job.id]) == 0
        study.result_file(job.id).write_text(json.dumps(collect.result_of(job, 1.0)))
    return folder
