"""Shorthands of command lines, written out for the parser."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from tmt.settings.fields import UNIONS, Declared, flatten
from tmt.settings.files import chain


def expand(
    argv: Sequence[str], names: Mapping[str, Declared], files: bool = False
) -> tuple[list[str], dict[str, Path]]:
    """A command line with `--size=[96,192]` for `--size 96,192` and `--size 96 192`, `--flip=true` for `--flip` and,
    with `files`, what `--config` names. With it, the file that sets each setting.

    Raises ConfigError for a file that cannot be used.
    """
    line = _Line(names, files, list(argv))
    while line.rest:
        line.take(line.rest.pop(0))
    return line.words, line.origins


@dataclass
class _Line:
    """A command line, partly written out."""

    names: Mapping[str, Declared]
    files: bool
    rest: list[str]
    words: list[str] = field(default_factory=list)
    origins: dict[str, Path] = field(default_factory=dict)

    def take(self, word: str) -> None:
        """Write out one more word, with the values that follow it."""
        option, equals, value = word.partition("=")
        said = self.names.get(option.removeprefix("--")) if word.startswith("--") else None
        count = _length(said.kind) if said and said.given is None else None
        if option == "--config" and self.files:
            self._config(value if equals else self._next())
        elif count is not None:
            self._list(option, value if equals else self._values(count))
        elif said and said.kind is bool and not equals and not self._has_value():
            self.words.append(f"{option}=true")
        else:
            self.words.append(word)

    def _next(self) -> str:
        return self.rest.pop(0) if self.rest else ""

    def _config(self, name: str) -> None:
        for path, content in chain(name, self.names):
            self.words += ["--config", yaml.safe_dump(content)]
            self.origins |= dict.fromkeys(flatten(content), path)

    def _list(self, option: str, value: str) -> None:
        """A list with its brackets; an option without a value stays one, of which the parser says so."""
        plain = not value or value.startswith("[") or value == "null"
        self.words.append(option if not value else f"{option}={value if plain else f'[{value}]'}")

    def _values(self, count: int) -> str:
        """The values of a list: one word, or `count` words that are numbers."""
        value = self._next()
        while value.count(",") + 1 < count and self.rest and _is_number(self.rest[0]):
            value += f",{self.rest.pop(0)}"
        return value

    def _has_value(self) -> bool:
        """Whether the next word is a switch's; one other than true and false may be a positional argument."""
        places = any(said.given == "positional" for said in self.names.values())
        word = self.rest[0] if self.rest else "--"
        return word in ("true", "false") or not (places or word.startswith("--"))


def _length(kind: Any) -> int | None:
    """How many values an option of lists takes, 0 for any number; None for an option of single values."""
    found = [part for part in (get_args(kind) if get_origin(kind) in UNIONS else (kind,)) if get_origin(part) is tuple]
    if not found:
        return None
    return 0 if get_args(found[0])[-1] is Ellipsis else len(get_args(found[0]))


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d*)?(e-?\d+)?", word) is not None
