"""Do domains that a discriminator tells apart transfer worse? Proxy A-distance against what the source model loses."""

import math
from dataclasses import dataclass

import numpy as np

from tmt.report.formats import Table, interval, number, signed
from tmt.report.scores import arrow, as_number, estimators, origin
from tmt.report.statistics import LEAST_PAIRS, RankCorrelation, spearman
from tmt.studies import Pair, Study


@dataclass(frozen=True)
class Gap:
    """One pair of domains, by means over the seeds that have both a discriminator and a scored source model."""

    pair: Pair
    seeds: int
    distance: float
    """Proxy A-distance, from 0 (alike) to 2."""
    home: float
    """mIoU of the source model on its own domain, in percent."""
    away: float
    """mIoU of the source model on the target, in percent."""

    @property
    def lost(self) -> float:
        """Percentage points of mIoU from home to the target."""
        return self.home - self.away


def gaps(study: Study) -> dict[str, list[Gap]]:
    """By kind of regions, each pair that is known, in the study's order."""
    kinds = dict.fromkeys(str(result.regions) for result in estimators(study))
    found = {kind: [gap for pair in study.pairs if (gap := _gap(study, pair, kind))] for kind in kinds}
    return {kind: known for kind, known in found.items() if known}


def _gap(study: Study, pair: Pair, kind: str) -> Gap | None:
    rows = []
    for result in estimators(study):
        source = study.sources.get((pair[0], result.seed))
        if (result.pair, str(result.regions)) == (pair, kind) and source:
            distance = as_number((result.estimator or {}).get("proxy_a_distance"))
            away = as_number((source.on or {}).get(pair[1], {}).get("miou"))
            rows.append((distance, as_number(source.last.get("miou")), away))
    known = [row for row in rows if not any(map(math.isnan, row))]
    return Gap(pair, len(known), *map(float, np.mean(known, axis=0))) if known else None


def correlation(known: list[Gap]) -> RankCorrelation | None:
    """Spearman's ρ of distance and loss over pairs, with a bootstrap over pairs; None below six pairs."""
    if len(known) < LEAST_PAIRS:
        return None
    distance, lost = np.array([gap.distance for gap in known]), np.array([gap.lost for gap in known])
    return spearman(distance, lost, np.arange(len(known)))


def said(known: list[Gap]) -> str:
    """The correlation in words."""
    found = correlation(known)
    if found is None:
        return f"too few pairs for a correlation ({len(known)} of {LEAST_PAIRS})"
    return f"ρ {signed(found.rho)} ({interval(found.low, found.high)}, n = {found.count})"


def table(study: Study) -> Table | None:
    """Each pair's distance and loss."""
    found = gaps(study)
    rows = tuple(
        (
            arrow(gap.pair), kind, f"{gap.seeds}", number(gap.distance), number(gap.home), number(gap.away),
            number(gap.lost),
        )
        for kind, known in found.items()
        for gap in known
    )  # fmt: skip
    if not rows:
        return None
    header = ("source → target", "regions", "seeds", "proxy A-distance", "mIoU at home", "mIoU on target", "lost")
    caption = (
        "The proxy A-distance of source and target, and the mIoU in percent of the source model on its own domain and "
        "on the target; means over seeds. Spearman's ρ of distance and loss over pairs, 95 % interval by bootstrap "
        "over pairs, which are not independent where they share a domain: "
        f"{'; '.join(f'{kind} {said(known)}' for kind, known in found.items())}. {origin(study)}"
    )
    return Table("distance", "Distance of the domains and what the source model loses", caption, header, rows)
