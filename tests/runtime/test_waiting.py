"""How threads wait: every command chooses before torch is loaded; the user's choice stays, a library makes none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tmt.runtime.provenance import describe
from tmt.runtime.waiting import CHOICES, OURS, waiting

ROOT = Path(__file__).resolve().parents[2]
AT_TORCH = """
import json, os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            from tmt.runtime.waiting import waiting
            print(json.dumps(waiting()), flush=True)
            os._exit(7)

sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
DOORS = [
    "tmt.train --config demo --out OUT",
    "tmt train --config demo --out OUT",
    "tmt.evaluate MODEL --dataset cityscapes --root ROOT",
    "tmt.predict MODEL IMAGE --out OUT",
    "tmt.export MODEL --format torch --out OUT.pt2",
    "tmt.data check cityscapes ROOT",
    "tmt.report STUDY",
    "tmt.cli.score STUDY JOB",
    "tmt.experiments run STUDY",
    "bench",
    "bench.gpu",
    "bench.memory",
]


def environment(**own: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in (*CHOICES, OURS)}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "python", ROOT))), **own}


def at_torch(line: str, folder: Path, **own: str) -> dict[str, str] | None:
    """What is chosen when a command first asks for torch; None where it ends without."""
    run = subprocess.run(
        [sys.executable, "-c", AT_TORCH, *line.split()], capture_output=True, text=True, cwd=folder,
        env=environment(**own),
    )  # fmt: skip
    return json.loads(run.stdout.splitlines()[-1]) if run.returncode == 7 else None


@pytest.mark.parametrize("line", DOORS)
def test_every_door_chooses_before_torch(line: str, tmp_path: Path) -> None:
    found = at_torch(line, tmp_path)
    if "STUDY" in line:  # ends with a message before it asks for torch: then nothing was loaded too early
        assert found in (None, {"GOMP_SPINCOUNT": "2000", "chosen by": "default"})
    else:
        assert found == {"GOMP_SPINCOUNT": "2000", "chosen by": "default"}


@pytest.mark.parametrize(
    "name, value", [("GOMP_SPINCOUNT", "5"), ("GOMP_SPINCOUNT", "2000"), ("OMP_WAIT_POLICY", "ACTIVE")]
)
def test_the_users_choice_stays(name: str, value: str, tmp_path: Path) -> None:
    expected = {name: value, "chosen by": "user"}
    assert at_torch("tmt.train --config demo --out OUT", tmp_path, **{name: value}) == expected


def test_what_a_command_starts_knows_that_the_choice_was_not_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")
    monkeypatch.setenv(OURS, "2000")
    assert waiting() == {"GOMP_SPINCOUNT": "2000", "chosen by": "default"}
    assert describe("tmt.train", [], 0, 1, "cpu")["waiting"] == waiting()
    monkeypatch.setenv("GOMP_SPINCOUNT", "9")  # the user's, within a shell that a command started
    assert waiting() == {"GOMP_SPINCOUNT": "9", "chosen by": "user"}


def test_torch_takes_the_choice() -> None:
    """The OpenMP that torch brings says what it read, where it is GNU's."""
    code = "from tmt.cli.command import command\ncommand(lambda given: __import__('torch') and 0, [])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(OMP_DISPLAY_ENV="verbose")
    )
    if "GOMP_SPINCOUNT" not in run.stderr:
        pytest.skip("torch's OpenMP is not GNU's here")
    assert "GOMP_SPINCOUNT = '2000'" in run.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import os, tmt, tmt.data, tmt.model\nfor name in dir(tmt): getattr(tmt, name)\n"
        "assert not set(os.environ) & {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'TMT_GOMP_SPINCOUNT'}",
        "import os, torch\nfrom tmt.cli.command import command\ncommand(lambda given: 0, [])\n"
        "assert 'GOMP_SPINCOUNT' not in os.environ",
    ],
    ids=["a library", "a command after torch"],
)
def test_the_environment_is_left_alone_by(code: str) -> None:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stderr
