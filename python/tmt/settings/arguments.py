"""Command lines and YAML files to settings and back.

YAML presets (`--config demo`, `--config my.yaml`) and single overrides (`--target.lr 2e-4`) mix, the later one wins.
Nothing here imports torch, so that `--help` is quick.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from tmt.errors import ConfigError
from tmt.settings.checks import check, check_inference
from tmt.settings.fields import Settings
from tmt.settings.run import AFFECTS, Config
from tmt.settings.training import InferenceConfig

PRESETS = Path(__file__).parents[1] / "presets"
INFERENCE_LISTS = ("window", "stride", "scales")
LISTS = ("--stages", "--save", *(f"--{part}{name}" for part in ("", "evaluation.") for name in INFERENCE_LISTS))
"""Options whose lists need no brackets, as `--stages source,tmt`."""
SWITCHES = ("--resume", "--overwrite", *(f"--{part}{name}" for part in ("", "evaluation.") for name in ("flip", "amp")))
"""Options that mean `true` without a value."""
Kind = TypeVar("Kind", bound=Settings)
INHERITS = "inherits"
"""Key of a YAML file that names the preset or file whose settings it starts from."""


def presets() -> list[str]:
    """Names that `--config` takes beside paths."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def build_parser() -> ArgumentParser:
    """The parser of `python -m tmt.train`."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="python -m tmt.train", description=Config.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help=f"preset ({', '.join(presets())}) or YAML file")
    parser.add_class_arguments(Config, None)
    return parser


def parse(argv: Sequence[str]) -> Config:
    """The configuration of a command line (without the program's name).

    Raises ConfigError, on one line, for an unknown key, a value of the wrong type or outside its range, and for
    settings that contradict each other.
    """
    return parse_with(build_parser(), argv, Config)


def parse_model_command(program: str, argv: Sequence[str], kind: type[Kind], many: str | None = None) -> Kind:
    """Parse `python -m tmt.<program> MODEL [MANY ...] --...` into the dataclass `kind`.

    Its field `model` is positional, and so is the field `many`, one or more strings, where it is named. Raises
    ConfigError as `parse` does.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"python -m tmt.{program}", description=kind.__doc__, exit_on_error=False)
    parser.add_argument("model", type=str, help="folder of a saved model, ours or a plain Mask2Former")
    if many is not None:
        parser.add_argument(many, type=str, nargs="+", help="images, folders searched to their bottom, quoted patterns")
    parser.add_class_arguments(kind, None, as_positional=False, skip={"model", *([many] if many else [])})
    return parse_with(parser, argv, kind)


def parse_with(parser: ArgumentParser, argv: Sequence[str], kind: type[Kind]) -> Kind:
    """Parse with any parser made of the fields of the dataclass `kind`; raises ConfigError as `parse` does."""
    try:
        values = parser.parse_args(_expand(argv)).as_dict()
    except (ArgumentError, OSError, ValueError) as error:
        raise ConfigError(_one_line(error, parser)) from error
    config = _build(kind, values)
    if isinstance(config, Config):
        check(config)
    if isinstance(config, InferenceConfig):
        check_inference(config)
    return config


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
    parser = build_parser()
    return parser.dump(parser.parse_object(asdict(config)))


def from_yaml(path: Path) -> Config:
    """Read what `to_yaml` wrote; raises ConfigError."""
    return parse(["--config", str(path)])


def differences(left: Config, right: Config) -> list[str]:
    """Settings that differ, as `name: left -> right`, leaving out those that may differ when a run is resumed."""
    first, second = flatten(asdict(left)), flatten(asdict(right))
    changed = [name for name, affects in AFFECTS.items() if affects != "nothing" and first[name] != second[name]]
    return [f"{name}: {first[name]} -> {second[name]}" for name in changed]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b: value`; lists become tuples."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def _expand(argv: Sequence[str]) -> list[str]:
    """Shorthands: presets and inherited files after --config, lists without brackets, switches without a value."""
    expanded: list[str] = []
    for i, argument in enumerate(argv):
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        name = option if option else (argv[i - 1] if i else "")
        if value and name == "--config":
            expanded[len(expanded) - (not option) :] = _config_options(value)
            continue
        if value and name in LISTS and not value.startswith("[") and value != "null":
            value = f"[{value}]"
        if argument in SWITCHES and argv[i + 1 : i + 2] not in (["true"], ["false"]):
            equals, value = "=", "true"
        expanded.append(option + equals + value)
    return expanded


def _config_options(value: str) -> list[str]:
    """`--config VALUE` with the path of a preset, after the files that it inherits from."""
    path = PRESETS / f"{value}.yaml" if value in presets() else Path(value)
    content = _content(path)
    if INHERITS not in content:
        return ["--config", str(path)]
    inherited = str(content.pop(INHERITS))
    beside = path.parent / inherited
    base = inherited if inherited in presets() or not beside.is_file() else str(beside)
    return [*_config_options(base), "--config", yaml.safe_dump(content)]


def _content(path: Path) -> dict[str, Any]:
    """A YAML file's mapping; empty for what is none, of which the parser says what is wrong."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _one_line(error: Exception, parser: ArgumentParser) -> str:
    text = " ".join(str(error).replace("Parser key ", "").split())
    return f"{text}; {_nearest(text, parser)}see {parser.prog} --help"


def _nearest(text: str, parser: ArgumentParser) -> str:
    if "unrecognized arguments: " not in text:
        return ""
    unknown = text.rsplit("unrecognized arguments: ", 1)[1].split()[0].split("=")[0]
    options = [option for action in parser._actions for option in action.option_strings]
    found = get_close_matches(unknown, options, n=1)
    return f"did you mean {found[0]}? " if found else ""
