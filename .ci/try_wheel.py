"""Tries the installed package as a user has it: trains two steps a stage on drawn scenes and predicts; no compiler.

Usage: PYTHON .ci/try_wheel.py, with the Python that the wheel was installed for.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "cl", "nvcc", "cmake", "ninja")
FIT = {"steps": 2, "batch_size": 2, "warmup": 0, "log_every": 1, "eval_every": 2}
SETTINGS = {
    "config": "demo",
    "device": "cpu",
    "pictures": 0,
    "data.synthetic_source": 4,
    "data.synthetic_target": 4,
    "data.synthetic_val": 2,
    "estimator.steps": 2,
    "estimator.eval_images": 2,
    **{f"{stage}.{name}": value for stage in ("source", "target") for name, value in FIT.items()},
}


def main() -> None:
    """Raises CalledProcessError or AssertionError for what does not work."""
    # Nothing of the checkout, and no program but those of this environment.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = str(Path(sys.executable).parent)
    found = [name for name in COMPILERS if shutil.which(name, path=environment["PATH"])]
    assert not found, f"{environment['PATH']}: {found} must not be there"
    with tempfile.TemporaryDirectory() as folder:
        try_in(Path(folder), environment)


def try_in(folder: Path, environment: dict[str, str]) -> None:
    """Train in `folder`, predict the images that were drawn for it, and count what came of it."""

    def python(*words: str) -> str:
        return subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, check=True, text=True, stdout=subprocess.PIPE
        ).stdout

    print(python("-c", "import tmt, tmt_ext; print(tmt_ext.__file__, tmt_ext.build_info())"), end="", flush=True)
    python("-m", "tmt.train", *(f"--{name}={value}" for name, value in SETTINGS.items()), "--out=run")
    images = sorted((folder / "run/data/cityscapes/leftImg8bit/val").rglob("*.png"))
    python("-m", "tmt.predict", "run/tmt/model", *map(str, images), "--save=labels", "--out=predictions")
    made = list((folder / "predictions").rglob("*.png"))
    assert images and len(made) == len(images), f"{len(images)} images, {len(made)} predictions"
    print(f"trained and predicted {len(made)} images")


if __name__ == "__main__":
    main()
