"""Tables, tests, charts and pictures of a study.

    python -m tmt.report runs/table1                      writes runs/table1/report
    python -m tmt.report results/table1 --out DIR --images 0    of results that were kept without models (--export)

The folder gets index.html (one file, opens offline), report.md, tables/ (Markdown, CSV, LaTeX), charts/ (SVG), and what
needs the models of the study's job folders: pictures/ and understanding.json. Where those folders are gone, what was
made before is used.
"""

from collections.abc import Sequence

from tmt.cli.command import command
from tmt.settings import ReportConfig
from tmt.settings.arguments import parse_command


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line."""
    return command(lambda given: report(parse_command("python -m tmt.report", given, ReportConfig)), argv)


def report(config: ReportConfig) -> None:
    """Make the report. Raises tmt.errors.TMTError."""
    from pathlib import Path

    from tmt.report.write import write_report
    from tmt.runtime.lock import only_one

    study = Path(config.study)
    out = Path(config.out) if config.out else study / "report"
    with only_one(out):
        page = write_report(study, out, config.images)
    print(f"report: {page}")
