"""A simulation: the labels that a dataset has where they were picked, as a dataset of its own to be trained on."""

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tmt.data import IGNORE, Dataset, LabelSet
from tmt.labelling.images import Earlier, ToLabel
from tmt.labelling.picking import Picking, Picks
from tmt.labelling.place import Place
from tmt.runtime.files import replace_folder


@dataclass(frozen=True)
class Revealing:
    """Writes the folder `dataset`, in the layout `folders`."""

    place: Place
    val: tuple[Dataset, list[Path]] | None
    """The split `val` and its images' files; None where there is none."""
    dataset: Dataset
    """The split that was picked from, its classes in the order of `label_set`."""
    label_set: LabelSet

    def write(self, picking: Picking, picks: Picks) -> None:
        """The images with picks or earlier labels, as split `train`; the split `val`, where there is one, as it is."""
        replace_folder(self.place.out / "dataset", lambda folder: self._fill(folder, picking, picks))

    def _fill(self, folder: Path, picking: Picking, picks: Picks) -> None:
        _write_classes(folder, self.label_set)
        with tqdm(picking.images, "reveal", unit="image") as bar:
            for index, image in enumerate(bar):
                if index in picks.of or picking.earlier.has(image):
                    label = self._label(image, index in picks.of, picking.earlier)
                    _put(folder, "train", image.name, image.path, label)
        if self.val is not None:
            dataset, files = self.val
            with tqdm(files, "val", unit="image") as bar:
                for index, path in enumerate(bar):
                    sample = dataset[index]
                    _put(folder, "val", sample.name, path, sample.label)

    def _label(self, image: ToLabel, picked: bool, earlier: Earlier) -> np.ndarray:
        """(H, W) uint8: the dataset's labels where they were picked, earlier ones, 255 elsewhere."""
        truth = self.dataset[image.place].label
        former = earlier.read(image, truth.shape)
        label = np.full_like(truth, IGNORE) if former is None else former
        if not picked:
            return label
        mask = np.asarray(Image.open(self.place.mask(image.name))) != IGNORE
        return np.where(mask, truth, label)


def _write_classes(folder: Path, label_set: LabelSet) -> None:
    with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("id", "name", "train_id", "red", "green", "blue"))
        for i, (name, colour) in enumerate(zip(label_set.names, label_set.palette.tolist(), strict=True)):
            rows.writerow((i, name, i, *colour))
        rows.writerow((IGNORE, "no label", IGNORE, 0, 0, 0))


def _put(folder: Path, split: str, name: str, image: Path, label: np.ndarray) -> None:
    """Add an image, linked where the disk allows it, and its label map."""
    to = folder / "images" / split / f"{name}{image.suffix}"
    mask = folder / "labels" / split / f"{name}.png"
    for path in (to, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image.resolve(), to)
    except OSError:
        shutil.copyfile(image, to)
    Image.fromarray(label.astype(np.uint8)).save(mask, format="PNG")
