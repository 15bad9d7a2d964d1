"""The scripts in examples/ run as they are, on made-up data."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import runs
from tests.test_api import SETTINGS, domain

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder: Path, script: str, *argv: object) -> str:
    """What a script prints; it runs in a process forked from one that has imported everything."""
    log = folder / f"{script}.log"
    code = runs.finish(runs.start(_main, script, log, [str(one) for one in argv]))
    assert code == 0, log.read_text()
    return log.read_text()


def _main(script: str, log: Path, argv: list[str]) -> None:
    runs.redirect(log)
    runpy.run_path(str(EXAMPLES / f"{script}.py"))["main"](*argv)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    domain(made / "day", 60), domain(made / "night", 10)
    return made


def test_adapt_then_a_loop_of_ones_own(folder: Path) -> None:
    settings = [f"{name}={_text(value)}" for name, value in SETTINGS.items()]
    printed = run(folder, "adapt", folder / "day", folder / "night", folder / "run", *settings)
    assert sum("% of the pixels are right, mean T 0." in line for line in printed.splitlines()) == 3
    printed = run(folder, "own_loop", folder / "run/tmt/model", folder / "night", folder / "tuned")
    losses = [float(line.split()[1]) for line in printed.splitlines() if line.startswith("loss ")]
    assert len(losses) == 20 and sum(losses[-5:]) < sum(losses[:5])
    assert (folder / "tuned/model.safetensors").is_file()


def _text(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def test_superpixels(folder: Path) -> None:
    pixels = np.zeros((50, 70, 3), np.uint8)
    pixels[:, 30:] = (200, 40, 40)
    Image.fromarray(pixels).save(folder / "x.png")
    printed = run(folder, "superpixels", folder / "x.png", folder / "y.png")
    assert int(printed.split()[0]) == 12
    drawn = np.asarray(Image.open(folder / "y.png"))
    assert drawn.shape == (48, 64, 3) and (drawn[:, 30] == (255, 230, 0)).all(-1).mean() > 0.9


def test_all_are_tried() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"adapt", "own_loop", "superpixels"}
