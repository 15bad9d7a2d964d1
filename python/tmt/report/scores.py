"""The scores of a study, finished or not: one of them, those of a cell of a table, and what they are of.

Nothing here needs a model; a score that is not there is nan.
"""

import math
from collections.abc import Iterable
from pathlib import Path

from tmt.errors import DataError
from tmt.inference.metrics import HEADLINES
from tmt.studies import Pair, Result, Study, Variant

METRICS = HEADLINES[:3]
EVALUATIONS = ("last", "best")
WHICH = {"last": "last evaluation", "best": "best evaluation on the validation split"}
RULE_TITLES = {"uncertain": "uncertain rule", "foreground": "foreground rule", "none": "no mask rule"}
SOURCE_ONLY = "source"
"""The column of the source model as it is."""
COMPARED = ("baseline", "method")
"""Roles of what Table 1 compares."""


def open_study(folder: str | Path) -> Study:
    """Read a study's folder. Raises ConfigError where it is none or a result is damaged, DataError without results."""
    study = Study.open(folder)
    if not study.targets:
        raise DataError(
            f"{folder}: must hold the results of a finished target model, got {len(study.finished)} results of sources "
            "and estimators; let python -m tmt.experiments finish one"
        )
    return study


def seeds_of(study: Study, column: str, pair: Pair) -> list[int]:
    """Seeds with a score of a variant, or of the source model as it is, on a pair."""
    if column == SOURCE_ONLY:
        return sorted(seed for domain, seed in study.sources if domain == pair[0])
    return sorted(seed for name, where, seed in study.targets if (name, where) == (column, pair))


def score(study: Study, column: str, pair: Pair, seed: int, metric: str, evaluation: str = "last") -> float:
    """One score in percent; nan where it is missing. The source model was scored on targets at its end only."""
    if column == SOURCE_ONLY:
        source = study.sources.get((pair[0], seed))
        scores = (source.on or {}).get(pair[1]) if source and evaluation == "last" else None
    else:
        result = study.targets.get((column, pair, seed))
        scores = getattr(result, evaluation) if result else None
    return as_number((scores or {}).get(metric))


def scores_by_seed(study: Study, column: str, pair: Pair, metric: str, evaluation: str = "last") -> dict[int, float]:
    """Scores by seed, those that are there."""
    found = {seed: score(study, column, pair, seed, metric, evaluation) for seed in seeds_of(study, column, pair)}
    return {seed: value for seed, value in found.items() if not math.isnan(value)}


def class_names(study: Study) -> tuple[str, ...]:
    """The classes that results are about."""
    return next((tuple(r.last["classes"]) for r in study.finished.values() if r.last.get("classes")), ())


def estimators(study: Study) -> list[Result]:
    """The finished estimators, in the order of the plan."""
    return [result for result in study.finished.values() if result.kind == "estimator"]


def missing(study: Study) -> list[str]:
    """Planned target models without a result, in words."""
    return [
        f"{variant.title}, {arrow(pair)}, seed {seed}"
        for variant in study.variants
        for pair in variant.pairs or study.pairs
        for seed in variant.seeds
        if (variant.name, pair, seed) not in study.targets
    ]


def planned(study: Study) -> int:
    """Number of target models of the whole study."""
    return sum(len(variant.seeds) * len(variant.pairs or study.pairs) for variant in study.variants)


def revisions(study: Study) -> list[str]:
    """The code's revisions that results were made with."""
    return sorted({result.revision for result in study.finished.values() if result.revision})


def origin(study: Study) -> str:
    """What every number is of, for captions."""
    known = ", ".join(dict.fromkeys(map(short, revisions(study)))) or "unknown"
    return f"Data: {kind_of_data(study)}. Code: revision {known}."


def kind_of_data(study: Study) -> str:
    """What the images are: synthetic, real, or which of them."""
    domains = {domain for pair in study.pairs for domain in pair}
    real = study.definition.roots.keys()
    if not domains & real:
        return "synthetic street scenes (drawn by this package, not the real datasets of these names)"
    if domains <= real:
        return "real datasets"
    return f"real: {', '.join(sorted(domains & real))}; synthetic: {', '.join(sorted(domains - real))}"


def as_number(value: float | None) -> float:
    """A JSON number, None being nan."""
    return math.nan if value is None else float(value)


def short(revision: str) -> str:
    """The beginning of a revision, and whether there were changes on top."""
    head, _, changed = revision.partition("-")
    return f"{head[:12]}-{changed}" if len(head) == 40 and changed else head[:12] if len(head) == 40 else revision


def arrow(pair: Pair) -> str:
    """A pair of domains in words."""
    return f"{pair[0]} → {pair[1]}"


def which_short(evaluation: str) -> str:
    """An evaluation in two words."""
    return f"{evaluation} evaluation"


def titles(variants: Iterable[Variant]) -> dict[str, str]:
    """Names in tables: the title, and the mask rule where TMT is there under several."""
    variants = list(variants)
    several = len({variant.mask_rule for variant in variants if variant.uses_transferability}) > 1

    def title(variant: Variant) -> str:
        said = any(name in variant.title for name in (variant.mask_rule, RULE_TITLES[variant.mask_rule]))
        ambiguous = several and variant.uses_transferability and not said
        return f"{variant.title} ({variant.mask_rule})" if ambiguous else variant.title

    return {variant.name: title(variant) for variant in variants}
