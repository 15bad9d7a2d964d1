"""Command lines and YAML files to settings and back.

YAML presets (`--config demo`, `--config my.yaml`) and single overrides (`--target.lr 2e-4`) mix, the later one wins.
Nothing here imports torch, so that `--help` is quick.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from tmt.errors import ConfigError
from tmt.settings.checks import check, check_inference
from tmt.settings.fields import Declared, Settings, declared, flatten
from tmt.settings.files import presets
from tmt.settings.mistakes import explain, located
from tmt.settings.run import AFFECTS, Config
from tmt.settings.shorthands import expand
from tmt.settings.training import InferenceConfig

TRAIN = "python -m tmt.train"
Kind = TypeVar("Kind", bound=Settings)


def parse(argv: Sequence[str]) -> Config:
    """The configuration of a command line of `python -m tmt.train` (without the program's name).

    Raises ConfigError, on one line, for an unknown key, a value of the wrong type or outside its range, and for
    settings that contradict each other.
    """
    return parse_command(TRAIN, argv, Config)


def parse_command(program: str, argv: Sequence[str], kind: type[Kind]) -> Kind:
    """The settings `kind` that the command line of a program gives; raises ConfigError as `parse` does."""
    names = declared(kind)
    words, origins = expand(argv, names, files=kind is Config)
    try:
        values = _parser(program, kind).parse_args(words).as_dict()
    except (ArgumentError, OSError, ValueError) as error:
        raise ConfigError(located(explain(str(error), names, program), argv, origins)) from error
    try:
        config = _build(kind, values)
    except ConfigError as error:
        raise ConfigError(located(str(error), argv, origins)) from error
    if isinstance(config, Config):
        check(config)
    if isinstance(config, InferenceConfig):
        check_inference(config)
    return config


def _parser(program: str, kind: type[Settings]) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    names = declared(kind)
    special = {name: said for name, said in names.items() if said.given}
    parser = ArgumentParser(prog=program, description=kind.__doc__, exit_on_error=False)
    if "version" not in names:
        parser.add_argument("--version", action="version", version=version_line(), help="Print the version and exit.")
    if kind is Config:
        parser.add_argument("--config", action="config", help=f"preset ({', '.join(presets())}) or YAML file")
    helps = _helps(kind) if special else {}
    for name, said in special.items():
        _add(parser, name, said, kind, helps[name])
    parser.add_class_arguments(kind, None, as_positional=False, skip=set(special))
    return parser


def _helps(kind: type[Settings]) -> dict[str, str]:
    """The help below each field of a class."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, None, as_positional=False)
    return {action.dest: action.help or "" for action in parser._actions}


def _add(parser: ArgumentParser, name: str, said: Declared, kind: type[Settings], text: str) -> None:
    """Add a setting that is not `--name VALUE`."""
    default = next(item.default for item in fields(kind) if item.name == name)
    several = get_origin(said.kind) is tuple
    if said.given == "positional":
        nargs = "?" if default is None else "+" if several else None
        parser.add_argument(name, type=str if several or default is None else said.kind, help=text, nargs=nargs)
    elif said.given == "repeated":
        parser.add_argument(f"--{name}", type=str, action="append", default=[], help=text)
    else:
        parser.add_argument(str(said.given), dest=name, type=said.kind, default=default, help=text)


def version_line() -> str:
    """The name and version of this package, as `--version` prints them."""
    from tmt.settings.version import __version__

    return f"tmt {__version__}"


def _build(kind: type[Kind], values: dict[str, Any], prefix: str = "") -> Kind:
    """Settings from nested values; errors name the whole place of a setting."""
    given = {}
    for item in fields(kind):
        value = values[item.name]
        if is_dataclass(item.default_factory):
            value = _build(item.default_factory, value, f"{prefix}{item.name}.")  # type: ignore[type-var]
        given[item.name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**given)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `--config` reads back."""
    parser = _parser(TRAIN, Config)
    return parser.dump(parser.parse_object(asdict(config)))


def from_yaml(path: Path) -> Config:
    """Read what `to_yaml` wrote; raises ConfigError."""
    return parse(["--config", str(path)])


def differences(left: Config, right: Config) -> list[str]:
    """Settings that differ, as `name: left -> right`, leaving out those that may differ when a run is resumed."""
    first, second = flatten(asdict(left)), flatten(asdict(right))
    changed = [name for name, affects in AFFECTS.items() if affects != "nothing" and first[name] != second[name]]
    return [f"{name}: {first[name]} -> {second[name]}" for name in changed]
