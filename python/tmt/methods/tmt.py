"""The Transferable Mask Transformer: fine-tuning of everything, attention steered by the frozen estimator."""

from dataclasses import replace

from tmt.methods.method import Method
from tmt.settings import AttentionSettings, ModelConfig, TMTSettings, values_of


class TransferableMaskTransformer(Method):
    """Paper, section 4: transferability from ACTE, masked attention by TMA."""

    name = "tmt"
    title = "TMT"

    def configure(self, settings: TMTSettings, model: ModelConfig) -> TMTSettings:
        """Everything that ACTE and TMA read."""
        return replace(settings, transferability=True, **values_of(model, AttentionSettings))
