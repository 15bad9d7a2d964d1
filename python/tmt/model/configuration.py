"""The model's configuration, saved as config.json beside the weights."""

import math
from dataclasses import asdict, fields
from typing import Any

from transformers import Mask2FormerConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from tmt.data.transforms import IMAGENET, Scaling
from tmt.errors import ConfigError
from tmt.settings import TMTSettings

from .class_weights import weights_by_class
from .efficientnet_lite import EfficientNetLiteConfig

SWIN_TINY: dict[str, Any] = {
    "model_type": "swin",
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "drop_path_rate": 0.3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
"""The backbone of `TMTConfig()`."""
ADDED = tuple(item.name for item in fields(TMTSettings))
"""Names of the fields that Mask2Former does not have."""


class TMTConfig(Mask2FormerConfig):
    """Mask2Former's configuration and what TMT adds: the fields of `tmt.settings.TMTSettings`, explained there, and
    `image_height`, the height in pixels at which the model was trained on images, None: their own; and `trained`, what
    its model card says of its training, see `card.Trained`, None: nothing is known.

    And image_mean and image_std, of each channel for pixels in [0, 1], as the backbone was trained with; ImageNet's
    unless they are given. Every other argument is Mask2FormerConfig's.

    Raises:
        ValueError: a value that its field cannot have.
    """

    model_type = "tmt"
    backbones_supported = [*MODEL_FOR_BACKBONE_MAPPING_NAMES, EfficientNetLiteConfig.model_type]

    def __init__(self, **kwargs: Any):
        added = {name: kwargs.pop(name) for name in ADDED if name in kwargs}
        if kwargs.get("backbone_config") is None and kwargs.get("backbone") is None:
            kwargs["backbone_config"] = dict(SWIN_TINY)
        self.image_height: int | None = kwargs.pop("image_height", None)
        self.trained: dict[str, Any] | None = kwargs.pop("trained", None)
        image = (kwargs.pop("image_mean", None), kwargs.pop("image_std", None))
        super().__init__(**kwargs)
        for name, default in asdict(TMTSettings()).items():
            setattr(self, name, added.get(name, default))
        usual = IMAGENET.of_channels(getattr(self.backbone_config, "num_channels", 3))
        self.image_mean = list(usual.mean if image[0] is None else image[0])
        self.image_std = list(usual.deviation if image[1] is None else image[1])
        self.check()

    @property
    def settings(self) -> TMTSettings:
        """The fields that TMT adds; raises ValueError for the first that cannot be used."""
        try:
            return TMTSettings(**{name: _plain(getattr(self, name)) for name in ADDED})
        except ConfigError as error:
            raise ValueError(f"TMTConfig: {str(error).replace(':', '', 1)}") from error

    @settings.setter
    def settings(self, settings: TMTSettings) -> None:
        for name, value in asdict(settings).items():
            setattr(self, name, value)

    @property
    def weights_by_class(self) -> list[float]:
        """What each class weighs in the classification loss; raises ValueError for `class_weights` of other classes."""
        names = [str(self.id2label[i]) for i in range(self.num_labels or 0)]  # type: ignore[index]  # keys are numbers
        try:
            return weights_by_class(self.settings.class_weights, names)
        except ValueError as error:
            raise ValueError(f"TMTConfig: {error}") from error

    @property
    def scaling(self) -> Scaling:
        """How images are scaled for the backbone; raises ValueError where it does not fit the backbone's channels."""
        mean, deviation = (self._per_channel(name) for name in ("image_mean", "image_std"))
        _require(min(deviation) > 0, "image_std", "above 0", self.image_std)
        return Scaling(mean, deviation)

    def _per_channel(self, name: str) -> tuple[float, ...]:
        values, channels = getattr(self, name), getattr(self.backbone_config, "num_channels", 3)
        fits = len(values) == channels and all(math.isfinite(value) for value in values)
        _require(fits, name, f"{channels} finite numbers, one a channel", values)
        return tuple(values)

    def check(self) -> None:
        """Raises ValueError for the first field that cannot be used.

        `from_pretrained(folder, field=value)` sets fields after construction, so the model checks again.
        """
        settings = self.settings
        judged = settings.transferability and settings.judges_predictions
        _require(
            not judged or settings.transfer_features == "source",
            "transfer_features",
            f"source with estimator_kind {settings.estimator_kind}, which judges a frozen copy of the source model",
            settings.transfer_features,
        )
        _ = self.weights_by_class, self.scaling
        self._check_sizes()

    def _check_sizes(self) -> None:
        """What Mask2Former's layers need of each other, said before one of them fails to build."""
        heads = self.num_attention_heads
        for name in ("hidden_dim", "feature_size"):
            value = getattr(self, name)
            multiple = math.lcm(4, heads)  # 4: sine and cosine of two coordinates
            _require(value % multiple == 0, name, f"a multiple of 4 and of num_attention_heads = {heads}", value)
        groups = 32  # of the pixel decoder's group norms
        _require(self.feature_size % groups == 0, "feature_size", f"a multiple of {groups}", self.feature_size)
        _require(
            self.decoder_layers >= 2, "decoder_layers", "at least 2 (one layer more than is built)", self.decoder_layers
        )

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A plain Mask2Former's config.json is one of ours with every added field at its default."""
        values, rest = super().get_config_dict(*args, **kwargs)
        if values.get("model_type") == Mask2FormerConfig.model_type:
            values = {**values, "model_type": cls.model_type}
        return values, rest


def _plain(value: Any) -> Any:
    """A value as settings have it: of a JSON file's lists, tuples."""
    return tuple(value) if isinstance(value, list) else value


def _require(holds: bool, name: str, must: str, value: object) -> None:
    if not holds:
        raise ValueError(f"TMTConfig: {name} must be {must}, got {value!r}")
