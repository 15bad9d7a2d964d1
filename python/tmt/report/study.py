"""A study, finished or not, as the report sees it: its columns, its pairs of domains, and the scores that are there.

Nothing here needs a model; a score that is not there is nan.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tmt.errors import DataError
from tmt.studies import Result, Study
from tmt.studies.definition import settings_of

Pair = tuple[str, str]
EVALUATIONS = ("last", "best")
RULE_TITLES = {"uncertain": "uncertain rule", "foreground": "foreground rule", "none": "no mask rule"}
SOURCE_ONLY = "source"
"""The column of the source model as it is."""


@dataclass(frozen=True)
class Column:
    """One method or ablation of a study."""

    name: str
    title: str
    stage: str
    mask_rule: str
    transfer_fraction: float
    """p_T; nan where the stage has none."""
    role: str
    """`method`, `ablation` (of TMT, or another method with other settings) or `fraction` (TMT with another p_T)."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What it changes of TMT's settings, or of the study's where it has no transferability."""

    @property
    def uses_transferability(self) -> bool:
        """Whether it is TMT or a part of it."""
        return self.stage == "tmt"

    @property
    def budget(self) -> dict[str, object]:
        """What it changes of the images and steps that a target model has."""
        return {key: value for key, value in self.settings.items() if key.startswith("target.")}


@dataclass(frozen=True)
class StudyView:
    """Everything the report says is read from here."""

    folder: Path
    name: str
    title: str
    columns: tuple[Column, ...]
    pairs: tuple[Pair, ...]
    seeds: Mapping[str, tuple[int, ...]]
    """Planned seeds by column."""
    results: tuple[Result, ...]
    real: frozenset[str]
    """Domains read from a real dataset's folder; the others are drawn (synthetic)."""

    @cached_property
    def _targets(self) -> dict[tuple[str, Pair, int], Result]:
        return {(r.variant, (r.source, r.target), r.seed): r for r in self.results if r.kind == "target"}

    @cached_property
    def _sources(self) -> dict[tuple[str, int], Result]:
        """Without the source models that a variant of another base has of its own."""
        found = ((r.source, r.seed, r) for r in self.results if r.kind == "source")
        return {(domain, seed): r for domain, seed, r in found if r.id == f"source-{domain}-s{seed}"}

    @property
    def estimators(self) -> list[Result]:
        """The finished estimators."""
        return [result for result in self.results if result.kind == "estimator"]

    def result(self, column: str, pair: Pair, seed: int) -> Result | None:
        """A finished target model, or None."""
        return self._targets.get((column, pair, seed))

    def source(self, domain: str, seed: int) -> Result | None:
        """A finished source model, or None."""
        return self._sources.get((domain, seed))

    def with_role(self, *roles: str) -> list[Column]:
        """The columns of these roles, in the study's order."""
        return [column for column in self.columns if column.role in roles]

    def column(self, name: str) -> Column:
        """A column by its name."""
        return next(column for column in self.columns if column.name == name)

    def seeds_of(self, column: str, pair: Pair) -> list[int]:
        """Seeds with a score of a column on a pair."""
        if column == SOURCE_ONLY:
            return sorted(seed for domain, seed in self._sources if domain == pair[0])
        return sorted(seed for name, where, seed in self._targets if (name, where) == (column, pair))

    def score(self, column: str, pair: Pair, seed: int, metric: str, evaluation: str = "last") -> float:
        """One score in percent; nan where it is missing. The source model was scored on targets at its end only."""
        if column == SOURCE_ONLY:
            source = self.source(pair[0], seed)
            scores = (source.on or {}).get(pair[1]) if source and evaluation == "last" else None
        else:
            result = self.result(column, pair, seed)
            scores = getattr(result, evaluation) if result else None
        return as_number((scores or {}).get(metric))

    def scores(self, column: str, pair: Pair, metric: str, evaluation: str = "last") -> dict[int, float]:
        """Scores by seed, those that are there."""
        found = {seed: self.score(column, pair, seed, metric, evaluation) for seed in self.seeds_of(column, pair)}
        return {seed: value for seed, value in found.items() if not math.isnan(value)}

    def class_names(self) -> tuple[str, ...]:
        """The classes that results are about."""
        return next((tuple(r.last["classes"]) for r in self.results if r.last.get("classes")), ())

    def missing(self) -> list[str]:
        """Planned target models without a result, in words."""
        return [
            f"{column.title}, {arrow(pair)}, seed {seed}"
            for column in self.columns
            for pair in self.pairs
            for seed in self.seeds.get(column.name, ())
            if self.result(column.name, pair, seed) is None
        ]

    @property
    def planned(self) -> int:
        """Number of target models of the whole study."""
        return sum(len(self.seeds.get(column.name, ())) for column in self.columns) * len(self.pairs)

    @property
    def revisions(self) -> list[str]:
        """The code's revisions that results were made with."""
        return sorted({result.revision for result in self.results if result.revision})

    @property
    def origin(self) -> str:
        """What every number is of, for captions."""
        revisions = ", ".join(dict.fromkeys(map(short, self.revisions))) or "unknown"
        return f"Data: {self.kind}. Code: revision {revisions}."

    @property
    def kind(self) -> str:
        """What the images are: synthetic, real, or which of them."""
        domains = {domain for pair in self.pairs for domain in pair}
        if not domains & self.real:
            return "synthetic street scenes (drawn by this package, not the real datasets of these names)"
        if domains <= self.real:
            return "real datasets"
        return f"real: {', '.join(sorted(domains & self.real))}; synthetic: {', '.join(sorted(domains - self.real))}"


