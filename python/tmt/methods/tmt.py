"""The Transferable Mask Transformer: fine-tuning of everything, attention steered by the frozen estimator."""

from tmt.methods.method import Method, region_options
from tmt.settings import ModelConfig


class TransferableMaskTransformer(Method):
    """Paper, section 4: transferability from ACTE, masked attention by TMA."""

    name = "tmt"
    title = "TMT"
    needs_estimator = True

    def model_options(self, model: ModelConfig) -> dict[str, object]:
        """Everything that ACTE and TMA read."""
        return {
            "transferability": True,
            "mask_rule": model.mask_rule,
            "mask_threshold": model.mask_threshold,
            "fallback": model.fallback,
            "transfer_fraction": model.transfer_fraction,
            "transfer_exclude": model.transfer_exclude,
            "transfer_mode": model.transfer_mode,
            "transfer_features": model.transfer_features,
            "transfer_at_inference": model.transfer_at_inference,
            **region_options(model),
        }
