"""Tables, tests, charts and pictures of a study.

    python -m tmt.report runs/table1                      writes runs/table1/report
    python -m tmt.report results/table1 --out DIR --images 0    of results that were kept without models (--export)

The folder gets index.html (one file, opens offline), report.md, tables/ (Markdown, CSV, LaTeX), charts/ (SVG), and what
needs the models of the study's job folders: pictures/ and understanding.json. Where those folders are gone, what was
made before is used.
"""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, set_parsing_settings

from tmt.cli.command import command
from tmt.settings import ReportConfig
from tmt.settings.arguments import parse_with


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line."""
    return command(lambda arguments: report(parse(arguments)), argv)


def parse(argv: Sequence[str]) -> ReportConfig:
    """The settings of a command line. Raises ConfigError."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="python -m tmt.report", description=ReportConfig.__doc__, exit_on_error=False)
    parser.add_argument("study", type=str, help="folder of the study (python -m tmt.experiments)")
    parser.add_class_arguments(ReportConfig, None, as_positional=False, skip={"study"})
    return parse_with(parser, argv, ReportConfig)


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
