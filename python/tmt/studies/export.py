"""Keeps a study's results without its models: study.yaml and one table, from which the report is made again."""

from collections import defaultdict
from pathlib import Path

from tmt.errors import ConfigError
from tmt.runtime.files import read_json, write_text
from tmt.runtime.lock import only_one
from tmt.studies.definition import to_yaml
from tmt.studies.results import FINDINGS, Row, write_table
from tmt.studies.study import Study

REPORTED = Path("report", "understanding.json")
"""Where `tmt.report` keeps what it has found out with a study's models, unless told otherwise."""


def export(study: Study, folder: str | Path) -> int:
    """Write what a study has measured to `folder`, new or of an earlier export; the number of its finished jobs.

    Raises ConfigError for a folder that holds anything else, and for a study without results.
    """
    with only_one(Path(folder)):
        return _export(study, Study.begin(study.definition, folder))


def _export(study: Study, kept: Study) -> int:
    findings = _findings(study)
    rows = [_row(study, job, findings) for job in study.jobs if study.done(job)]
    if not rows:
        raise ConfigError(f"export: {study.folder} has no finished job; let python -m tmt.experiments finish one")
    kept.folder.mkdir(parents=True, exist_ok=True)
    write_text(kept.folder / "study.yaml", to_yaml(study.definition))
    write_table(kept.folder, rows)
    return len(rows)


def _row(study: Study, job: str, findings: dict[str, list[Row]]) -> Row:
    """A job's results with its needs, which files of earlier revisions leave to the plan."""
    row = study.row(job)
    row = {**row, "needs": row.get("needs", list(study.jobs[job].needs))}
    return {**row, FINDINGS: findings[job]} if job in findings else row


def _findings(study: Study) -> dict[str, list[Row]]:
    """What the report has found out, by the estimator's job that it is about."""
    path = study.folder / REPORTED
    found = read_json(path) if path.is_file() else study.findings()
    by_job: dict[str, list[Row]] = defaultdict(list)
    for finding in found:
        by_job[finding["fingerprint"][1]].append(finding)
    return dict(by_job)
