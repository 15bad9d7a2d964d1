"""Every setting of every command, as frozen dataclasses of plain values. Nothing here imports torch."""

from tmt.settings.checks import check, check_inference, check_mapillary, check_subset
from tmt.settings.commands import EvaluateConfig, Kind, PredictConfig, ReportConfig
from tmt.settings.data import AugmentConfig, DataConfig, DatasetName, MapillaryMapping, MapillaryVersion
from tmt.settings.fields import Settings
from tmt.settings.model import (
    Architecture,
    AttentionSettings,
    MaskRule,
    ModelConfig,
    RegionSettings,
    TMTSettings,
    part_of,
    values_of,
)
from tmt.settings.run import (
    AFFECTS,
    ESTIMATOR_FILE,
    ORDER,
    Config,
    Device,
    Stage,
    estimator_weights,
    inputs_of,
    outcome,
    source_model,
)
from tmt.settings.training import EstimatorConfig, FitConfig, InferenceConfig, MetricConfig

__all__ = [
    "AFFECTS",
    "ESTIMATOR_FILE",
    "ORDER",
    "Architecture",
    "AttentionSettings",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "DatasetName",
    "Device",
    "EstimatorConfig",
    "EvaluateConfig",
    "FitConfig",
    "InferenceConfig",
    "Kind",
    "MapillaryMapping",
    "MapillaryVersion",
    "MaskRule",
    "MetricConfig",
    "ModelConfig",
    "PredictConfig",
    "RegionSettings",
    "ReportConfig",
    "Settings",
    "Stage",
    "TMTSettings",
    "check",
    "check_inference",
    "check_mapillary",
    "check_subset",
    "estimator_weights",
    "inputs_of",
    "outcome",
    "part_of",
    "source_model",
    "values_of",
]
