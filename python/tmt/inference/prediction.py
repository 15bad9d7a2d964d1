"""What `tmt.predict` does with files: which images there are, what their predictions are called, what is done."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tmt.data import IGNORE, LabelSet, lookup_table, normalise
from tmt.data.files import IMAGE_SUFFIXES as SUFFIXES
from tmt.data.files import read_image, walk_images
from tmt.errors import ConfigError, DataError
from tmt.inference.sliding_window import Segmentation, segment_batch
from tmt.model import TMTForSemanticSegmentation, present
from tmt.model.factory import label_set_of, model_folder
from tmt.runtime.files import read_json, write_json
from tmt.settings import InferenceConfig, PredictConfig
from tmt.visualize.drawing import heat, overlay
from tmt.visualize.panels import save

KINDS = ("labels", "overlay", "transferability", "confidence")
ORIGIN = "predict.json"
FREE = ("paths", "out", "save", "overwrite", "batch", "device", "model")
"""Settings that may change between one call and the next on the same folder; the model is compared by its weights."""


@dataclass(frozen=True)
class Input:
    """One image and what its pictures are called."""

    image: Path
    name: str
    """Below each kind's folder, with folders and `.png`."""


def find_images(paths: Sequence[str], out: Path, kinds: Sequence[str] = KINDS) -> list[Input]:
    """The images that `paths` name: files, folders to their bottom, or patterns; each once, sorted by name.

    What lies in folders of these `kinds` in `out` from before is not an image. Names are relative to the deepest folder
    that holds all paths.
    Raises DataError for a path that names none.
    """
    own = (*(os.path.abspath(out / kind) + os.sep for kind in kinds), os.path.abspath(out / ORIGIN))
    places = [place for path in paths for place in _places(path)]
    found = {image for place in places for image in _images(place, own)}
    base = os.path.commonpath([place if place.is_dir() else place.parent for place in places])
    relative = {image: image.relative_to(base) for image in found}
    count = Counter(name.with_suffix("") for name in relative.values())
    inputs = []
    for image, name in relative.items():
        stem = name.with_suffix("") if count[name.with_suffix("")] == 1 else name  # a.jpg beside a.png keeps its ending
        inputs.append(Input(image, f"{stem.as_posix()}.png"))
    _check_names(inputs)
    return sorted(inputs, key=lambda item: item.name)


def _check_names(inputs: list[Input]) -> None:
    taken: dict[str, Path] = {}
    for item in inputs:
        other = taken.setdefault(item.name, item.image)
        if other != item.image:
            raise DataError(f"{item.image}: images must differ in name, got {other} beside it; rename one")


def check_case(inputs: Sequence[Input]) -> None:
    """Raise DataError where two pictures would be one file on a disk to which `a.png` and `A.png` are the same."""
    taken: dict[str, Path] = {}
    for item in inputs:
        other = taken.setdefault(unicodedata.normalize("NFC", item.name).casefold(), item.image)
        if other != item.image:
            raise DataError(
                f"{item.image}: images must differ in more than upper and lower case on the disk of --out, got {other} "
                "beside it; rename one, or choose an --out on another disk"
            )


def _places(path: str) -> list[Path]:
    """The files and folders of one argument, with absolute paths; of a pattern's files, images only."""
    if os.path.exists(path):
        return [Path(os.path.abspath(path))]
    if not has_magic(path):
        raise DataError(f"{path}: must be an image, a folder or a pattern, got no such file; check the path")
    matches = [Path(os.path.abspath(match)) for match in sorted(glob(path, recursive=True))]
    matches = [match for match in matches if match.is_dir() or match.suffix.lower() in SUFFIXES]
    if not matches:
        raise DataError(f"{path}: must match images or folders, got none; check the pattern")
    return matches


def _images(place: Path, own: tuple[str, ...]) -> list[Path]:
    """The image itself, or those below a folder, without predictions of ours; warns of files that are no images."""
    if not place.is_dir():
        return [place]
    found = walk_images(place, apart=own)
    if not found:
        raise DataError(f"{place}: must hold {', '.join(SUFFIXES)} files, got none; check the folder")
    return found


