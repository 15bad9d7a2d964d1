"""Plain Mask2Former training: of the source model, and full fine-tuning of all its weights on the target."""

from tmt.methods.method import Method, region_options
from tmt.settings import ModelConfig


class FullFineTuning(Method):
    """Vanilla fine-tuning of everything; no transferability anywhere."""

    name = "full"
    title = "full fine-tuning"

    def model_options(self, model: ModelConfig) -> dict[str, object]:
        """Plain masked attention; the regions are not used, but the estimator saved with the model has their sizes."""
        return {
            "transferability": False,
            "mask_rule": model.plain_mask_rule,
            "mask_threshold": model.mask_threshold,
            "fallback": model.fallback,
            **region_options(model),
        }


class SourceTraining(FullFineTuning):
    """The source model: the same training, on the source domain."""

    name = "source"
    title = "source only"
