"""Room: settings. In: names and numbers. Out: a checked TMTConfig, saved as config.json beside the weights."""

import math
from numbers import Real
from typing import Any

from transformers import Mask2FormerConfig

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


class TMTConfig(Mask2FormerConfig):
    """Mask2Former's configuration and what TMT adds. Every other argument is Mask2FormerConfig's.

    Args:
        mask_rule: where a query may attend, by its predicted mask: "foreground" (Mask2Former's own: probability at
            least `mask_threshold`), "uncertain" (Eq. 13: at most `mask_threshold`) or "none".
        mask_threshold: lambda_M, a probability in [0, 1].
        fallback: what a query that may attend nowhere does: "all" attends everywhere, "transfer" first drops only
            the mask rule and keeps the transferability condition.
        transferability: whether T is computed and used; False with mask_rule "foreground" is plain Mask2Former.
        transfer_fraction: p_T in [0, 1], the share of most transferable positions excluded from attention.
        transfer_exclude: which end of T is excluded: "high" (Eq. 13) or, as a control experiment, "low": TMA is then
            given 1 - T, in either mode.
        transfer_mode: "mask" (Eq. 13) or "bias", the soft log(1 - T) on the attention scores (ablation without TMA).
        regions: "superpixel" or "grid", fixed cells (ablation without ACTE).
        cell: side of a superpixel's first cell in positions of stride 8, at least 1.
        superpixel_iterations: L, at least 1.
        kappa: sharpness of the superpixels' assignment (Eq. 8), positive.
        superpixel_dtype: "float32", or "bfloat16": on CUDA under autocast the superpixels are found in bfloat16, on
            tensor cores, from rounded features (`python -m bench.precision` says what changes).
        estimator_hidden: hidden channels of the domain discriminator, at least 1.
        transfer_features: "live" computes T from the model's own features, "source" from a frozen copy of the
            source model's (`TMTForSemanticSegmentation.freeze_source_features`).
        transfer_at_inference: whether T is used in evaluation mode too, or in training mode only (ablation).

    Raises:
        ValueError: a value outside what is said above.
    """

    model_type = "tmt"
    backbones_supported = ["swin", "resnet"]

    def __init__(
        self,
        *,
        mask_rule: str = "foreground",
        mask_threshold: float = 0.5,
        fallback: str = "all",
        transferability: bool = True,
        transfer_fraction: float = 0.30,
        transfer_exclude: str = "high",
        transfer_mode: str = "mask",
        regions: str = "superpixel",
        cell: int = 4,
        superpixel_iterations: int = 6,
        kappa: float = 1 / 0.07,
        superpixel_dtype: str = "float32",
        estimator_hidden: int = 256,
        transfer_features: str = "live",
        transfer_at_inference: bool = True,
        **kwargs: Any,
    ):
        if kwargs.get("backbone_config") is None and kwargs.get("backbone") is None:
            kwargs["backbone_config"] = dict(SWIN_TINY)
        super().__init__(**kwargs)
        self.mask_rule = mask_rule
        self.mask_threshold = mask_threshold
        self.fallback = fallback
        self.transferability = transferability
        self.transfer_fraction = transfer_fraction
        self.transfer_exclude = transfer_exclude
        self.transfer_mode = transfer_mode
        self.regions = regions
        self.cell = cell
        self.superpixel_iterations = superpixel_iterations
        self.kappa = kappa
        self.superpixel_dtype = superpixel_dtype
        self.estimator_hidden = estimator_hidden
        self.transfer_features = transfer_features
        self.transfer_at_inference = transfer_at_inference
        self.check()

    def check(self) -> None:
        """Raises ValueError for the first field that cannot be used.

        `from_pretrained(folder, field=value)` sets fields after construction, so the model checks again.
        """
        _require_choice("mask_rule", self.mask_rule, ("uncertain", "foreground", "none"))
        _require_choice("fallback", self.fallback, ("all", "transfer"))
        _require_choice("transferability", self.transferability, (True, False))
        _require_choice("transfer_at_inference", self.transfer_at_inference, (True, False))
        _require_choice("transfer_exclude", self.transfer_exclude, ("high", "low"))
        _require_choice("transfer_mode", self.transfer_mode, ("mask", "bias"))
        _require_choice("regions", self.regions, ("superpixel", "grid"))
        _require_choice("superpixel_dtype", self.superpixel_dtype, ("float32", "bfloat16"))
        _require_choice("transfer_features", self.transfer_features, ("live", "source"))
        for name in ("mask_threshold", "transfer_fraction"):
            value = getattr(self, name)
            _require(_is_number(value) and 0 <= value <= 1, name, "a number in [0, 1]", value)
        for name in ("cell", "superpixel_iterations", "estimator_hidden"):
            value = getattr(self, name)
            _require(_is_count(value) and value >= 1, name, "a whole number of at least 1", value)
        finite = _is_number(self.kappa) and 0 < self.kappa < float("inf")
        _require(finite, "kappa", "a positive number", self.kappa)
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


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, name: str, must: str, value: object) -> None:
    if not holds:
        raise ValueError(f"TMTConfig: {name} must be {must}, got {value!r}")


def _require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    known = any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices)
    _require(known, name, "one of " + ", ".join(map(str, choices)), value)
