"""What a method may decide."""

from abc import ABC, abstractmethod

from torch import nn

from tmt.methods.metric import TransferMetric
from tmt.settings import MetricConfig, ModelConfig


class Method(ABC):
    """One way to train a segmentation model. Methods hold no state."""

    name: str
    """Name of the stage and of its folder."""
    title: str
    """Name in tables."""
    needs_estimator: bool = False
    """Whether the transferability estimator must have been trained before."""

    @abstractmethod
    def model_options(self, model: ModelConfig) -> dict[str, object]:
        """Fields of `TMTConfig` that differ from the starting model's."""

    def mask_rule(self, model: ModelConfig) -> str:
        """The mask rule that results are reported with."""
        return str(self.model_options(model)["mask_rule"])

    def choose_trainable(self, model: nn.Module) -> None:
        """Set `requires_grad` of the model's parameters: everything trains that can receive a gradient."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad = parameter.requires_grad and not name.startswith("estimator.")

    def set_mode(self, model: nn.Module) -> None:
        """Put the model into the mode it trains in: stochastic depth and the batch's own statistics in norms."""
        model.train()

    def metric(self, config: MetricConfig, classes: int, batch_size: int) -> TransferMetric | None:
        """The transferability metric that a first stage maximises, for K `classes` and batches of `batch_size` images
        over all processes; None: there is no such stage."""
        return None


def region_options(model: ModelConfig) -> dict[str, object]:
    """The fields of `TMTConfig` that say which regions an image has and how they are judged."""
    return {
        "regions": model.regions,
        "cell": model.cell,
        "superpixel_iterations": model.superpixel_iterations,
        "kappa": model.kappa,
        "estimator_hidden": model.estimator_hidden,
    }