def as_number(value: object) -> float:
    """A JSON number, None being nan."""
    return math.nan if value is None else float(value)


def short(revision: str) -> str:
    """The beginning of a revision, and whether there were changes on top."""
    head, _, changed = revision.partition("-")
    return f"{head[:12]}-{changed}" if len(head) == 40 and changed else head[:12] if len(head) == 40 else revision


def arrow(pair: Pair) -> str:
    """A pair of domains in words."""
    return f"{pair[0]} → {pair[1]}"


def open_study(folder: Path) -> StudyView:
    """Read a study's folder. Raises ConfigError where it is none or a result is damaged, DataError without results."""
    study = Study.open(folder)
    results = tuple(study.results())
    if not any(result.kind == "target" for result in results):
        raise DataError(
            f"{folder}: must hold the results of a finished target model, got {len(results)} results of sources and "
            "estimators; let python -m tmt.experiments finish one"
        )
    return StudyView(
        folder=study.folder,
        name=study.name,
        title=study.title,
        columns=columns_of(
            {v.name: (v.title, v.stage, settings_of(v.config)) for v in study.variants},
            settings_of(study.definition.config),
        ),
        pairs=study.pairs,
        seeds={variant.name: variant.seeds for variant in study.variants},
        results=results,
        real=frozenset(study.definition.roots),
    )


def columns_of(
    variants: Mapping[str, tuple[str, str, Mapping[str, object]]], shared: Mapping[str, object]
) -> tuple[Column, ...]:
    """Columns of variants, each a title, a stage and all settings by name; `shared`: those of the study.

    TMT is the variant `tmt`, else the first one with the study's own settings, else the first. What differs from it in
    the mask rule alone is TMT, too, what differs in p_T as well a point of its curve; everything else is an ablation,
    as is another method with other settings than the study's.
    """
    ours = [name for name, (_, stage, _) in variants.items() if stage == "tmt"]
    unchanged = [name for name in ours if variants[name][2] == shared]
    base = next((name for name in ("tmt", *unchanged, *ours) if name in ours), None)
    settings = dict(variants[base][2]) if base else {}
    return tuple(
        _column(name, *variant, settings if variant[1] == "tmt" else shared) for name, variant in variants.items()
    )


def _column(name: str, title: str, stage: str, settings: Mapping[str, object], base: Mapping[str, object]) -> Column:
    tmt = stage == "tmt"
    rule = str(settings["model.mask_rule" if tmt else "model.plain_mask_rule"])
    fraction = as_number(settings["model.transfer_fraction"]) if tmt else math.nan
    changed = {key: value for key, value in settings.items() if value != base.get(key)}
    others = changed.keys() - ({"model.mask_rule"} if tmt else set())
    role = "method" if not others else "fraction" if others == {"model.transfer_fraction"} else "ablation"
    return Column(name, title, stage, rule, fraction, role, changed)


def titles(columns: Iterable[Column]) -> dict[str, str]:
    """Names in tables: the title, and the mask rule where TMT is there under several."""
    columns = list(columns)
    several = len({column.mask_rule for column in columns if column.uses_transferability}) > 1

    def title(column: Column) -> str:
        said = any(name in column.title for name in (column.mask_rule, RULE_TITLES[column.mask_rule]))
        ambiguous = several and column.uses_transferability and not said
        return f"{column.title} ({column.mask_rule})" if ambiguous else column.title

    return {column.name: title(column) for column in columns}
