"""Whether a dataset on disk is what its reader expects: every file is looked at, every fault is one line."""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from tmt.data.files import Listing, Sample, missing_files, read_bytes, read_sample, readable, tell_again
from tmt.data.labels import IGNORE
from tmt.data.manifest import MANIFEST, Recipe, read_manifest
from tmt.data.rare import raised
from tmt.data.spec import DatasetSpec
from tmt.data.unlabelled import read_unlabelled
from tmt.errors import DataError

# Images with a published label, by split; SYNTHIA has no official splits, only a number of images.
EXPECTED = {
    "cityscapes": {"train": 2975, "val": 500},
    "bdd100k": {"train": 7000, "val": 1000},
    "mapillary": {"train": 18000, "val": 2000},
    "gtav": {"train": 12403, "val": 6382, "test": 6181},
    "synthia": {"train and val": 9400},
    "camvid": {"train": 367, "val": 101, "test": 233},
    "idd": {},  # one part of the release, or both
    "idd_lite": {"train": 1403, "val": 204},
    "labelmefacade": {"train": 100, "test": 845},
    "folders": {},
}
# Splits with labels, where these are not training and validation; LabelMeFacade's validation is its test split.
LABELLED = {"gtav": ["train", "val", "test"], "camvid": ["train", "val", "test"], "labelmefacade": ["train", "test"]}


@dataclass
class SplitReport:
    """What one split holds."""

    images: int
    classes: dict[str, int]  # labelled pixels by class
    ignored: int  # pixels
    sizes: dict[str, int]  # images by "height x width"


@dataclass
class Report:
    """What was found; `faults` and `warnings` are one line each and name a file or folder."""

    dataset: str
    root: str
    synthetic: bool
    splits: dict[str, SplitReport] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON."""
        content = json.dumps(asdict(self) | {"clean": not self.faults}, indent=1, ensure_ascii=False)
        path.write_text(content + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Examined:
    """What one pair of files is like."""

    counts: np.ndarray | None = None  # (256,) int64 pixels by training id; None where the pair cannot be read
    size: tuple[int, int] = (0, 0)  # height, width of the image
    palette: bytes | None = None  # of the label file
    digest: bytes | None = None  # of the image file
    fault: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examination(TorchDataset):
    """The pairs of a listing, examined by index; an object that loader processes can share."""

    listing: Listing
    indices: Sequence[int]
    labelled: bool

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Examined:
        return examine(self.listing, self.indices[place], self.labelled)


@readable()
def check_dataset(
    dataset: str,
    root: str | Path,
    splits: Sequence[str] = (),
    *,
    mapping: str = "strict",
    version: str | None = None,
    classes: str | None = None,
    labelled: bool = True,
    workers: int = 0,
    partial: bool = False,
    progress: bool = True,
) -> Report:
    """Looks at every file of a dataset: `splits`, or all that should have labels.

    `classes` is a class map; without `labelled` images alone are looked at; `partial` allows other numbers of images
    than the published ones; `workers` processes decode. Raises DataError only for a name that is no dataset and a root
    that may not be looked into; everything else becomes a line of the report.
    """
    if dataset not in EXPECTED:
        raise DataError(f"check: dataset must be one of {', '.join(EXPECTED)}, got {dataset!r}")
    root = Path(root)
    tell_again()
    recipe = read_manifest(root / MANIFEST)
    report = Report(dataset, str(root), recipe is not None)
    seen: dict[Path, str] = {}
    digests: dict[Path, bytes | None] = {}
    for split in splits or splits_of(dataset, root, recipe):
        listing = _list(report, DatasetSpec(dataset, root, mapping, version, classes), split, labelled)
        if listing is None:
            continue
        report.faults += [
            f"{image}: image must be of one split, got both {seen[image]} and {split}; correct the lists"
            for image in listing.images
            if image in seen
        ]
        seen |= dict.fromkeys(listing.images, split)
        digests |= _check_split(report, split, listing, labelled, recipe, workers, progress)
    report.warnings += same_pictures(digests)
    if not partial and not splits:
        report.faults += wrong_counts(report, recipe)
    return report


def _list(report: Report, spec: DatasetSpec, split: str, labelled: bool) -> Listing | None:
    """The files of a split; None, and a fault, where it cannot be listed. What it leaves out becomes warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            listing = spec.list(split, labelled)
        except DataError as error:
            report.faults.append(str(error))
            return None
    report.warnings += [str(warning.message) for warning in caught]
    return listing


def splits_of(dataset: str, root: Path, recipe: Recipe | None) -> list[str]:
    """The splits that should be there with labels."""
    if dataset == "folders":
        found = sorted(path.name for path in (root / "images").glob("*") if path.is_dir())
        return found or ["train"]
    return LABELLED.get(dataset, ["train", "val"]) if recipe is None else ["train", "val"]


def wrong_counts(report: Report, recipe: Recipe | None) -> Iterator[str]:
    """Faults where a split holds another number of images than was published, or than the recipe says."""
    expected = {"train": recipe.train, "val": recipe.val} if recipe else EXPECTED[report.dataset]
    source = MANIFEST if recipe else "the published set"
    for split, count in expected.items():
        parts = [report.splits[name].images for name in split.split(" and ") if name in report.splits]
        if parts and sum(parts) != count:
            yield (
                f"{report.root}: {split} must hold {count} images, as {source} does, got {sum(parts)}; "
                "complete it, or check with --partial"
            )


