"""One picture of how ACTE and TMA treat an image: superpixels, T, and where a query attends, layer by layer."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from tmt.data import LabelSet, colourise, normalise
from tmt.data.resized import resized_image
from tmt.errors import ConfigError
from tmt.inference.attention import Look, follow
from tmt.inference.look import look
from tmt.inference.sliding_window import enlarged
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import label_set_of, listed
from tmt.visualize.drawing import BLUE, glowing, tinted
from tmt.visualize.panels import Panel, View, compose, panels_of

COLUMNS = 4
LARGEST_SHARE = 0.2
"""Of the image, for the class that is chosen where none is named: a thing rather than the ground it stands on."""


def explain(model: TMTForSemanticSegmentation, image: np.ndarray, chosen: str | None = None) -> Image.Image:
    """A sheet of panels for an image (H, W, 3) uint8 and a class by its name.

    Without a name it is the largest class that the model predicts in less than a fifth of the image. The query that is
    followed fits the prediction of that class best. Raises ConfigError for a class that the model does not have or
    predict, and for a model without transferability in inference.
    """
    if not model.config.settings.infers_with_transferability:
        raise ConfigError("model: must use transferability in inference, got a model without; give one of stage tmt")
    label_set = label_set_of(model)
    image = resized_image(image, model.config.image_height)
    view = look(model, image)
    index = _index(view, label_set, chosen)
    pixels = normalise(image, model.scaling)[None].to(model.device)
    looks = follow(model, pixels, view.prediction == index, index)
    return compose(list(_panels(image, view, looks, label_set, label_set.names[index])), COLUMNS, label_set)


def _index(view: View, label_set: LabelSet, chosen: str | None) -> int:
    """The class to follow."""
    pixels = np.bincount(view.prediction.ravel(), minlength=len(label_set))
    if chosen is None:
        small = np.where(pixels <= LARGEST_SHARE * view.prediction.size, pixels, 0)
        return int((small if small.any() else pixels).argmax())
    if chosen not in label_set.names:
        raise ConfigError(f"class: must be one of the model's {listed(label_set.names)}, got {chosen}")
    index = label_set.names.index(chosen)
    if not pixels[index]:
        seen = [label_set.names[i] for i in pixels.argsort()[::-1] if pixels[i]]
        raise ConfigError(f"class: must be predicted in the image, got {chosen}; it has {', '.join(seen[:6])}")
    return index


def _panels(image: np.ndarray, view: View, looks: Sequence[Look], label_set: LabelSet, name: str) -> Iterator[Panel]:
    """The image's panels, then, so many layers at a time, where the query may attend and where it does."""
    size = (image.shape[0], image.shape[1])
    photograph, _, transferability, borders = panels_of(image, None, {"prediction": view}, label_set)
    assert view.regions is not None  # of a whole image, by a model with T
    yield photograph
    yield Panel(f"ACTE: {len(np.unique(view.regions))} superpixels", borders.pixels)
    yield transferability
    yield Panel("prediction", colourise(view.prediction, label_set))
    for first in range(0, len(looks), COLUMNS):
        group = looks[first : first + COLUMNS]
        blank = [Panel("", np.full_like(image, 255))] * (COLUMNS - len(group))
        for one in group:
            shown = tinted(image, enlarged(one.allowed, size), BLUE)
            share = 100 * one.allowed.mean()
            yield Panel(f"TMA, layer {one.layer + 1}: the {name} query may attend ({share:.0f} %)", shown)
        yield from blank
        for one in group:
            weights = one.weights / max(float(one.weights.max()), 1e-12)
            yield Panel(f"layer {one.layer + 1}: it attends", glowing(image, enlarged(weights, size)))
        yield from blank
