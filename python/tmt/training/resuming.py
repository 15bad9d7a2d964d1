"""Which settings a run that is resumed may have: those it was started with, from the same places, or more steps."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tmt.errors import ConfigError
from tmt.runtime.files import read_record, write_text
from tmt.settings import ORDER, Config, Settings, arguments, inputs_of

PLACES = ("data.source_root", "data.target_root", "data.synthetic_folder", "model.base", "model.backbone")
PLACES += ("source_model", "estimator_weights", "data.source_classes", "data.target_classes")
PLACES += tuple(f"data.{role}_{split}_list" for role in ("source", "target") for split in ("train", "val"))
"""Settings that name a file or folder, or may do so."""
GROUPS = ("source", "estimator", "target")
"""The settings of stages."""


def group_of(stage: str) -> str:
    """The settings that a stage is trained by."""
    return stage if stage in GROUPS else "target"


def check_resume(config: Config, folder: Path) -> None:
    """Raises ConfigError unless the run in `folder` can go on with these settings."""
    before = arguments.from_yaml(folder / "config.yaml")
    now = _in_words_of(before, config, _started_in(folder))
    for group in _longer(before, now):
        old, new = getattr(before, group).steps, getattr(now, group).steps
        if why := _why_not_longer(group, before, folder):
            raise ConfigError(f"resume: {group}.steps must stay {old}, got {new}: {why}")
        now = _with(now, f"{group}.steps", old)
    if changed := arguments.differences(before, now):
        raise ConfigError(
            f"resume: settings must be those {folder} was started with, got {'; '.join(changed)}; "
            f"repeat its command (or --config {folder / 'config.yaml'}), or use another --out"
        )


def lengthen(config: Config, folder: Path) -> None:
    """Let the stages of the run in `folder` that get more steps go on: they are not finished any more."""
    before = arguments.from_yaml(folder / "config.yaml")
    groups = _longer(before, config)
    for stage in ORDER:
        if group_of(stage) in groups:
            (folder / stage / "done.json").unlink(missing_ok=True)
    for group in groups:
        before = _with(before, f"{group}.steps", getattr(config, group).steps)
    if groups:
        write_text(folder / "config.yaml", arguments.to_yaml(before))


def _started_in(folder: Path) -> str:
    """The directory that a run's relative paths start from."""
    directory = read_run(folder).get("directory") if (folder / "run.json").is_file() else None
    return directory if isinstance(directory, str) else os.curdir


def read_run(folder: Path) -> dict[str, Any]:
    """A run's record of how it was started; raises CheckpointError where it is damaged."""
    return read_record(folder / "run.json", "remove it, and the run goes on with a new one")


def _in_words_of(before: Config, now: Config, directory: str) -> Config:
    """`now`, its places named as in `before` where they are the same, and by their whole path where only words are."""
    for name in PLACES:
        old, new = _get(before, name), _get(now, name)
        if old is not None and new is not None:
            whole = os.path.realpath(new) if os.path.exists(new) else new
            now = _with(now, name, old if _same(old, new, directory) else whole)
    return now


def _same(old: str, new: str, directory: str) -> bool:
    """Whether two paths lead to one place, `old` from a directory that may have been moved or removed since."""
    before = os.path.join(directory, old)
    if os.path.exists(before) and os.path.exists(new):
        return os.path.samefile(before, new)
    return os.path.realpath(before) == os.path.realpath(new) or os.path.normpath(old) == os.path.normpath(new)


def _longer(before: Config, now: Config) -> list[str]:
    return [group for group in GROUPS if getattr(now, group).steps > getattr(before, group).steps]


def _why_not_longer(group: str, before: Config, folder: Path) -> str | None:
    """Why a stage's training cannot have been the beginning of a longer one, and what to do; None where it can."""
    begun = [stage for stage in ORDER if (folder / stage).is_dir()]
    own = [stage for stage in begun if group_of(stage) == group]
    model = folder / (own[0] if own else group) / "model"
    option = "model.base" if group == "source" else "source_model"
    anew = f"to train on, start a run of another --out from its weights (--{option} {model})"
    if group != "estimator" and getattr(before, group).power > 0:
        return (
            f"its learning rate falls to 0 over all steps, so that in a longer training each would be another; {anew}"
        )
    if group == "target" and (part := [stage for stage in begun if stage in ("leep", "otce")]):
        return f"the first part of {part[0]} is a share of all steps; {anew}"
    if later := [stage for stage in begun if group in inputs_of(stage)]:
        return f"{later[0]} has been trained from it; use another --out for a training of more steps"
    return None


def _get(settings: Settings, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _with(config: Config, name: str, value: object) -> Config:
    group, dot, field = name.rpartition(".")
    if not dot:
        return replace(config, **{name: value})
    return replace(config, **{group: replace(getattr(config, group), **{field: value})})
