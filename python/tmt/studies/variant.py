"""The variants of a study: what each is called, trained with and there for."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from tmt.settings import Config, arguments

ROLES = ("baseline", "method", "ablation", "fraction")
"""What a variant is there for: `method`, TMT under a mask rule; `baseline`, what it is compared with; `ablation`,
either with other settings; `fraction`, TMT with another p_T, a point of that curve."""
Pair = tuple[str, str]
"""Source and target."""
SET_PER_JOB = frozenset(
    {"out", "resume", "stages", "source_model", "estimator_weights", "seed", "pictures"}
    | {"data.source", "data.target", "data.source_root", "data.target_root", "data.synthetic_folder"}
    | {f"data.{role}_{split}_list" for role in ("source", "target") for split in ("train", "val")}
)
"""Settings that each job gets from its place in the study."""


@dataclass(frozen=True)
class Variant:
    """One method, or one variation of it: a column of a table."""

    name: str
    title: str
    """Name in tables."""
    stage: str
    """Stage of `tmt.train` that trains it."""
    role: str
    """One of ROLES."""
    seeds: tuple[int, ...]
    config: Config
    """All settings but those that each job gets from its place in the study."""
    own_base: bool = False
    """Whether it starts from source models of its own, of another base than the study's."""
    pairs: tuple[Pair, ...] | None = None
    """The pairs that it is trained on; None: all of the study's."""

    @property
    def uses_transferability(self) -> bool:
        """Whether it is TMT or a part of it."""
        return self.stage == "tmt"

    @property
    def mask_rule(self) -> str:
        """The mask rule that its decoder follows."""
        return self.config.model.mask_rule if self.uses_transferability else self.config.model.plain_mask_rule

    @property
    def transfer_fraction(self) -> float:
        """p_T; nan where the stage has none."""
        return float(self.config.model.transfer_fraction) if self.uses_transferability else math.nan


def suggested_role(variant: Variant, variants: Sequence[Variant], shared: Config) -> str:
    """The role of a variant whose study file gives none.

    TMT is the variant `tmt`, else the first one with the study's own settings, else the first. What differs from it in
    the mask rule alone is a method, too, what differs in p_T as well a point of its curve. Other stages with the
    study's settings are baselines. Everything else is an ablation.
    """
    if not variant.uses_transferability:
        return "ablation" if changed(variant.config, shared) else "baseline"
    ours = [one for one in variants if one.uses_transferability]
    named = [one for one in ours if one.name == "tmt"]
    unchanged = [one for one in ours if not changed(one.config, shared)]
    others = changed(variant.config, [*named, *unchanged, *ours][0].config).keys() - {"model.mask_rule"}
    return "method" if not others else "fraction" if others == {"model.transfer_fraction"} else "ablation"


def placeless(config: Config) -> Config:
    """The settings without what a job gets from its place in the study, such as what a base says of it."""
    default = Config()
    places = {name: getattr(default, name) for name in SET_PER_JOB if "." not in name}
    of_data = [name.removeprefix("data.") for name in SET_PER_JOB if name.startswith("data.")]
    data = replace(config.data, **{name: getattr(default.data, name) for name in of_data})
    return replace(config, **{**places, "pictures": 0, "data": data})


def settings_of(config: Config) -> dict[str, object]:
    """All settings but those that jobs get from their place in the study, by name, as plain YAML values."""
    flat = arguments.flatten(asdict(config))
    return {name: _plain(value) for name, value in flat.items() if name not in SET_PER_JOB}


def changed(config: Config, base: Config) -> dict[str, object]:
    """The settings that differ from those of a base, by name."""
    before = settings_of(base)
    return {name: value for name, value in settings_of(config).items() if value != before[name]}


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
