"""The console script `tmt`, and that command lines answer without torch."""

import contextlib
import subprocess
import sys

import pytest

from tmt import __version__
from tmt.cli import main as tmt
from tmt.cli.main import COMMANDS

NAMES = list(COMMANDS.commands)


def test_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert tmt.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tmt.main(["trian"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: command: must be one of train,") and "did you mean train?" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "line", ["--version", "data --version", *(f"{name} --version" for name in NAMES if name != "data")]
)
def test_the_version(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert tmt.main(line.split()) == 0
    assert capsys.readouterr().out == f"tmt {__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_command_needs_no_torch(name: str) -> None:
    code = (
        "import sys\nfrom tmt.cli.main import main\n"
        f"try:\n    main([{name!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and "usage: " in run.stdout, run.stdout + run.stderr
