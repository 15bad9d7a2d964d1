"""Mapillary Vistas: `<split>/images/*.jpg` with palette labels, whose ids are positions in `config*.json`."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tmt.data.files import Listing, Pairs, list_files, read_pixels, require_folder, require_some
from tmt.data.labels import known_ids, label_names, lookup_table, to_train_ids
from tmt.errors import DataError

SPLITS = {"train": "training", "val": "validation", "test": "testing"}
MAPPINGS = ("strict", "broad")


@dataclass(frozen=True)
class Release:
    """Where a release keeps its files, below the root and below the split's folder."""

    table: str  # name of its label table
    config: str
    labels: str


# As a root's config file tells them apart; the first that is there counts. v1.2 comes alone or beside v2.0.
RELEASES = (
    Release("mapillary_v2.0", "config_v2.0.json", "v2.0/labels"),
    Release("mapillary_v1.2", "config_v1.2.json", "v1.2/labels"),
    Release("mapillary_v1.2", "config.json", "labels"),
)


def find_release(root: Path, version: str | None) -> Release:
    """The release under `root`, of `version` (v1.2 or v2.0) if one is asked for. Raises DataError if there is none."""
    asked = [release for release in RELEASES if version in (None, release.table.removeprefix("mapillary_"))]
    if not asked:
        raise DataError(f"mapillary: version must be v1.2 or v2.0, got {version!r}")
    for release in asked:
        if (root / release.config).is_file():
            return release
    names = " or ".join(release.config for release in asked)
    raise DataError(f"mapillary: {root} must hold {names}, got none of them; it comes with the dataset: check the root")


def check_config(path: Path, table: str) -> None:
    """Raises DataError unless the label names in the config file are, in this order, those of the table."""
    try:
        names = [label["readable"] for label in json.loads(path.read_text(encoding="utf-8"))["labels"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: must be Mapillary's JSON with `labels` and `readable` names, got {type(error).__name__}; "
            "copy it again"
        ) from error
    expected = label_names(table)
    for position, (got, right) in enumerate(zip(names, expected, strict=False)):
        if got != right:
            raise DataError(
                f"{path}: label {position} must be {right!r}, got {got!r}; label ids are positions in this list, "
                "so another order means other ids: use the release's own file"
            )
    if len(names) != len(expected):
        raise DataError(
            f"{path}: labels must be the {len(expected)} of {table}, got {len(names)}; use the release's own file"
        )


def read_label(path: Path, table: str, mapping: str) -> np.ndarray:
    """Training ids (H, W) uint8 of a palette or greyscale label of the release with this table.

    Raises DataError for an unreadable file, another mode, and ids outside the table.
    """
    label = read_pixels(path, ("P", "L"), "use the `labels` folder, not `instances` or `panoptic`")
    mend = f"{table} ends at {known_ids(table).nonzero()[0][-1]}"
    return to_train_ids(label, lookup_table(table, mapping), known_ids(table), str(path), mend)


def listing(root: str | Path, split: str, mapping: str = "strict", version: str | None = None) -> Listing:
    """The split's files, sorted by name. Raises DataError for a missing folder or config file, label names in another
    order, and an empty split."""
    if split not in SPLITS:
        raise DataError(f"mapillary: split must be one of {', '.join(SPLITS)}, got {split!r}")
    if mapping not in MAPPINGS:
        raise DataError(f"mapillary: mapping must be one of {', '.join(MAPPINGS)}, got {mapping!r}")
    root = Path(root)
    folder = require_folder(root / SPLITS[split] / "images", "mapillary")
    release = find_release(root, version)
    check_config(root / release.config, release.table)
    masks = require_folder(root / SPLITS[split] / release.labels, "mapillary")
    images = require_some(list_files(folder, (".jpg",)), f"mapillary: {folder} must hold *.jpg", "check the root")
    names = [path.stem for path in images]
    labels = [masks / f"{name}.png" for name in names]
    return Listing(
        names,
        images,
        labels,
        partial(read_label, table=release.table, mapping=mapping),
        label_mend="every image needs a label; unpack the archive again, or remove the image",
        strays=tuple(sorted(set(list_files(masks, (".png",))) - set(labels))),
    )


class Mapillary(Pairs):
    """The images of one split, sorted by name, with their labels as training ids.

    `mapping` says which labels count as a Cityscapes class: `strict`, only those of the same meaning, or `broad`, near
    ones too. `version` is v1.2 or v2.0, None the newest that is there.

    Raises DataError on construction for a missing folder or config file, label names in another order, an empty split
    or an image without label; on reading for whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train", mapping: str = "strict", version: str | None = None):
        super().__init__(listing(root, split, mapping, version))
