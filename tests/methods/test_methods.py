"""What methods decide."""

from typing import get_args

import pytest

from tmt.methods import method_of
from tmt.settings import ModelConfig, Stage, TMTSettings, inputs_of

TRAINED = [stage for stage in get_args(Stage) if stage != "estimator"]


@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_starts_from_an_estimator_where_its_method_uses_transferability(stage: Stage) -> None:
    settings = method_of(stage).configure(TMTSettings(), ModelConfig())
    assert settings.transferability == ("estimator" in inputs_of(stage))


@pytest.mark.parametrize("stage", TRAINED)
def test_what_a_method_does_not_decide_stays_as_it_was_saved(stage: Stage) -> None:
    saved = TMTSettings(transfer_features="source", transfer_fraction=0.7)
    settings = method_of(stage).configure(saved, ModelConfig(plain_mask_rule="none", mask_rule="uncertain", cell=2))
    plain = stage != "tmt"
    assert settings.mask_rule == ("none" if plain else "uncertain") and settings.cell == 2
    assert settings.transfer_fraction == (0.7 if plain else 0.3)
    assert settings.transfer_features == ("source" if plain else "live")
