"""The file that says of a folder that its scenes are synthetic, and what they were made from."""

import json
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "synthetic.json"


@dataclass(frozen=True)
class Recipe:
    """What a folder of synthetic scenes was made from."""

    dataset: str
    train: int
    val: int
    size: tuple[int, int]  # height, width
    seed: int
    distance: float = 1.0  # of the look from what all domains have in common
    synthetic: bool = True  # says so in the folder itself
    version: int = 1  # of the scenes: raised whenever the same recipe would draw other pixels


def read_manifest(path: Path) -> Recipe | None:
    """The recipe of a folder of synthetic scenes; None where the file says nothing of the kind."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Recipe(**values | {"size": tuple(values["size"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
