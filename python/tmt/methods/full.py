"""Plain Mask2Former training: of the source model, and full fine-tuning of all its weights on the target."""

from dataclasses import replace

from tmt.methods.method import Method
from tmt.settings import BackboneSettings, LossSettings, ModelConfig, RegionSettings, TMTSettings, values_of


class FullFineTuning(Method):
    """Vanilla fine-tuning of everything; no transferability anywhere."""

    name = "full"
    title = "full fine-tuning"

    def configure(self, settings: TMTSettings, model: ModelConfig) -> TMTSettings:
        """Plain masked attention; the regions are not used, but the estimator saved with the model has their sizes."""
        return replace(
            settings,
            transferability=False,
            mask_rule=model.plain_mask_rule,
            mask_threshold=model.mask_threshold,
            fallback=model.fallback,
            **values_of(model, RegionSettings),
            **values_of(model, LossSettings),
            **values_of(model, BackboneSettings),
        )


class SourceTraining(FullFineTuning):
    """The source model: the same training, on the source domain."""

    name = "source"
    title = "source only"
