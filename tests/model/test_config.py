"""Every field of TMTConfig has its default, and every bad value one clear line."""

import json

import pytest

from tmt.model import TMTConfig, TMTForSemanticSegmentation

DEFAULTS = {
    "mask_rule": "foreground",
    "mask_threshold": 0.5,
    "fallback": "all",
    "transferability": True,
    "transfer_fraction": 0.30,
    "transfer_exclude": "high",
    "transfer_mode": "mask",
    "regions": "superpixel",
    "cell": 4,
    "superpixel_iterations": 6,
    "kappa": 100 / 7,
    "estimator_hidden": 256,
    "transfer_features": "live",
    "transfer_at_inference": True,
    "estimator_kind": "domain",
}


def test_defaults_are_those_that_measured_best_and_swin_tiny():
    config = TMTConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    assert config.backbone_config.depths == [2, 2, 6, 2]
    assert (config.num_queries, config.hidden_dim, config.decoder_layers) == (100, 256, 10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask_rule", "background"),
        ("mask_threshold", 1.5),
        ("mask_threshold", -0.1),
        ("mask_threshold", float("nan")),
        ("mask_threshold", "half"),
        ("fallback", "none"),
        ("transfer_at_inference", "sometimes"),
        ("transferability", "yes"),
        ("transfer_fraction", -0.1),
        ("transfer_fraction", 1.01),
        ("transfer_exclude", "all"),
        ("transfer_mode", "soft"),
        ("regions", "slic"),
        ("cell", 0),
        ("cell", 2.5),
        ("superpixel_iterations", 0),
        ("kappa", 0.0),
        ("kappa", float("inf")),
        ("estimator_hidden", 0),
        ("transfer_features", "target"),
        ("estimator_kind", "guess"),
        ("hidden_dim", 100),
        ("feature_size", 48),
        ("decoder_layers", 1),
    ],
)
def test_bad_value_raises_and_names_field_and_value(field, value):
    with pytest.raises(ValueError, match=f"TMTConfig: {field} must be .*, got {value!r}$"):
        TMTConfig(**{field: value})


def test_bad_override_of_a_saved_model_raises(build, tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mask_threshold must be"):
        TMTForSemanticSegmentation.from_pretrained(tmp_path, mask_threshold=2.0)


def test_config_survives_saving(build, tmp_path):
    fields = {"mask_rule": "none", "transfer_fraction": 0.1, "cell": 3, "kappa": 20.0, "transfer_mode": "bias"}
    build(**fields).config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "tmt"
    loaded = TMTConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.backbone_config.embed_dim == 24
    assert loaded.num_labels == 5
