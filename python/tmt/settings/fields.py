"""How a setting is declared: its default, the values it may have, and the first stage that it affects.

A class of settings derives from `Settings` and declares each field once; the text below it is its help:

    steps: int = setting(2000, POSITIVE, affects="estimator")
    # Training steps.      (as a string in triple quotes)

Values are plain: bool, int, float, str, None, and tuples of them.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tmt.errors import ConfigError

Affects = Literal["source", "estimator", "target", "nothing"]
"""The first stage whose models two variants of a study cannot share where they differ in a setting; what starts from
them is trained anew as well. What a target model may have of its own, whatever its source model had, is of `target`;
`nothing` changes no result, so that a resumed run may change it."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have."""

    above: float = -math.inf
    at_least: float = -math.inf
    at_most: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.above < value and self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        limits = (("above", self.above), ("of at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit))


POSITIVE = Range(above=0)
AT_LEAST_ONE = Range(at_least=1)
NOT_NEGATIVE = Range(at_least=0)
SHARE = Range(at_least=0, at_most=1)
UNIONS = (Union, UnionType)  # `Literal[...] | None` is the former
ANY = Range(at_least=-math.inf, at_most=math.inf, above=-math.inf)


def setting(
    default: Any = MISSING, allowed: Range = ANY, *, affects: Affects | None = None, given: str | None = None
) -> Any:
    """A field of plain values; its numbers must be `allowed`. Without `affects` it affects what its group does.

    On command lines it is `--name VALUE`, or as `given` says: `positional`, `repeated` (an option for each value), or
    the option's own name, such as `--from`.
    """
    return field(default=default, metadata={"allowed": allowed, "affects": affects, "given": given})


def group(kind: type, *, affects: Affects) -> Any:
    """A field that holds settings of another class; `affects` counts for those of them that do not say."""
    return field(default_factory=kind, metadata={"affects": affects})


@dataclass(frozen=True)
class Settings:
    """A dataclass of settings, each of its type and in its range."""

    def __post_init__(self) -> None:
        """Raises ConfigError for the first field whose value cannot be used."""
        hints = types_of(type(self))
        for item in fields(self):
            allowed, value = item.metadata.get("allowed", ANY), getattr(self, item.name)
            if not _fits(value, hints[item.name], allowed):
                raise ConfigError(f"{item.name}: must be {in_words(hints[item.name], allowed)}, got {value!r}")


@cache
def types_of(kind: type) -> dict[str, Any]:
    """The types of a class's fields, by name."""
    return get_type_hints(kind)


def _fits(value: object, kind: Any, allowed: Range) -> bool:
    """Whether a value is of a field's type, and its numbers in the range."""
    match get_origin(kind):
        case origin if origin is Literal:
            return any(value is choice or (isinstance(choice, str) and value == choice) for choice in get_args(kind))
        case origin if origin in UNIONS:
            return any(_fits(value, part, allowed) for part in get_args(kind))
        case origin if origin is tuple:
            return _fits_tuple(value, get_args(kind), allowed)
    if kind in (int, float):
        number = int if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool) and float(value) in allowed  # type: ignore
    return isinstance(value, kind)


def _fits_tuple(value: object, kinds: tuple[Any, ...], allowed: Range) -> bool:
    if not isinstance(value, tuple):
        return False
    kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
    return len(kinds) == len(value) and all(_fits(*pair, allowed) for pair in zip(value, kinds, strict=True))


def in_words(kind: Any, allowed: Range) -> str:
    """What a field of a type must be, for messages."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if get_origin(kind) in UNIONS:
        return " or ".join(in_words(part, allowed) for part in arguments)
    if get_origin(kind) is tuple:
        count = "a tuple, each" if arguments[-1] is Ellipsis else f"{len(arguments)} values, each"
        return f"{count} {in_words(arguments[0], allowed)}"
    noun = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "none"}
    return f"{noun.get(kind, kind.__name__)} {allowed}".strip() if kind in (int, float) else noun.get(kind, str(kind))


def affected(kind: type, prefix: str = "", default: Affects = "nothing") -> dict[str, Affects]:
    """The first stage that each setting of a class affects, by the setting's name with dots."""
    found: dict[str, Affects] = {}
    for item in fields(kind):
        affects = item.metadata.get("affects") or default
        if is_dataclass(item.default_factory):
            found |= affected(item.default_factory, f"{prefix}{item.name}.", affects)
        else:
            found[prefix + item.name] = affects
    return found


@dataclass(frozen=True)
class Declared:
    """A setting as its field declares it."""

    kind: Any
    """Its type."""
    allowed: Range
    given: str | None

    def __str__(self) -> str:
        return in_words(self.kind, self.allowed)

    def spelled(self, name: str) -> str:
        """How the setting of that name is written on a command line."""
        if self.given == "positional":
            return name.upper()
        return f"--{name}" if self.given in (None, "repeated") else self.given


def declared(kind: type, prefix: str = "") -> dict[str, Declared]:
    """Every setting of a class by its name with dots."""
    found: dict[str, Declared] = {}
    for item in fields(kind):
        if is_dataclass(item.default_factory):
            found |= declared(item.default_factory, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            said = item.metadata
            found[prefix + item.name] = Declared(types_of(kind)[item.name], said.get("allowed", ANY), said.get("given"))
    return found


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b: value`; lists become tuples."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat
