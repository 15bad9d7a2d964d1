"""The files of synthetic scenes, in the layout and label encoding of each dataset."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import kornia_rs.io
import numpy as np
from PIL import Image
from scipy.io import savemat

from tmt.data.labels import CLASSES, IGNORE, PALETTE, label_names, lookup_table
from tmt.data.manifest import Recipe
from tmt.synthetic.canvas import CAR, PLATE
from tmt.synthetic.spectrum import domain_at

VAL_START = 1_000_000  # scene number of the first validation image: it stays the same whatever the training set's size

# Names in Mapillary's and SYNTHIA's tables of what the Cityscapes classes are written as.
MAPILLARY_NAMES = (
    "Road", "Sidewalk", "Building", "Wall", "Fence", "Pole", "Traffic Light", "Traffic Sign (Front)", "Vegetation",
    "Terrain", "Sky", "Person", "Bicyclist", "Car", "Truck", "Bus", "On Rails", "Motorcycle", "Bicycle",
)  # fmt: skip
SYNTHIA_NAMES = tuple("pedestrian" if name == "person" else name for name in CLASSES)


@dataclass(frozen=True)
class Scene:
    """One scene of a recipe."""

    recipe: Recipe
    number: int  # of the scene; from VAL_START on it is of the validation split
    place: int  # from 1, training scenes first

    @property
    def val(self) -> bool:
        return self.number >= VAL_START

    def quality(self) -> int:
        """Of its JPEG file."""
        bounds = domain_at(self.recipe.dataset, self.recipe.distance).optics.jpeg
        return round(Random(f"{self.recipe.dataset} {self.number} jpeg").uniform(*bounds))


def write_scene(root: Path, scene: Scene, image: np.ndarray, ids: np.ndarray) -> None:
    """An image uint8 (H, W, 3) and its Cityscapes label ids uint8 (H, W), 34 for licence plates."""
    match scene.recipe.dataset:
        case "cityscapes":
            _write_cityscapes(root, scene, image, ids)
        case "bdd100k":
            _write_bdd100k(root, scene, image, ids)
        case "mapillary":
            _write_mapillary(root, scene, image, ids)
        case "gtav":
            _write_gtav(root, scene, image, ids)
        case "synthia":
            _write_synthia(root, scene, image, ids)


def write_lists(root: Path, recipe: Recipe) -> None:
    """What goes with the files: split lists, label names."""
    match recipe.dataset:
        case "gtav":
            _write_split(root, recipe)
        case "mapillary":
            _write_config(root)
        case "synthia":
            names = [f"{place:07d}" for place in range(1, recipe.train + recipe.val + 1)]
            for split, part in (("train", names[: recipe.train]), ("val", names[recipe.train :])):
                (root / f"{split}.txt").write_text("".join(f"{name}.png\n" for name in part), encoding="utf-8")


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, compress_level=3)


def _save_jpeg(image: np.ndarray, path: Path, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=quality)


def _write_cityscapes(root: Path, scene: Scene, image: np.ndarray, ids: np.ndarray) -> None:
    """One image and its labelIds; Cityscapes counts licence plates as car there."""
    split, city = ("val", "drawnville") if scene.val else ("train", f"drawnburg{scene.number // 200}")
    stem = f"{city}_{scene.number % VAL_START:06d}_000019"
    _save(Image.fromarray(image), root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
    label = np.where(ids == PLATE, np.uint8(CAR), ids)
    _save(Image.fromarray(label), root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png")


def _write_bdd100k(root: Path, scene: Scene, image: np.ndarray, ids: np.ndarray) -> None:
    """One JPEG and its mask of training ids."""
    split, stem = "val" if scene.val else "train", f"drawn{scene.number % VAL_START:08x}"
    _save_jpeg(image, root / "images" / "10k" / split / f"{stem}.jpg", scene.quality())
    label = lookup_table("cityscapes")[ids]
    _save(Image.fromarray(label), root / "labels" / "sem_seg" / "masks" / split / f"{stem}.png")


def _write_mapillary(root: Path, scene: Scene, image: np.ndarray, ids: np.ndarray) -> None:
    """One JPEG and its palette label of v1.2, whose indices are positions in config.json."""
    folder = root / ("validation" if scene.val else "training")
    stem = f"drawn{scene.number % VAL_START:017d}"
    _save_jpeg(image, folder / "images" / f"{stem}.jpg", scene.quality())
    label = Image.fromarray(_table("mapillary_v1.2", MAPILLARY_NAMES, "Unlabeled")[ids])
    label.putpalette(_config_colours().tobytes())
    _save(label, folder / "labels" / f"{stem}.png")


def _write_gtav(root: Path, scene: Scene, image: np.ndarray, ids: np.ndarray) -> None:
    """One image and its palette label, whose indices are the label ids."""
    _save(Image.fromarray(image), root / "images" / f"{scene.place:05d}.png")
    table = lookup_table("gtav")[:35]
    colours = np.where(table[:, None] == 255, 0, PALETTE[np.minimum(table, len(PALETTE) - 1)]).astype(np.uint8)
    label = Image.fromarray(ids)
    label.putpalette(colours.tobytes())
    _save(label, root / "labels" / f"{scene.place:05d}.png")


def _write_synthia(root: Path, scene: Scene, image: np.ndarray, ids: np.ndarray) -> None:
    """One image and its 16-bit label: the class in the first channel, nothing in the others."""
    _save(Image.fromarray(image), root / "RGB" / f"{scene.place:07d}.png")
    path = root / "GT" / "LABELS" / f"{scene.place:07d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    label = np.zeros((*ids.shape, 3), dtype=np.uint16)
    label[..., 0] = _table("synthia", SYNTHIA_NAMES, "void")[ids]
    kornia_rs.io.write_image_png_u16(str(path), label, "rgb")


@cache
def _table(dataset: str, names: tuple[str, ...], void: str) -> np.ndarray:
    """The dataset's id of each Cityscapes label id, uint8 (256,); `names` are its names for the classes."""
    ids = {name: index for index, name in enumerate(label_names(dataset))}
    training = lookup_table("cityscapes")
    table = [ids[void] if training[i] == IGNORE else ids[names[training[i]]] for i in range(256)]
    return np.array(table, dtype=np.uint8)


def _write_split(root: Path, recipe: Recipe) -> None:
    """`split.mat`: 1-based file numbers as columns."""
    train = np.arange(1, recipe.train + 1)[:, None]
    val = np.arange(recipe.train + 1, recipe.train + recipe.val + 1)[:, None]
    savemat(root / "split.mat", {"trainIds": train, "valIds": val, "testIds": np.zeros((0, 1))})


def _config_colours() -> np.ndarray:
    """A colour for each label of Mapillary, uint8 (n, 3): its class's, a shade of grey for the others."""
    table = lookup_table("mapillary_v1.2", "strict")[: len(label_names("mapillary_v1.2"))]
    grey = np.arange(len(table), dtype=np.uint8)[:, None]
    return np.where(table[:, None] == IGNORE, grey, PALETTE[np.minimum(table, len(PALETTE) - 1)]).astype(np.uint8)


def _write_config(root: Path) -> None:
    """`config.json`: the labels in the order of their ids."""
    colours = _config_colours().tolist()
    labels = [
        {
            "readable": name,
            "name": name.lower().replace(" ", "-"),
            "color": colour,
            "evaluate": True,
            "instances": False,
        }
        for name, colour in zip(label_names("mapillary_v1.2"), colours, strict=True)
    ]
    content = json.dumps({"labels": labels, "mapping": "public", "version": "1.2"}, indent=1)
    (root / "config.json").write_text(content, encoding="utf-8")
