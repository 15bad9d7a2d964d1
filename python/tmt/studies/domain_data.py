"""What a domain of a study is: one of the datasets under its own name, or a part of a dataset under another."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tmt.settings import DataConfig

UNSET = "$"
"""What is left in a path of an environment variable that is not set."""


@dataclass(frozen=True)
class DomainData:
    """The images of a domain, and how its labels are read."""

    dataset: str
    """Layout and label encoding, a name of `tmt.settings.DatasetName`."""
    classes: str | None = None
    """Class map: one of the package's, or a file, from the domain's root on."""
    train_list: str | None = None
    """File of the images to train on, from the root on; None: the split `train`."""
    val_list: str | None = None
    """File of the images to evaluate on, from the root on; None: the split `val`."""
    train_images: int | None = None
    """Training images that there are, where that is fewer than the study asks for: then all of them are used."""

    def settings(self, role: str, root: str) -> dict[str, str]:
        """The fields of `DataConfig` for a role, `source` or `target`, without the root."""
        files = {"train_list": self.train_list, "val_list": self.val_list, "classes": self.classes}
        given = {f"{role}_{name}": _from_root(root, file) for name, file in files.items() if file is not None}
        return {role: self.dataset, **given}

    def tree(self) -> dict[str, object]:
        """What a study file says of it, without the root."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def _from_root(root: str, file: str) -> str:
    """A file by its place below a root; a name without a folder or an ending is one of the package's."""
    return file if file.isidentifier() else str((Path(root) / file).resolve())


def with_domain(data: DataConfig, role: str, domain: DomainData, root: str) -> DataConfig:
    """The settings with a domain in a role. The other role's class map and lists stay as they are."""
    return replace(data, **{f"{role}_root": root}, **domain.settings(role, root))  # type: ignore[arg-type]


def place_of(text: str) -> str:
    """A folder with environment variables filled in, absolute; as it is where one of them is not set."""
    found = os.path.expandvars(text)
    return text if UNSET in found else str(Path(found).expanduser().resolve())


def unset_variables(roots: Mapping[str, str]) -> list[str]:
    """The domains whose folder cannot be known, as an environment variable in it is not set."""
    return [domain for domain, root in roots.items() if UNSET in root]