@dataclass(frozen=True)
class Origin:
    """Which model and settings the predictions in a folder come from, so that two are never mixed."""

    out: Path
    kinds: tuple[str, ...]
    overwrite: bool
    settings: dict[str, Any]

    @classmethod
    def of(cls, config: PredictConfig, out: Path) -> "Origin":
        """The origin of a command."""
        kept = {name: value for name, value in asdict(config).items() if name not in FREE}
        settings: dict[str, Any] = {"weights": weights_digest(model_folder(config.model)), **kept}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        return cls(out, config.save, config.overwrite, plain)

    def check(self, inputs: list[Input]) -> list[Input]:
        """The images of which a picture is missing, or all of them where the old are to be overwritten.

        Raises ConfigError where pictures exist that come from other settings, or that are not known to be ours.
        """
        if self.overwrite:
            return inputs
        if (self.out / ORIGIN).is_file():
            self._check_settings(read_json(self.out / ORIGIN))
        else:
            self._check_free(inputs)
        return [item for item in inputs if not all((self.out / kind / item.name).exists() for kind in self.kinds)]

    def _check_settings(self, before: dict[str, Any]) -> None:
        changed = [
            f"{name}: {_short(before.get(name))} -> {_short(value)}"
            for name, value in self.settings.items()
            if before.get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"out: {self.out} holds predictions of another model or other settings, got {'; '.join(changed)}; "
                "choose another --out, or --overwrite them"
            )

    def _check_free(self, inputs: list[Input]) -> None:
        for kind in self.kinds:
            for item in inputs:
                if (self.out / kind / item.name).exists():
                    raise ConfigError(
                        f"out: {self.out / kind / item.name} exists and was not made by this command; "
                        "choose another --out, or --overwrite it"
                    )

    def write(self) -> None:
        """Write the origin, to be done before the first picture."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / ORIGIN, self.settings)


def _short(value: object) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 20 else str(value)


def weights_digest(folder: Path) -> str:
    """SHA-256 over a model's weights and configuration, by file name."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


@cache
def label_ids() -> np.ndarray:
    """The Cityscapes label id of each train id, uint8 (256,); 0, unlabelled, for what is no class."""
    train_ids = lookup_table("cityscapes")
    table = np.zeros(256, dtype=np.uint8)
    for label_id, train_id in enumerate(train_ids):
        if train_id != IGNORE:
            table[train_id] = label_id
    return table


Group = Sequence[tuple[Input, np.ndarray]]
"""Images of one size, (H, W, 3) uint8, that go through the network together."""


def groups(items: Iterable[Input], most: int, left_out: Callable[[DataError], None]) -> Iterator[Group]:
    """The images in their order, neighbours of one size together, at most so many.

    One that cannot be read is left out, and `left_out` is called with the reason.
    """
    group: list[tuple[Input, np.ndarray]] = []
    for item in items:
        try:
            image = read_image(item.image)
        except DataError as error:
            left_out(error)
            continue
        if group and image.shape != group[0][1].shape:
            yield group
            group = []
        group.append((item, image))
        if len(group) == most:
            yield group
            group = []
    if group:
        yield group


@dataclass(frozen=True)
class Painter:
    """Segments images and draws their pictures."""

    model: TMTForSemanticSegmentation
    label_set: LabelSet
    inference: InferenceConfig
    out: Path
    kinds: tuple[str, ...]
    ids: str
    opacity: float
    overwrite: bool

    @classmethod
    def of(cls, config: PredictConfig, model: TMTForSemanticSegmentation) -> "Painter":
        """The painter of a command."""
        out = Path(config.out)
        return cls(model, label_set_of(model), config, out, config.save, config.ids, config.opacity, config.overwrite)

    def paint(self, group: "Group") -> dict[Path, np.ndarray]:
        """Those pictures of a group's images that are missing, by the file they belong in.

        Raises TMTError for an image that the model cannot judge.
        """
        pixels = torch.stack([normalise(image, self.model.scaling) for _, image in group]).to(self.model.device)
        names = [str(item.image) for item, _ in group]
        maps, confidence = "transferability" in self.kinds, "confidence" in self.kinds
        segmented = segment_batch(self.model, pixels, names, self.inference, maps, confidence)
        drawn = {}
        for (item, image), found in zip(group, segmented, strict=True):
            files = {kind: self.out / kind / item.name for kind in self.kinds}
            wanted = {kind: path for kind, path in files.items() if self.overwrite or not path.exists()}
            drawn |= {path: self._draw(kind, image, found) for kind, path in wanted.items()}
        return drawn

    def _draw(self, kind: str, image: np.ndarray, found: Segmentation) -> np.ndarray:
        """One picture, (H, W) or (H, W, 3) uint8."""
        prediction = found.prediction.byte().cpu().numpy()
        match kind:
            case "labels":
                return label_ids()[prediction] if self.ids == "label" else prediction
            case "overlay":
                return overlay(image, prediction, self.label_set, self.opacity)
            case "transferability":
                return heat(present(found.transferability).cpu().numpy())
            case "confidence":
                return (255 * present(found.confidence)).round().byte().cpu().numpy()
        raise ValueError(f"Painter: kind must be one of {', '.join(KINDS)}, got {kind!r}")


def write_pictures(drawn: dict[Path, np.ndarray]) -> None:
    """Write pictures, (H, W) or (H, W, 3) uint8, each as a whole or not at all."""
    for path, pixels in drawn.items():
        save(Image.fromarray(pixels), path)
