"""What each class weighs in the loss."""

from collections.abc import Sequence

NAME = "class_weights"
ClassWeights = tuple[float, ...] | tuple[str, ...] | None
"""A number for each class, or `name=weight` for some, all others weighing 1; None: all weigh 1."""


def spelt(name: str) -> str:
    """A name without what differs between releases of the same classes."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def weights_by_class(given: ClassWeights, names: Sequence[str]) -> list[float]:
    """The weight of each of the classes `names`, in their order.

    Args:
        given: as the setting.
        names: of the K classes; in `given` they may be spelt as `spelt` allows.

    Raises:
        ValueError: another number of weights than of classes, an unknown class, or one that is named twice; text that
            is no `name=weight`; a weight that is no finite number of at least 0, or none above 0.
    """
    if given is None:
        return [1.0] * len(names)
    numbers = [one for one in given if not isinstance(one, str)]
    weights = [float(one) for one in numbers] if numbers or not given else _of_named([str(one) for one in given], names)
    if len(weights) != len(names):
        raise ValueError(f"{NAME} must be one number for each of the {len(names)} classes, got {len(weights)}")
    for name, weight in zip(names, weights, strict=True):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{NAME} must be finite numbers of at least 0, got {weight:g} for {name}")
    if not any(weights):
        raise ValueError(f"{NAME} must be above 0 for at least one class, got 0 for all")
    return weights


def _of_named(given: Sequence[str], names: Sequence[str]) -> list[float]:
    places = {spelt(name): i for i, name in enumerate(names)}
    found: dict[int, float] = {}
    for text in given:
        name, _, weight = text.rpartition("=")
        place = places.get(spelt(name))
        if place is None:
            raise ValueError(f"{NAME} must name classes as name=weight, of {', '.join(names)}, got {text!r}")
        if place in found:
            raise ValueError(f"{NAME} must name each class once, got {names[place]} twice")
        found[place] = _number(weight, text)
    return [found.get(i, 1.0) for i in range(len(names))]


def _number(weight: str, text: str) -> float:
    try:
        return float(weight)
    except ValueError:
        raise ValueError(f"{NAME} must be name=weight with a number for weight, got {text!r}") from None
