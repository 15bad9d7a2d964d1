"""What a method may decide."""

from abc import ABC, abstractmethod

from torch import nn

from tmt.methods.transfer_metric import TransferMetric
from tmt.settings import MetricConfig, ModelConfig, TMTSettings


class Method(ABC):
    """One way to train a segmentation model. Methods hold no state."""

    name: str
    """Name of the stage and of its folder."""
    title: str
    """Name in tables."""
    keeps_source: bool = False
    """Whether half of each batch of the target stage is of the labelled source images."""

    @abstractmethod
    def configure(self, settings: TMTSettings, model: ModelConfig) -> TMTSettings:
        """The settings of the model that is trained, from those of the model it starts from."""

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
