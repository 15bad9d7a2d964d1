"""Which dataset is meant: its layout, its folder, and what the layout may be told."""

from dataclasses import dataclass
from pathlib import Path

from tmt.data.datasets import list_dataset, open_dataset
from tmt.data.files import Dataset, Listing
from tmt.errors import DataError


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset on disk. On command lines it is NAME=ROOT, or NAME:MAPPING:VERSION=ROOT for Mapillary."""

    name: str
    """One of `tmt.data.DATASETS`."""
    root: str | Path
    mapping: str = "strict"
    """Mapillary labels that count as a class: `strict` or `broad`."""
    version: str | None = None
    """Release of the Mapillary labels; None: the newest that is there."""

    @classmethod
    def parse(cls, text: str) -> "DatasetSpec":
        """The dataset that a command line names. Raises DataError."""
        named, equals, root = text.partition("=")
        name, mapping, version, *more = (*named.split(":"), "", "")
        if not equals or not name or not root or any(more):
            raise DataError(f"dataset: must be NAME=FOLDER or mapillary:MAPPING:VERSION=FOLDER, got {text}")
        return cls(name, root, mapping or "strict", version or None)

    def __str__(self) -> str:
        options = f":{self.mapping}:{self.version or ''}" if self.name == "mapillary" else ""
        return f"{self.name}{options}={self.root}"

    def open(self, split: str) -> Dataset:
        """The reader of a split. Raises what `open_dataset` raises."""
        return open_dataset(self.name, self.root, split, mapping=self.mapping, version=self.version)

    def list(self, split: str) -> Listing:
        """Where `open` looks for its files. Raises what `list_dataset` raises."""
        return list_dataset(self.name, self.root, split, mapping=self.mapping, version=self.version)
