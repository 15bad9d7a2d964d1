"""Which dataset is meant: its layout, its folder, and what the layout may be told."""

from dataclasses import dataclass
from pathlib import Path

from tmt.data.datasets import list_dataset, open_dataset
from tmt.data.files import Dataset, Listing
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

    @classmethod
    def of(cls, settings: DataConfig, name: str, root: str | Path) -> "DatasetSpec":
        """A dataset with the options that a run's settings give."""
        return cls(name, root, settings.mapillary_mapping, settings.mapillary_version)

    def open(self, split: str) -> Dataset:
        """The reader of a split. Raises what `open_dataset` raises."""
        return open_dataset(self.name, self.root, split, mapping=self.mapping, version=self.version)

    def list(self, split: str) -> Listing:
        """Where `open` looks for its files. Raises what `list_dataset` raises."""
        return list_dataset(self.name, self.root, split, mapping=self.mapping, version=self.version)
