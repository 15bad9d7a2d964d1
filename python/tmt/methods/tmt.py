"""The Transferable Mask Transformer: fine-tuning of everything, attention steered by the frozen estimator."""

from dataclasses import replace

from tmt.methods.method import Method
from tmt.settings import AttentionSettings, BackboneSettings, LossSettings, ModelConfig, TMTSettings, values_of


class TransferableMaskTransformer(Method):
    """Paper, section 4: transferability from ACTE, masked attention by TMA."""

    name = "tmt"
    title = "TMT"

    def configure(self, settings: TMTSettings, model: ModelConfig) -> TMTSettings:
        """Everything that ACTE, TMA and the loss read."""
        parts = (AttentionSettings, LossSettings, BackboneSettings)
        taken = {name: value for part in parts for name, value in values_of(model, part).items()}
        return replace(settings, transferability=True, **taken)
