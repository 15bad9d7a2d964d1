"""India Driving Dataset: `leftImg8bit/<split>/<drive>/*_leftImg8bit.{png,jpg}` with `gtFine/<split>/<drive>/*`.

The release has polygons alone; its owners' scripts (github.com/AutoNUE/public-code, createLabels.py) draw label files
of them, by `--id-type csTrainId` with the 19 classes of Cityscapes or by `level3Id` with the 26 of its own benchmark.
The first of these that is there is read: csTrainIds, level3Ids, polygons, which are drawn as level3Ids.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tmt.data.files import (
    Listing,
    Pairs,
    read_bytes,
    read_pixels,
    require_folder,
    require_some,
    walk_files,
    walk_images,
)
from tmt.data.labels import (
    CITYSCAPES19,
    IGNORE,
    LabelSet,
    known_train_ids,
    lookup_table,
    name_ids,
    table_classes,
    to_train_ids,
    unchanged,
)
from tmt.errors import DataError

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = ("_leftimg8bit.png", "_leftimg8bit.jpg")
SCRIPT = "unpack the label archive again, or make label files with createLabels.py of AutoNUE/public-code"


def read_label(path: Path, classes: int) -> np.ndarray:
    """Training ids (H, W) uint8 as the file holds them. Raises DataError for any other file and id."""
    label = read_pixels(path, ("L",), "use the files of label ids, not those of colours or instances")
    mend = f"ids are 0-{classes - 1} and {IGNORE}; is it a file of another --id-type?"
    return to_train_ids(label, unchanged(), known_train_ids(classes), str(path), mend)


def read_cityscapes(path: Path) -> np.ndarray:
    """Training ids of a labelcsTrainIds file."""
    return read_label(path, len(CITYSCAPES19))


def read_level3(path: Path) -> np.ndarray:
    """Training ids of a labellevel3Ids file."""
    return read_label(path, len(table_classes("idd", "level3")))


def read_polygons(path: Path) -> np.ndarray:
    """Training ids (H, W) uint8, level3, of a file of polygons, of which later ones lie over earlier ones.

    Raises DataError for a file of another form and a label that is not in the table.
    """
    try:
        content = json.loads(read_bytes(path, "file of polygons").decode("utf-8"))
        picture = Image.new("L", (int(content["imgWidth"]), int(content["imgHeight"])), IGNORE)
        drawn = [one for one in content["objects"] if not one.get("deleted")]
        polygons = [(one["label"], [(float(x), float(y)) for x, y in one["polygon"]]) for one in drawn]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: must be JSON with imgWidth, imgHeight and objects of label and polygon, got "
            f"{type(error).__name__} {error}; unpack it again"
        ) from error
    for label, polygon in polygons:
        if len(polygon) > 2:
            ImageDraw.Draw(picture).polygon(polygon, fill=_level3(label, path))
    return np.array(picture)


def _level3(label: str, path: Path) -> int:
    """The training id of a label; that of several things together ends with `group`."""
    known = name_ids("idd")
    found = known.get(label, known.get(label.removesuffix("group")))
    if found is None:
        raise DataError(f"{path}: labels must be in the table of IDD, got {label!r}; correct the file")
    return int(lookup_table("idd", "level3")[found])


@dataclass(frozen=True)
class Kind:
    """A kind of label files."""

    suffix: str  # after the image's name
    read: Callable[[Path], np.ndarray]
    label_set: LabelSet


def kinds() -> tuple[Kind, ...]:
    """The kinds of label files, the one that counts first."""
    level3 = table_classes("idd", "level3")
    return (
        Kind("_gtFine_labelcsTrainIds.png", read_cityscapes, CITYSCAPES19),
        Kind("_gtFine_labellevel3Ids.png", read_level3, level3),
        Kind("_gtFine_polygons.json", read_polygons, level3),
    )


def name_of(image: Path, folder: Path) -> str:
    """The drive and number of an image."""
    drive = image.relative_to(folder).parent.as_posix()
    return f"{drive}/{image.name[: -len(IMAGE_SUFFIXES[0])]}"


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by drive and name. Raises DataError for a missing folder and an empty split."""
    if split not in SPLITS:
        raise DataError(f"idd: split must be one of {', '.join(SPLITS)}, got {split!r}")
    folder = require_folder(Path(root) / "leftImg8bit" / split, "idd")
    masks = require_folder(Path(root) / "gtFine" / split, "idd")
    where = f"idd: {folder} must hold <drive>/*_leftImg8bit.png or .jpg"
    images = require_some(walk_images(folder, IMAGE_SUFFIXES), where, "check the root")
    names = [name_of(image, folder) for image in images]
    here = (kind for kind in kinds() if (masks / f"{names[0]}{kind.suffix}").is_file())
    kind = next(here, kinds()[-1])
    labels = [masks / f"{name}{kind.suffix}" for name in names]
    strays = tuple(sorted(set(walk_files(masks, (kind.suffix.lower(),))) - set(labels)))
    return Listing(
        names, images, labels, kind.read, label_mend=SCRIPT, label_set=kind.label_set, strays=strays
    )  # fmt: skip


class IDD(Pairs):
    """The images of one split, called DRIVE/NUMBER and sorted by it, with labels of the first kind that is there.

    Raises DataError on construction for a missing folder, an empty split or an image without label of the kind that the
    first has; on reading for whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
