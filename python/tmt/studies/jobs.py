"""A study's jobs: one training each, in its own folder, and what it needs from others.

source model (one per domain and seed) -> estimator (one per pair, seed and way to make regions) -> target models.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from tmt.errors import ConfigError
from tmt.runtime.limits import system_error
from tmt.settings import (
    AFFECTS,
    Config,
    EstimatorConfig,
    FitConfig,
    RegionSettings,
    arguments,
    check,
    inputs_of,
    outcome,
    values_of,
)
from tmt.studies.definition import Definition, Variant
from tmt.studies.domain_data import with_domain

OF_THE_ESTIMATOR = tuple(name for name, affects in AFFECTS.items() if affects == "estimator" and "." in name)
"""Settings, with dots, that an estimator depends on beside its source model."""


@dataclass(frozen=True)
class Job:
    """One training."""

    id: str
    kind: str
    """`source`, `estimator` or `target`."""
    source: str
    target: str | None
    variant: str
    """The variant of a target model; else the kind."""
    stage: str
    seed: int
    config: Config
    """Everything that `tmt.train` is told."""
    needs: tuple[str, ...] = ()
    """Jobs that must be done before."""
    regions: str | None = None
    """How the regions that transferability is judged on are made; None where it plays no part."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.out)

    @property
    def weights(self) -> Path:
        """What other jobs, and pictures, need of this one."""
        return outcome(self.folder, self.stage)

    @property
    def fit(self) -> FitConfig | EstimatorConfig:
        """The settings of its training stage."""
        return getattr(self.config, self.kind)


def plan(definition: Definition, folder: Path) -> dict[str, Job]:
    """All jobs of a study by id, each after those that it needs: seed by seed, pair by pair, variant by variant."""
    jobs: dict[str, Job] = {}
    for seed in sorted({seed for variant in definition.variants for seed in variant.seeds}):
        for pair in definition.pairs:
            for variant in definition.variants:
                if seed in variant.seeds and (variant.pairs is None or pair in variant.pairs):
                    for job in _Planner(definition, folder, variant, pair, seed).jobs():
                        jobs.setdefault(job.id, job)
    for job in jobs.values():
        check(job.config)
    return jobs


@dataclass(frozen=True)
class _Planner:
    """The jobs of one variant, pair and seed."""

    definition: Definition
    folder: Path
    variant: Variant
    pair: tuple[str, str]
    seed: int

    def jobs(self) -> Iterator[Job]:
        source = self._source()
        yield source
        needs, weights = (source.id,), None
        if "estimator" in inputs_of(self.variant.stage):
            estimator = self._estimator(source)
            yield estimator
            needs, weights = (source.id, estimator.id), str(estimator.weights)
        name = f"{self.variant.name}-{'-'.join(self.pair)}-s{self.seed}"
        yield Job(
            name, "target", *self.pair, self.variant.name, self.variant.stage, self.seed,
            self._config(name, self.variant.config, self.pair, self.variant.stage, source, weights), needs,
            self._regions if weights else None,
        )  # fmt: skip

    def _source(self) -> Job:
        domain = self.pair[0]
        # Its target plays no part in training; the first other one of the study, so that all pairs share the job.
        other = next(target for source, target in self.definition.pairs if source == domain)
        config = self.variant.config if self.variant.own_base else self.definition.config
        name = f"source-{domain}{self._base}-s{self.seed}"
        config = self._config(name, config, (domain, other), "source")
        return Job(name, "source", domain, None, "source", "source", self.seed, config)

    def _estimator(self, source: Job) -> Job:
        shared, own = self.definition.config, self.variant.config
        regions, config = self._regions, own
        if not self.variant.own_base:
            model = replace(shared.model, **values_of(own.model, RegionSettings))
            config = replace(shared, model=model, estimator=own.estimator)
        name = f"estimator-{'-'.join(self.pair)}-{regions}{self._base}-s{self.seed}"
        config = self._config(name, config, self.pair, "estimator", source)
        return Job(
            name, "estimator", *self.pair, "estimator", "estimator", self.seed, config, (source.id,), regions
        )  # fmt: skip

    @property
    def _regions(self) -> str:
        return region_key(self.variant.config, self.variant.config if self.variant.own_base else self.definition.config)

    @property
    def _base(self) -> str:
        return f"-{self.variant.name}" if self.variant.own_base else ""

    def _config(
        self, name: str, config: Config, pair: tuple[str, str], stage: str,
        source: Job | None = None, estimator: str | None = None,
    ) -> Config:  # fmt: skip
        """The settings of a job, with its place in the study filled in."""
        drawn = images_drawn(config)
        data = config.data
        for role, domain in zip(("source", "target"), pair, strict=True):
            root = self.definition.roots.get(domain, str(drawn_root(self.folder, domain)))
            data = with_domain(data, role, self.definition.domain(domain), root)
        if "mapillary" not in (data.source, data.target):
            data = replace(data, mapillary_mapping="strict", mapillary_version=None)
        return replace(
            config,
            out=str(job_folder(self.folder, name)),
            stages=(stage,),
            source_model=source and str(source.weights),
            estimator_weights=estimator,
            seed=self.seed,
            data=data,
            source=self._subset(config.source, pair[0], config.data.synthetic_source, drawn),
            target=self._subset(config.target, pair[1], config.data.synthetic_target, drawn),
        )

    def _subset(self, fit: FitConfig, domain: str, images: int, drawn: int) -> FitConfig:
        """A drawn domain has enough images for both roles; in each role as many are used as the settings say."""
        most = self.definition.domain(domain).train_images
        if most is not None and fit.images is not None and fit.images >= most:
            return replace(fit, images=None)
        if domain in self.definition.roots or fit.images is not None or images == drawn:
            return fit
        return replace(fit, images=images)


def images_drawn(config: Config) -> int:
    """Training images that are drawn of each domain without a root."""
    return max(config.data.synthetic_source, config.data.synthetic_target)


def drawn_root(folder: Path, domain: str) -> Path:
    """Where a study keeps a domain that it draws."""
    return folder / "data" / domain


def job_folder(folder: Path, name: str) -> Path:
    """The folder of a job in a study's folder."""
    return folder / "jobs" / name


def region_key(config: Config, shared: Config) -> str:
    """A short name of everything that an estimator depends on: the regions, and what differs from the study's own."""
    key = config.model.regions
    for part, name in (name.split(".") for name in OF_THE_ESTIMATOR if name != "model.regions"):
        value = getattr(getattr(config, part), name)
        if value != getattr(getattr(shared, part), name):
            key += f"-{name}{value:g}" if isinstance(value, float) else f"-{name}{value}"
    return key


def config_text(config: Config) -> str:
    """A job's settings as YAML that `tmt.train --config` reads."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False, default_flow_style=None, width=120)


def holds(path: Path, config: Config) -> bool:
    """Whether a file says the same settings, in whatever order; one that it leaves out has its default.

    Raises OSError for a file that cannot be read now: what it says is not known.
    """
    try:
        return path.is_file() and arguments.from_yaml(path) == config
    except ConfigError as error:
        if refused := system_error(error):
            raise refused from error
        return False


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
