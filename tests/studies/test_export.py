"""Results kept without models: one table holds everything that the files of all jobs hold."""

import json
import shutil
from pathlib import Path

import pytest

from tests.studies import small
from tmt.cli.study import main
from tmt.errors import ConfigError
from tmt.studies import Study
from tmt.studies.export import REPORTED, export
from tmt.studies.results import TABLE
from tmt.studies.reuse import reuse

PAIR = {"pairs": [["gtav", "cityscapes"]]}
ESTIMATOR, TMT = "estimator-gtav-cityscapes-superpixel-s0", "tmt-gtav-cityscapes-s0"
FINDING = {"source": "gtav", "seed": 0, "fingerprint": [1.0, ESTIMATOR, 0.9], "correlation": {"rho": None}}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A finished study whose report has found something out."""
    study = small.begin(tmp_path, **PAIR)
    assert small.run(study) == 0
    (study.folder / "report").mkdir()
    (study.folder / REPORTED).write_text(json.dumps([FINDING]))
    return study


def test_nothing_is_lost(study: Study, tmp_path: Path) -> None:
    assert export(study, tmp_path / "kept") == len(study.jobs)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [TABLE, "study.yaml"]
    kept = Study.open(tmp_path / "kept")
    assert kept.definition == study.definition and kept.results() == study.results()
    assert [kept.row(job) for job in study.jobs] == [study.row(job) for job in study.jobs]
    assert kept.findings() == [FINDING]
    assert len((kept.folder / TABLE).read_text().splitlines()) == len(study.jobs)


def test_a_study_of_an_earlier_revision(study: Study, tmp_path: Path) -> None:
    """Its files do not say what a job needs, its study.yaml names no roles: the plan and the settings do."""
    whole = study.results()
    for job in study.jobs:
        content = json.loads(study.result_file(job).read_text())
        del content["needs"]
        study.result_file(job).write_text(json.dumps(content))
    file = study.folder / "study.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.strip().startswith("role: ")]
    file.write_text("\n".join(lines))
    opened = Study.open(study.folder)
    assert opened.results() == whole and all(one.needs for one in whole if one.kind != "source")
    assert opened.definition == study.definition
    export(opened, tmp_path / "kept")
    assert Study.open(tmp_path / "kept").results() == whole


def test_the_command(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = str(tmp_path / "kept")
    assert main([str(study.folder), "--export", kept]) == 0
    assert f"{len(study.jobs)} of {len(study.jobs)} jobs written to {kept}" in capsys.readouterr().out
    assert main([kept, "--list"]) == 0
    counted = f"| all jobs     | {len(study.jobs):>4} |       - |"
    assert counted in capsys.readouterr().out


def test_an_export_of_an_export(study: Study, tmp_path: Path) -> None:
    export(study, tmp_path / "kept")
    export(Study.open(tmp_path / "kept"), tmp_path / "again")
    assert (tmp_path / "again" / TABLE).read_bytes() == (tmp_path / "kept" / TABLE).read_bytes()


def test_a_kept_study_goes_on(study: Study, tmp_path: Path) -> None:
    """What is missing runs where the table is; what is there counts as done, and another study may take it over."""
    study.result_file(TMT).unlink()
    shutil.rmtree(study.job_folder(TMT))
    export(study, tmp_path / "kept")
    kept = Study.open(tmp_path / "kept")
    assert [job for job, state in kept.states().items() if state == "missing"] == [TMT]
    assert small.run(kept) == 0 and len(kept.results()) == len(kept.jobs)
    (tmp_path / "other").mkdir()
    other = small.begin(tmp_path / "other", **PAIR)
    assert reuse(other, tmp_path / "kept") == list(other.jobs)
    assert "findings" not in json.loads(other.result_file(ESTIMATOR).read_text())


def test_what_cannot_be_exported(study: Study, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="must be new, empty or a study's folder"):
        export(study, tmp_path / "else")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no finished job"):
        export(small.begin(tmp_path / "empty", **PAIR), tmp_path / "kept")


def test_a_damaged_line_is_named(study: Study, tmp_path: Path) -> None:
    export(study, tmp_path / "kept")
    table = tmp_path / "kept" / TABLE
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(lines[0] + lines[1][:50] + "\n" + "".join(lines[2:]))
    with pytest.raises(ConfigError, match=rf"{TABLE}:2: is not a job's results"):
        Study.open(tmp_path / "kept").results()
