"""Settings check themselves, and say which stage they affect first."""

from dataclasses import dataclass, fields, replace
from typing import Literal

import pytest

from tmt.errors import ConfigError
from tmt.settings import (
    AFFECTS,
    Architecture,
    BackboneSettings,
    Config,
    LossSettings,
    ModelConfig,
    RegionSettings,
    Settings,
    TMTSettings,
    part_of,
)
from tmt.settings.fields import AT_LEAST_ONE, POSITIVE, SHARE, affected, group, setting


@dataclass(frozen=True)
class Made(Settings):
    count: int = setting(1, AT_LEAST_ONE)
    rate: float = setting(0.5, POSITIVE, affects="estimator")
    share: float | None = setting(None, SHARE)
    sides: tuple[int, int] = setting((1, 2), AT_LEAST_ONE)
    factors: tuple[float, ...] = setting((1.0,), POSITIVE)
    kind: Literal["a", "b"] = setting("a")
    choice: Literal["c"] | None = setting(None)
    on: bool = setting(False, affects="nothing")
    name: str = setting("x")


BAD = [
    ("count", 0, "a whole number of at least 1, got 0"),
    ("count", 1.0, "a whole number of at least 1, got 1.0"),
    ("count", True, "a whole number of at least 1, got True"),
    ("rate", 0.0, "a number above 0, got 0.0"),
    ("rate", float("nan"), "a number above 0, got nan"),
    ("rate", "1", "a number above 0, got '1'"),
    ("share", 1.5, "a number of at least 0 and at most 1 or none, got 1.5"),
    ("sides", (1, 0), "2 values, each a whole number of at least 1, got (1, 0)"),
    ("sides", (1,), "2 values, each a whole number of at least 1, got (1,)"),
    ("sides", [1, 2], "2 values, each a whole number of at least 1, got [1, 2]"),
    ("factors", (1.0, -1.0), "a tuple, each a number above 0, got (1.0, -1.0)"),
    ("kind", "c", "one of a, b, got 'c'"),
    ("choice", "d", "one of c or none, got 'd'"),
    ("on", 1, "true or false, got 1"),
    ("name", None, "text, got None"),
]


@pytest.mark.parametrize("name, value, said", BAD)
def test_a_bad_value_is_named(name: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Made(**{name: value})
    assert str(error.value) == f"{name}: must be {said}"


def test_replace_checks_too() -> None:
    with pytest.raises(ConfigError, match="count: must be"):
        replace(Made(), count=-1)
    assert Made(rate=1, share=0, factors=()).share == 0


def test_a_group_says_what_its_settings_affect_unless_they_do() -> None:
    @dataclass(frozen=True)
    class Outer(Settings):
        first: Made = group(Made, affects="source")
        second: Made = group(Made, affects="target")

    found = affected(Outer)
    assert found["first.count"] == "source" and found["second.count"] == "target"
    assert found["first.rate"] == found["second.rate"] == "estimator" and found["second.on"] == "nothing"


def test_what_must_be_trained_again() -> None:
    """Source models by data, augmentation, architecture and their own training; estimators by regions and theirs."""
    names = {
        affects: {name for name, first in AFFECTS.items() if first == affects} for affects in set(AFFECTS.values())
    }
    free = {"out", "resume", "stages", "pictures", "track", "gradient_checkpointing", "data.workers"}
    assert names["nothing"] == free
    regions = {f"model.{item.name}" for item in fields(RegionSettings)}
    of_estimator = {name for name in AFFECTS if name.startswith("estimator.")} | {"estimator_weights"}
    assert names["estimator"] == regions | of_estimator
    architecture = {
        f"model.{item.name}" for kind in (Architecture, BackboneSettings, LossSettings) for item in fields(kind)
    }
    parts = {name for name in AFFECTS if name.startswith(("data.", "augment.", "source."))} - {"data.workers"}
    assert names["source"] == architecture | parts | {"seed", "source_model"}


def test_every_setting_says_what_it_affects() -> None:
    assert AFFECTS.keys() == affected(Config).keys() and len(AFFECTS) > 80


def test_a_part_has_the_whole_ones_values() -> None:
    assert part_of(ModelConfig(cell=2, kappa=3.0), RegionSettings) == RegionSettings(cell=2, kappa=3.0)
    assert part_of(TMTSettings(), RegionSettings).kappa == pytest.approx(1 / 0.07, rel=1e-15)
