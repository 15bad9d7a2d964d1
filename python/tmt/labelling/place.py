"""The folder that everything is written into: what in it is ours, and what is never touched."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tmt.errors import ConfigError
from tmt.runtime.files import write_json

MARK = "label.json"
"""Lies in a folder that is ours from the first score on."""
LIST = "picks.csv"
"""Is written last: where it is, all is there."""
FOLDERS = ("masks", "overlays", "scores", "dataset")
FILES = (LIST, "picks.json", "index.html")


@dataclass(frozen=True)
class Place:
    """The folder `out`."""

    out: Path

    def check(self, overwrite: bool, inputs: Sequence[str]) -> None:
        """Raises ConfigError where files are there that are not ours, picks that are not to be replaced, or one of the
        `inputs` among what is written."""
        for name in inputs:
            if any(_within(Path(name), self.out / folder) for folder in FOLDERS):
                raise ConfigError(f"out: {self.out} must not be replaced while it is read, got {name}; choose another")
        if not (self.out / MARK).is_file():
            if there := [name for name in (*FOLDERS, *FILES) if (self.out / name).exists()]:
                raise ConfigError(
                    f"out: {self.out / there[0]} exists and was not made by this command; choose another --out"
                )
        elif (self.out / LIST).exists() and not overwrite:
            raise ConfigError(
                f"out: {self.out} holds picks already, got {self.out / LIST}; choose another --out, or --overwrite them"
            )

    def claim(self) -> None:
        """Mark the folder as ours."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / MARK, {"made by": "python -m tmt.label", "may be replaced": [*FOLDERS, *FILES]})

    def clear(self) -> None:
        """Remove an earlier choice, whole or interrupted; the scores stay."""
        for name in FILES:
            (self.out / name).unlink(missing_ok=True)
        for name in FOLDERS:
            if name != "scores" and (self.out / name).is_dir():
                shutil.rmtree(self.out / name)

    def mask(self, name: str) -> Path:
        """Where the mask of an image is: a PNG, 0 where to label and 255 elsewhere."""
        return self.out / "masks" / f"{name}.png"

    def overlay(self, name: str) -> Path:
        """Where an image is drawn with its picks."""
        return self.out / "overlays" / f"{name}.jpg"

    def scores(self, name: str) -> Path:
        """Where it is kept what the model says of an image."""
        return self.out / "scores" / f"{name}.safetensors"


def _within(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it."""
    one, other = (Path(os.path.realpath(each)) for each in (path, folder))
    return one.is_relative_to(other)


@cache
def _ours(folder: Path) -> bool:
    if folder.name in FOLDERS and (folder.parent / MARK).is_file():
        return True
    return folder != folder.parent and _ours(folder.parent)


def is_ours(path: Path) -> bool:
    """Whether a file lies in a folder that this command made, of whichever `out`."""
    return _ours(path.parent)
