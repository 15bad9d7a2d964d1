"""Writes synthetic scenes to disk in the layout and label encoding of a dataset."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from tqdm import tqdm

from tmt.data.labels import PALETTE, lookup_table
from tmt.data.synthetic.canvas import CAR, PLATE
from tmt.data.synthetic.domains import DOMAINS
from tmt.data.synthetic.render import render_ids
from tmt.errors import DataError

MANIFEST = "synthetic.json"
VAL_START = 1_000_000  # scene number of the first validation image: it stays the same whatever the training set's size


@dataclass(frozen=True)
class Recipe:
    """What a folder of synthetic scenes was made from."""

    dataset: str
    train: int
    val: int
    size: tuple[int, int]  # height, width
    seed: int
    synthetic: bool = True  # says so in the folder itself
    version: int = 1  # of the scenes: raised whenever the same recipe would draw other pixels

    def check(self) -> None:
        """Raises DataError for a value that cannot be made."""
        if self.dataset not in DOMAINS:
            raise DataError(f"make: dataset must be one of {', '.join(DOMAINS)}, got {self.dataset!r}")
        if self.train < 1 or self.val < 1 or self.train >= VAL_START:
            raise DataError(f"make: train and val must be in 1..{VAL_START - 1}, got {self.train} and {self.val}")
        if min(self.size) < 16:
            raise DataError(f"make: size must be at least 16 x 16, got {self.size[0]} x {self.size[1]}")
        if self.seed < 0:
            raise DataError(f"make: seed must be at least 0, got {self.seed}")


def make(
    dataset: str,
    root: str | Path,
    train: int = 400,
    val: int = 60,
    size: tuple[int, int] = (96, 192),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Draws `train` + `val` scenes of one domain into `root`, in the layout of the dataset of that name.

    The folder appears complete or not at all. One that was made from the same recipe is left as it is. Raises DataError
    if it holds anything else or cannot be written, and for a recipe that cannot be made.
    """
    recipe, root = Recipe(dataset, train, val, tuple(size), seed), Path(root).resolve()
    recipe.check()
    if _made(root, recipe):
        return root
    part = root.with_name(f".{root.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        _write(part, recipe, progress)
        if root.is_dir():
            root.rmdir()
        part.rename(root)
    except OSError as error:
        raise DataError(f"make: root {root} must be a writable folder, got {error}; choose another") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _made(root: Path, recipe: Recipe) -> bool:
    """Whether `root` already holds this recipe's scenes. Raises DataError if it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    manifest = root / MANIFEST
    if manifest.is_file() and manifest.read_text() == _manifest(recipe):
        return True
    raise DataError(
        f"make: root {root} must be new, empty or made by the same command, got one with other content; "
        "remove it or choose another"
    )


def _manifest(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), indent=1) + "\n"


def _write(root: Path, recipe: Recipe, progress: bool) -> None:
    """Draws all scenes and writes them, then what goes with the layout."""
    numbers = [*range(recipe.train), *range(VAL_START, VAL_START + recipe.val)]
    for count, number in enumerate(tqdm(numbers, f"drawing {recipe.dataset}", unit="image", disable=not progress)):
        image, ids = render_ids(recipe.dataset, recipe.seed, number, recipe.size)
        match recipe.dataset:
            case "cityscapes":
                _write_cityscapes(root, number, image, ids)
            case "gtav":
                _write_gtav(root, count + 1, image, ids)
    if recipe.dataset == "gtav":
        _write_split(root, recipe)
    (root / MANIFEST).write_text(_manifest(recipe))


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, compress_level=3)


def _write_cityscapes(root: Path, number: int, image: np.ndarray, ids: np.ndarray) -> None:
    """One image and its labelIds; Cityscapes counts licence plates as car there."""
    split, city = ("val", "drawnville") if number >= VAL_START else ("train", f"drawnburg{number // 200}")
    stem = f"{city}_{number % VAL_START:06d}_000019"
    _save(Image.fromarray(image), root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
    label = np.where(ids == PLATE, np.uint8(CAR), ids)
    _save(Image.fromarray(label), root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png")


def _write_gtav(root: Path, number: int, image: np.ndarray, ids: np.ndarray) -> None:
    """One image and its palette label, whose indices are the label ids."""
    _save(Image.fromarray(image), root / "images" / f"{number:05d}.png")
    table = lookup_table("gtav")[:35]
    colours = np.where(table[:, None] == 255, 0, PALETTE[np.minimum(table, len(PALETTE) - 1)]).astype(np.uint8)
    label = Image.fromarray(ids)
    label.putpalette(colours.tobytes())
    _save(label, root / "labels" / f"{number:05d}.png")


def _write_split(root: Path, recipe: Recipe) -> None:
    """`split.mat`: 1-based file numbers as columns."""
    train = np.arange(1, recipe.train + 1)[:, None]
    val = np.arange(recipe.train + 1, recipe.train + recipe.val + 1)[:, None]
    savemat(root / "split.mat", {"trainIds": train, "valIds": val, "testIds": np.zeros((0, 1))})
