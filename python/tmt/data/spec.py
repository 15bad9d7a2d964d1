"""Which dataset is meant: its layout, its folder, and what the layout may be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tmt.data.class_maps import read_class_map
from tmt.data.datasets import list_dataset, open_dataset
from tmt.data.files import Dataset, Listing
from tmt.data.labels import CITYSCAPES19, LabelSet
from tmt.data.unlabelled import Unlabelled
from tmt.settings import DataConfig


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset on disk."""

    name: str
    """One of `tmt.data.DATASETS`."""
    root: str | Path
    mapping: str = "strict"
    """Mapillary labels that count as a class: `strict` or `broad`."""
    version: str | None = None
    """Release of the Mapillary labels; None: the newest that is there."""
    classes: str | None = None
    """Class map, a file or one of the package's; None: the dataset's own classes."""
    images: Mapping[str, str | None] = field(default_factory=dict)
    """Files that name the images to use, by split; without one, all of the split's."""

    @classmethod
    def of(cls, settings: DataConfig, role: str, root: str | Path) -> "DatasetSpec":
        """The dataset of a role, `source` or `target`, with the options that a run's settings give."""
        name, classes = getattr(settings, role), getattr(settings, f"{role}_classes")
        images = {split: getattr(settings, f"{role}_{split}_list") for split in ("train", "val")}
        return cls(name, root, settings.mapillary_mapping, settings.mapillary_version, classes, images)

    def open(self, split: str) -> Dataset:
        """The reader of a split. Raises what `open_dataset` raises."""
        return open_dataset(self.name, self.root, split, **self._options(split))

    def list(self, split: str, labelled: bool = True) -> Listing:
        """Where `open` looks for its files. Raises what `list_dataset` raises."""
        return list_dataset(self.name, self.root, split, labelled=labelled, **self._options(split))

    def open_unlabelled(self, split: str, label_set: LabelSet) -> Dataset:
        """The images of a split alone, as if nobody had labelled them, to get labels of these classes."""
        return Unlabelled(self.list(split, labelled=False), label_set)

    def drawn_classes(self) -> LabelSet:
        """The classes of synthetic scenes, drawn or not. Raises DataError for a class map that cannot be used."""
        if self.classes is None:
            return CITYSCAPES19
        return read_class_map(self.classes, CITYSCAPES19, self.name).label_set

    def _options(self, split: str) -> dict[str, Any]:
        images = self.images.get(split)
        return {"mapping": self.mapping, "version": self.version, "classes": self.classes, "images": images}
