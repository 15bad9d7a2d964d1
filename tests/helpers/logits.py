"""A model as a function of pixels to tensors, as compilers and exporters want it."""

from torch import nn


class Logits(nn.Module):
    """Both logits of a model, as tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        output = self.model(pixel_values=pixel_values)
        return output.class_queries_logits, output.masks_queries_logits