def _check_split(
    report: Report, split: str, listing: Listing, labelled: bool, recipe: Recipe | None, workers: int, progress: bool
) -> dict[Path, bytes | None]:
    """Adds what is wrong with one split, and what it holds; returns the digests of its readable images."""
    lost = {path: "image" for path in missing_files(listing.images)}
    lost |= {path: "label" for path in missing_files(listing.labels if labelled else [])}
    mends = {"image": listing.image_mend, "label": listing.label_mend}
    report.faults += [f"{path}: {kind} must exist, got no such file; {mends[kind]}" for path, kind in lost.items()]
    strays = listing.strays if labelled else ()
    report.faults += [f"{path}: label must have an image, got none; restore it, or remove this" for path in strays]
    pairs = zip(listing.images, listing.labels, strict=True)
    whole = [i for i, (image, label) in enumerate(pairs) if image not in lost and label not in lost]
    found = list(_examine_all(Examination(listing, whole, labelled), split, workers, progress))
    report.faults += [result.fault for result in found if result.fault]
    report.warnings += dict.fromkeys(text for result in found for text in result.warnings)
    if recipe:
        report.faults += wrong_sizes([listing.images[i] for i in whole], found, recipe.size)
    report.splits[split] = _summary(listing, found)
    if labelled:
        report.warnings += odd_palettes([listing.labels[i] for i in whole], found)
        report.faults += no_classes(report.root, split, report.splits[split])
        report.warnings += one_class(report.root, split, report.splits[split])
    return {listing.images[i]: result.digest for i, result in zip(whole, found, strict=True) if not result.fault}


def _examine_all(pairs: Examination, split: str, workers: int, progress: bool) -> Iterator[Examined]:
    loader = DataLoader(pairs, batch_size=None, num_workers=workers, generator=torch.Generator())
    unit = "pair" if pairs.labelled else "image"
    for result in tqdm(loader, f"checking {split}", unit=unit, disable=not progress):
        yield raised(result)


def examine(listing: Listing, index: int, labelled: bool = True) -> Examined:
    """Reads one pair, or an image without a label, whole; never raises DataError."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            sample = read_sample(listing, index) if labelled else read_unlabelled(listing, index)
            palette = label_palette(listing.labels[index]) if labelled else None
            digest = hashlib.blake2b(read_bytes(listing.images[index]), digest_size=16).digest()
        except DataError as error:
            return Examined(fault=str(error))
    counts = np.bincount(sample.label.ravel(), minlength=256)
    texts = [str(warning.message) for warning in caught]
    if labelled and counts[IGNORE] == sample.label.size:
        texts.append(f"{listing.labels[index]}: no pixel has a class, all are ignored")
    return Examined(counts, sample.image.shape[:2], palette, digest, None, tuple(texts))


def label_palette(path: Path) -> bytes | None:
    """The colours of a palette label; None for one without."""
    if path.suffix != ".png":  # polygons
        return None
    with Image.open(path) as file:
        palette = file.getpalette()
    return None if palette is None else bytes(palette).rstrip(b"\0")


def odd_palettes(labels: Sequence[Path], found: Sequence[Examined]) -> Iterator[str]:
    """Warnings for labels whose palette is not that of most: the tool that saved them may have changed the ids too."""
    readable = [(path, result.palette) for path, result in zip(labels, found, strict=True) if not result.fault]
    tally = Counter(palette for _, palette in readable)
    if len(tally) < 2:
        return
    usual, count = tally.most_common(1)[0]
    for path, palette in readable:
        if palette != usual:
            yield f"{path}: palette differs from that of {count} other labels; the ids may have been changed with it"


def same_pictures(digests: Mapping[Path, bytes | None]) -> Iterator[str]:
    """Warnings for image files of the same bytes: with one in each split, training sees what validation scores."""
    first: dict[bytes | None, Path] = {}
    for path, digest in digests.items():
        if digest in first:
            yield f"{path}: image is the same file as {first[digest]}; one picture should be in one split, once"
        first.setdefault(digest, path)


def wrong_sizes(images: Sequence[Path], found: Sequence[Examined], size: tuple[int, int]) -> Iterator[str]:
    """Faults for synthetic images of another size than they were made in."""
    for path, result in zip(images, found, strict=True):
        if not result.fault and result.size != tuple(size):
            yield f"{path}: image must have the size {tuple(size)} of {MANIFEST}, got {result.size}; make the set again"


def no_classes(root: str, split: str, content: SplitReport) -> Iterator[str]:
    """A fault where nothing of a split can be trained on or scored."""
    if content.sizes and not any(content.classes.values()):
        yield f"{root}: split {split} must have pixels of a class, got none, all are ignored; look at the table of ids"


def one_class(root: str, split: str, content: SplitReport) -> Iterator[str]:
    """A warning where a split shows one class alone."""
    shown = [name for name, count in content.classes.items() if count]
    if len(shown) == 1:
        yield f"{root}: split {split} shows no class but {shown[0]}; its score says nothing of other classes"


def _summary(listing: Listing, found: Iterable[Examined]) -> SplitReport:
    readable = [(result.counts, result.size) for result in found if result.counts is not None]
    counts = np.zeros(256, dtype=np.int64)
    for pixels, _ in readable:
        counts += pixels
    sizes = Counter(f"{height} x {width}" for _, (height, width) in readable)
    classes = {name: int(count) for name, count in zip(listing.label_set.names, counts, strict=False)}
    return SplitReport(len(listing.images), classes, int(counts[IGNORE]), dict(sizes.most_common()))


def some_samples(listing: Listing, count: int, labelled: bool = True) -> Iterator[Sample]:
    """Up to `count` samples spread evenly over a listing, those that can be read; without labels, images alone."""
    read = read_sample if labelled else read_unlabelled
    for index in np.unique(np.linspace(0, len(listing.images) - 1, count).astype(int)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield read(listing, int(index))
        except DataError:
            continue
