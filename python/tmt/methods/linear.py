"""Linear probing: only the classifier of the queries trains, on the source model's frozen features."""

from torch import nn

from tmt.methods.full import FullFineTuning


class LinearProbing(FullFineTuning):
    """Only `class_predictor` trains. Backbone, pixel decoder, queries and masks stay the source model's, and so do the
    statistics of batch norms: the whole model is in evaluation mode."""

    name = "linear"
    title = "linear probing"

    def choose_trainable(self, model: nn.Module) -> None:
        """Freeze everything but the class predictor."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("class_predictor.")

    def set_mode(self, model: nn.Module) -> None:
        """Evaluation mode, which changes nothing in the class predictor."""
        model.eval()
