"""How far a domain's look is from what all domains have in common: from 0, all alike, to 1, its own in full."""

from dataclasses import fields, is_dataclass
from functools import cache
from itertools import chain
from math import lcm
from typing import Any

from tmt.errors import DataError
from tmt.synthetic.domain import Domain
from tmt.synthetic.domains import DOMAINS


@cache
def domain_at(name: str, distance: float) -> Domain:
    """The domain of that name with `distance` of its own look, the rest from the mean of all domains.

    Numbers are interpolated; of swatches and skies, that share is the domain's own. Which classes there are does not
    change with the distance. Raises DataError for a distance outside 0..1.
    """
    if not 0 <= distance <= 1:
        raise DataError(f"make: distance must be in 0..1, got {distance}; 1 is a domain's full look, 0 that of all")
    own = DOMAINS[name]
    return own if distance == 1 else _blend(own, tuple(DOMAINS.values()), distance)


def _blend(own: Any, everyone: tuple[Any, ...], share: float) -> Any:
    """`share` of `own` and the rest of the mean of `everyone`, field by field."""
    if isinstance(own, bool | str):
        return own
    if isinstance(own, int):
        return round(_blend(float(own), tuple(float(other) for other in everyone), share))
    if isinstance(own, float):
        return share * own + (1 - share) * sum(everyone) / len(everyone)
    if is_dataclass(own):
        names = [field.name for field in fields(own)]
        parts = {n: _blend(getattr(own, n), tuple(getattr(each, n) for each in everyone), share) for n in names}
        return type(own)(**parts)
    if isinstance(own[0], int | float):
        return tuple(_blend(column[0], column[1:], share) for column in zip(own, *everyone, strict=True))
    return _mixture(own, everyone, share)


def _mixture(own: tuple, everyone: tuple[tuple, ...], share: float) -> tuple:
    """Things to choose from, of which about `share` are `own` and the others come evenly from everyone."""
    length = lcm(*(len(each) for each in everyone))
    common = list(chain.from_iterable(each * (length // len(each)) for each in everyone))
    count = round(share * len(common))
    mine = [own[i % len(own)] for i in range(count)]
    step = len(common) / max(1, len(common) - count)
    return (*mine, *(common[int(i * step)] for i in range(len(common) - count)))
