"""Makes folders of synthetic scenes: what is drawn, whether it is there already, and all or nothing."""

import json
import math
import os
import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tmt.data.manifest import MANIFEST, Recipe, read_manifest
from tmt.errors import DataError
from tmt.runtime.files import naming
from tmt.runtime.limits import NO_ROOM
from tmt.runtime.lock import locked
from tmt.synthetic.domains import DOMAINS
from tmt.synthetic.layouts import VAL_START, Scene, write_lists, write_scene
from tmt.synthetic.render import render_ids
from tmt.synthetic.spectrum import domain_at


def make(
    dataset: str,
    root: str | Path,
    train: int = 400,
    val: int = 60,
    size: tuple[int, int] = (96, 192),
    seed: int = 0,
    distance: float = 1.0,
    progress: bool = True,
) -> Path:
    """Draws `train` + `val` scenes of one domain into `root`, in the layout of the dataset of that name.

    `distance` sets how far the domain's look is from what all domains have in common: 1 is its own in full, at 0 all
    domains look alike, so that two of them of the same distance are as far apart as that says.

    The folder appears complete or not at all. One that was made from the same recipe is left as it is. Raises DataError
    if it holds anything else or cannot be written, and for a recipe that cannot be made.
    """
    recipe, root = Recipe(dataset, train, val, (size[0], size[1]), seed, float(distance)), Path(root).resolve()
    _check(recipe)
    if _made(root, recipe):
        return root
    try:
        with locked(root.with_name(f".{root.name}.lock"), math.inf, partial(_say_who_draws, root)):
            if not _made(root, recipe):
                _remove_parts(root)
                _draw(root, recipe, progress)
    except OSError as error:
        if read_manifest(root / MANIFEST) == recipe:  # of another machine, which sees no locks of ours
            return root
        if error.errno in NO_ROOM:
            raise DataError(f"make: root {root}: {error.strerror}; make room or choose another root") from error
        raise DataError(f"make: root {root} must be a writable folder, got {error}; choose another") from error
    return root


def _say_who_draws(root: Path, who: str) -> None:
    print(f"{root}: waiting for {who}, which draws it", file=sys.stderr)


def _draw(root: Path, recipe: Recipe, progress: bool) -> None:
    """Draw into a folder beside `root` and put it in its place."""
    part = _part(root, os.getpid())
    try:
        part.mkdir(parents=True)
        with naming(root):
            _write(part, recipe, progress)
        if root.is_dir():
            root.rmdir()
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(root: Path, process: object) -> Path:
    return root.with_name(f".{root.name}.part-{process}")


def _remove_parts(root: Path) -> None:
    """Remove what processes that were killed while drawing have left; whoever holds the lock knows that they ended."""
    for path in root.parent.iterdir():
        if path.name.startswith(_part(root, "").name) and path.name.rpartition("-")[2].isdigit():
            shutil.rmtree(path, ignore_errors=True)


def _check(recipe: Recipe) -> None:
    """Raises DataError for a value that cannot be made."""
    if recipe.dataset not in DOMAINS:
        raise DataError(f"make: dataset must be one of {', '.join(DOMAINS)}, got {recipe.dataset!r}")
    if recipe.train < 1 or recipe.val < 1 or recipe.train >= VAL_START:
        raise DataError(f"make: train and val must be in 1..{VAL_START - 1}, got {recipe.train} and {recipe.val}")
    if min(recipe.size) < 16:
        raise DataError(f"make: size must be at least 16 x 16, got {recipe.size[0]} x {recipe.size[1]}")
    if recipe.seed < 0:
        raise DataError(f"make: seed must be at least 0, got {recipe.seed}")
    domain_at(recipe.dataset, recipe.distance)


def _made(root: Path, recipe: Recipe) -> bool:
    """Whether `root` already holds this recipe's scenes. Raises DataError if it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    manifest = root / MANIFEST
    if manifest.is_file() and read_manifest(manifest) == recipe:
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
        image, ids = render_ids(recipe.dataset, recipe.seed, number, recipe.size, recipe.distance)
        write_scene(root, Scene(recipe, number, count + 1), image, ids)
    write_lists(root, recipe)
    (root / MANIFEST).write_text(_manifest(recipe), encoding="utf-8")
