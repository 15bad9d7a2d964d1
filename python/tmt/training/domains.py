"""A run's two domains: given datasets, or synthetic scenes that are drawn where they are not there yet."""

from dataclasses import dataclass
from pathlib import Path

from tmt.data import Dataset, LabelSet, RareClasses, Subset, class_counts, rare_classes, require_classes
from tmt.data.datasets import in_order
from tmt.data.manifest import MANIFEST, read_manifest
from tmt.data.resized import resized
from tmt.data.spec import DatasetSpec
from tmt.errors import ConfigError
from tmt.model.factory import listed
from tmt.runtime.distributed import World
from tmt.runtime.seeding import derive
from tmt.settings import Config, FitConfig, check_subset
from tmt.synthetic import make


@dataclass(frozen=True)
class Domain:
    """One domain's two splits."""

    role: str
    """`source` or `target`."""
    name: str
    """What results call it: its role, the dataset, and whether its scenes are synthetic."""
    train: Dataset
    """What is trained on: all of the training split, or a subset."""
    val: Dataset
    available: int
    """Images of the whole training split."""
    counts: Path
    """The file that keeps how often each class is in each training image, once that has been counted."""
    labelled: bool = True
    """Whether anybody labelled its images."""

    @property
    def share(self) -> str:
        """What results add to the method where it was trained on a subset."""
        return f" ({len(self.train)} of {self.available} images)" if len(self.train) < self.available else ""

    def rare(self, config: Config, world: World) -> RareClasses | None:
        """How to draw training images by their rare classes, where the settings ask for that."""
        temperature = config.augment.rare_class_temperature
        if temperature is None:
            return None
        if world.main:
            class_counts(self.train, self.counts, config.data.workers)
        world.barrier()
        return rare_classes(class_counts(self.train, self.counts, progress=False), temperature)


@dataclass(frozen=True)
class Domains:
    """Where a model comes from and where it goes."""

    source: Domain
    target: Domain

    @property
    def label_set(self) -> LabelSet:
        """The classes of both domains."""
        return self.target.val.label_set


def open_given(config: Config, folder: Path) -> Domains | None:
    """The datasets that the settings name; None where they name none."""
    data = config.data
    if data.source_root is None or data.target_root is None:
        return None
    return _open_both(config, folder, data.source_root, data.target_root)


def open_synthetic(config: Config, folder: Path) -> Domains:
    """The synthetic domains, which must have been drawn."""
    roots = (synthetic_root(config, folder, dataset) for dataset in (config.data.source, config.data.target))
    return _open_both(config, folder, *roots)


def _open_both(config: Config, folder: Path, source: str | Path, target: str | Path) -> Domains:
    first = _open(config, "source", source, config.source, folder)
    return Domains(first, _open(config, "target", target, config.target, folder, first.val.label_set))


def _open(
    config: Config, role: str, root: str | Path, fit: FitConfig, folder: Path, order: LabelSet | None = None
) -> Domain:
    """A domain, its classes in the order of those of `order` where they are the same."""
    spec, labelled = DatasetSpec.of(config.data, role, root), role == "source" or config.data.target_labelled
    if labelled:
        train, val = (spec.open(split) for split in ("train", "val"))
        if order is not None:
            train, val = in_order(train, order), in_order(val, order)
    else:
        assert order is not None  # the source's classes
        train, val = (spec.open_unlabelled(split, order) for split in ("train", "val"))
    available = len(train)
    kind = " (synthetic)" if read_manifest(Path(root) / MANIFEST) is not None else ""
    check_subset(role, fit.images, available, str(root))
    if fit.images is not None and fit.images < available:
        train = Subset(train, fit.images, derive(config.seed, "subset", role))
    for split, part in (("train", train), ("val", val)) if labelled else ():
        require_classes(part, f"{root}, split {split}")
    train, counts = resized(train, config.data.height), folder / f"class_counts-{role}.json"
    return Domain(role, f"{role} {spec.name}{kind}", train, val, available, counts, labelled)


def common_classes(config: Config, domains: Domains | None) -> LabelSet:
    """The classes of both domains, in the source's order; of scenes that are to be drawn where there are no domains.

    Raises ConfigError where the two have not the same classes.
    """
    if domains is None:
        source, target = (DatasetSpec.of(config.data, role, "").drawn_classes() for role in ("source", "target"))
        names = tuple(f"{role} {getattr(config.data, role)}" for role in ("source", "target"))
    else:
        source, target = domains.source.val.label_set, domains.target.val.label_set
        names = domains.source.name, domains.target.name
    if set(source.names) != set(target.names):
        raise ConfigError(_differ(source, target, *names))
    return target if source == target else source


def _differ(source: LabelSet, target: LabelSet, first: str, second: str) -> str:
    """What to say of two domains of different classes."""
    common = sum(name in target.names for name in source.names)
    pairs = (("first", source, target), ("second", target, source))
    alone = {which: [name for name in one.names if name not in other.names] for which, one, other in pairs}
    differing = "; ".join(f"only the {which}: {listed(names)}" for which, names in alone.items() if names)
    return (
        f"data: source and target must have the same classes, got {listed(source.names)} in {first} and "
        f"{listed(target.names)} in {second}, {common or 'none'} in common; {differing}; bring both to the same "
        "classes with --data.source_classes and --data.target_classes"
    )


def synthetic_root(config: Config, folder: Path, dataset: str) -> Path:
    """The folder of one synthetic domain of a run in `folder`."""
    return Path(config.data.synthetic_folder or folder / "data") / dataset


def make_synthetic(config: Config, folder: Path) -> None:
    """Draw the synthetic scenes that are not there yet."""
    data = config.data
    for dataset, train in ((data.source, data.synthetic_source), (data.target, data.synthetic_target)):
        make(
            dataset,
            synthetic_root(config, folder, dataset),
            train=train,
            val=data.synthetic_val,
            size=data.synthetic_size,
            seed=config.seed,
            distance=data.synthetic_distance,
        )
