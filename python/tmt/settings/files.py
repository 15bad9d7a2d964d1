"""Files of settings, for `--config`: presets, YAML files, and what they inherit from."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from tmt.errors import ConfigError

PRESETS = Path(__file__).parents[1] / "presets"
INHERITS = "inherits"
"""Key of a YAML file that names the preset or file whose settings it starts from."""


def presets() -> list[str]:
    """Names that `--config` takes beside paths."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def chain(name: str, known: Collection[str], above: Sequence[Path] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """The files behind `--config NAME` with their settings, each after the one that it inherits from.

    Raises ConfigError, naming the file, for one that is missing, is no YAML, holds no settings or one that is not
    `known`, or inherits from itself.
    """
    path = _find(name, above)
    if path in above:
        raise ConfigError(f"{path}: inherits from itself ({' -> '.join(one.name for one in (*above, path))})")
    content = _read(path)
    base = content.pop(INHERITS, None)
    _check(content, known, path)
    return [*([] if base is None else chain(str(base), known, (*above, path))), (path, content)]


def _find(name: str, above: Sequence[Path]) -> Path:
    """The file of a preset, or a file of that path, seen from the one that inherits from it."""
    if name in presets():
        return PRESETS / f"{name}.yaml"
    path = above[-1].parent / name if above and (above[-1].parent / name).is_file() else Path(name)
    if path.is_file():
        return path
    where = f"{above[-1]}: {INHERITS}" if above else "config"
    raise ConfigError(
        f"{where}: must be a preset ({', '.join(presets())}) or a YAML file, got {name}{hint(name, presets())}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: must be YAML, got a mistake in its form ({error.problem})") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not content:
        got = "nothing" if not content else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: must hold settings, such as 'seed: 1', got {got}; --print_config prints them all")
    return content


def _check(tree: dict[str, Any], known: Collection[str], path: Path, prefix: str = "") -> None:
    """Every key must be a setting or a group of them."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in known and any(one.startswith(f"{name}.") for one in known):
            _check(value, known, path, f"{name}.")
        elif any(one.startswith(f"{name}.") for one in known):
            raise ConfigError(f"{path}: {name}: must be a group of settings, got {value!r}")
        elif name not in known:
            groups = {one.rpartition(".")[0] for one in known} - {""}
            raise ConfigError(f"{path}: {name}: unknown setting{hint(name, [*known, *groups])}")


def hint(word: str, known: Collection[str]) -> str:
    """What a misspelt word may have been meant to be, as the end of a message."""
    found = get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""
