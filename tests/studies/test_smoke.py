"""The study `smoke`: every method, ablation and preset really trains for two steps, in minutes."""

import subprocess
import sys
import time
from pathlib import Path

from tmt.settings.arguments import presets
from tmt.studies import Study
from tmt.studies.definition import STAGES, STUDIES, read

MINUTES = 15


def test_smoke_covers_everything() -> None:
    study = read(STUDIES / "smoke.yaml")
    assert {variant.stage for variant in study.variants} == set(STAGES)
    own = {variant.name.removeprefix("preset_").replace("_", "-") for variant in study.variants if variant.own_base}
    assert own | {"tiny"} == set(presets())
    for field, values in {
        "mask_rule": {"uncertain", "foreground", "none"},
        "regions": {"superpixel", "grid"},
        "transfer_exclude": {"high", "low"},
        "transfer_mode": {"mask", "bias"},
        "transfer_fraction": {0.1, 0.2, 0.3, 0.4, 0.5},
        "transfer_features": {"live", "source"},
        "transfer_at_inference": {True, False},
        "fallback": {"all", "transfer"},
    }.items():
        assert {getattr(variant.config.model, field) for variant in study.variants} == values
    kinds = {variant.config.estimator.kind for variant in study.variants}
    assert kinds == {"domain", "conditional", "entropy", "error"}
    assert all(variant.config.target.steps == variant.config.source.steps == 2 for variant in study.variants)


def test_smoke(tmp_path: Path) -> None:
    start = time.monotonic()
    command = [sys.executable, "-m", "tmt.experiments", "smoke", "--out", str(tmp_path / "smoke"), "--keep", "nothing"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - start < MINUTES * 60
    study = Study.open(tmp_path / "smoke")
    results = study.results()
    assert len(results) == len(study.jobs)
    untrained = [result for result in results if result.last == {"step": 0}]
    assert [result.regions for result in untrained] == ["superpixel-kindentropy"]
    trained = [result for result in results if result not in untrained]
    assert all(result.last["step"] == 2 and result.last["score"] is not None for result in trained)
