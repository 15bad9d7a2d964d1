"""The studies in results/: each has all its jobs in one table, from which its report is made again, byte by byte."""

import json
import re
from pathlib import Path

import pytest

from tests.report.made_up import make_study
from tests.report.test_html import check
from tmt.cli.report import main
from tmt.report.scores import missing, open_study
from tmt.report.understanding import of_study
from tmt.report.write import all_tables, markdown, write_report
from tmt.studies import Study, definition
from tmt.studies.export import REPORTED, export

RESULTS = Path(__file__).resolve().parents[2] / "results"
KEPT = sorted(path.parent.name for path in RESULTS.glob("*/study.yaml"))


def test_every_study_is_there() -> None:
    assert KEPT == ["choices", "figure7", "heldout", "kinds", "real1", "table1", "table2"]


@pytest.mark.parametrize("name", KEPT)
def test_the_report_again(name: str, tmp_path: Path) -> None:
    study = open_study(RESULTS / name)
    findings = of_study(study, tmp_path / "understanding.json")
    assert markdown(study, all_tables(study, findings)) == (RESULTS / name / "report.md").read_text(encoding="utf-8")


def test_the_command_makes_that_report(tmp_path: Path) -> None:
    assert main([str(RESULTS / "figure7"), "--out", str(tmp_path), "--images", "0"]) == 0
    assert (tmp_path / "report.md").read_bytes() == (RESULTS / "figure7" / "report.md").read_bytes()
    for chart in (RESULTS / "figure7" / "charts").iterdir():
        assert (tmp_path / "charts" / chart.name).is_file()


@pytest.mark.parametrize("name", KEPT)
def test_roles_are_those_of_the_study_file(name: str) -> None:
    """The kept studies were begun before study files had roles, so these were read off their settings."""
    kept, shipped = Study.open(RESULTS / name).variants, definition.read(definition.find(name)).variants
    assert {variant.name: variant.role for variant in kept} == {variant.name: variant.role for variant in shipped}


def test_links_lead_to_files() -> None:
    for page in (RESULTS / "README.md", RESULTS.parent / "README.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_of_an_exported_study_the_same_report(tmp_path: Path) -> None:
    """Without folders of jobs, and with what had been found out about its estimators."""
    folder = make_study(tmp_path / "study", pairs=[("gtav", "cityscapes")])
    study = open_study(folder)
    (folder / "report").mkdir()
    correlation = {name: 0.25 for name in ("rho", "low", "high", "within", "within_low", "within_high")}
    correlation |= {"images": 7, "regions": 70, "bins": [[0.1, 0.2, 35], [0.3, 0.4, 35]]}
    found = [
        {
            "source": "gtav", "target": "cityscapes", "seed": seed, "regions": regions, "trained_on": "superpixel",
            "fingerprint": [study.sources["gtav", seed].last["score"], name, 0.8], "correlation": correlation,
        }
        for seed, name in ((i, f"estimator-gtav-cityscapes-superpixel-s{i}") for i in (1, 2))
        for regions in ("superpixel", "grid")
    ]  # fmt: skip
    (folder / REPORTED).write_text(json.dumps(found))
    write_report(folder, tmp_path / "first", images=0)
    export(study, tmp_path / "kept")
    page = write_report(tmp_path / "kept", tmp_path / "second", images=0)
    for file in ("report.md", "index.html", "tables/understanding.csv", "tables/scores.csv"):
        assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()
    assert "understanding" in check(page.read_text()).ids and missing(study) == []
