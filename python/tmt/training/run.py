"""A run: its folder, its settings, its two domains, and the processes it runs on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from tmt.data import (
    CITYSCAPES19,
    Augment,
    Dataset,
    LabelSet,
    RareClasses,
    Subset,
    class_counts,
    open_dataset,
    rare_classes,
)
from tmt.data.manifest import MANIFEST, read_manifest
from tmt.errors import ConfigError
from tmt.model.factory import listed
from tmt.runtime.distributed import World
from tmt.runtime.files import read_json, write_json, write_text
from tmt.runtime.provenance import describe, now
from tmt.runtime.seeding import derive
from tmt.runtime.signals import Stop
from tmt.settings import (
    AugmentConfig,
    Config,
    FitConfig,
    Stage,
    arguments,
    check_subset,
    estimator_weights,
    source_model,
)
from tmt.synthetic import make
from tmt.training.checks import check_folder, check_inputs, check_settings

ORDER: tuple[Stage, ...] = get_args(Stage)


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

    @property
    def share(self) -> str:
        """What results add to the method where it was trained on a subset."""
        return f" ({len(self.train)} of {self.available} images)" if len(self.train) < self.available else ""


@dataclass(frozen=True)
class Run:
    """Everything the stages share."""

    config: Config
    world: World
    stop: Stop
    folder: Path
    source: Domain
    target: Domain

    @property
    def label_set(self) -> LabelSet:
        """The classes of both domains."""
        return self.target.val.label_set

    def rare(self, domain: Domain) -> RareClasses | None:
        """How to draw a domain's training images by their rare classes, where that is asked for; counted once a run."""
        temperature = self.config.augment.rare_class_temperature
        if temperature is None:
            return None
        cache = self.folder / f"class_counts-{domain.role}.json"
        if self.world.main:
            class_counts(domain.train, cache, self.config.data.workers)
        self.world.barrier()
        return rare_classes(class_counts(domain.train, cache, progress=False), temperature)

    def stage_folder(self, stage: str) -> Path:
        """The folder of a stage, made where it is missing."""
        folder = self.folder / stage
        folder.mkdir(exist_ok=True)
        return folder

    def result(self, stage: str) -> dict | None:
        """What a finished stage left in done.json; None before that."""
        path = self.folder / stage / "done.json"
        return read_json(path) if path.exists() else None

    def finish(self, stage: str, result: dict[str, object]) -> None:
        """Mark a stage as finished, with its results. Everything else it leaves must have been written before."""
        if self.world.main:
            write_json(self.folder / stage / "done.json", result)
        self.world.barrier()

    @property
    def source_model(self) -> Path:
        """The folder of the source model that later stages start from."""
        return source_model(self.config, self.folder)

    @property
    def estimator_weights(self) -> Path:
        """The file of the trained discriminator."""
        return estimator_weights(self.config, self.folder)


def open_run(config: Config, argv: Sequence[str], world: World, stop: Stop) -> Run:
    """Check everything that can be checked before work begins, then make or reopen the run's folder.

    Raises ConfigError, DataError or CheckpointError; until then nothing has been written.
    """
    folder = Path(config.out)
    check_folder(config, folder)
    domains = _open_given(config)
    label_set = _common_classes(domains)
    check_settings(config, world, label_set)
    check_inputs(config, folder, label_set)
    world.barrier()  # no process may look at the folder after another one has begun to fill it
    if world.main:
        _prepare_folder(config, argv, folder, world)
        if domains is None:
            make_synthetic(config, folder)
    world.barrier()
    source, target = domains or _open_synthetic(config, folder)
    return Run(config, world, stop, folder, source, target)


def _common_classes(domains: tuple[Domain, Domain] | None) -> LabelSet:
    """The classes that both domains have; raises ConfigError where they differ."""
    if domains is None:
        return CITYSCAPES19
    source, target = (domain.train.label_set for domain in domains)
    if source != target:
        raise ConfigError(
            f"data: source and target must have the same classes, got {listed(source.names)} in {domains[0].name} and "
            f"{listed(target.names)} in {domains[1].name}; map the labels of one to the classes of the other"
        )
    return target


def _prepare_folder(config: Config, argv: Sequence[str], folder: Path, world: World) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "run.json").exists():
            record = read_json(folder / "run.json")
            record["resumed"] = [*record.get("resumed", []), now()]
        else:
            record = describe("tmt.train", argv, config.seed, world.size, str(world.device))
        write_json(folder / "run.json", record)
        if not (folder / "config.yaml").exists():
            write_text(folder / "config.yaml", arguments.to_yaml(config))
    except OSError as error:
        raise ConfigError(f"out: {folder} cannot be written ({error.strerror}); choose another --out") from error


def _open_given(config: Config) -> tuple[Domain, Domain] | None:
    data = config.data
    if data.source_root is None or data.target_root is None:
        return None
    return (
        _open(config, "source", data.source, data.source_root, config.source),
        _open(config, "target", data.target, data.target_root, config.target),
    )


def _open(config: Config, role: str, dataset: str, root: str | Path, fit: FitConfig) -> Domain:
    data = config.data
    options = {"mapping": data.mapillary_mapping, "version": data.mapillary_version}
    train, val = (open_dataset(dataset, root, split, **options) for split in ("train", "val"))
    available = len(train)
    kind = " (synthetic)" if read_manifest(Path(root) / MANIFEST) is not None else ""
    check_subset(role, fit.images, available, str(root))
    if fit.images is not None and fit.images < available:
        train = Subset(train, fit.images, derive(config.seed, "subset", role))
    return Domain(role, f"{role} {dataset}{kind}", train, val, available)


def synthetic_root(config: Config, folder: Path, dataset: str) -> Path:
    """The folder of one synthetic domain."""
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


def _open_synthetic(config: Config, folder: Path) -> tuple[Domain, Domain]:
    first, second = config.data.source, config.data.target
    return (
        _open(config, "source", first, synthetic_root(config, folder, first), config.source),
        _open(config, "target", second, synthetic_root(config, folder, second), config.target),
    )


def augmentation(augment: AugmentConfig) -> Augment:
    """The augmentation that the settings describe."""
    return Augment(
        crop=augment.crop,
        scale=augment.scale,
        max_class_share=augment.max_class_share,
        jitter_probability=augment.jitter,
        flip_probability=augment.flip,
    )
