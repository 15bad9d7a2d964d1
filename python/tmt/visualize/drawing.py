"""Arrays drawn as colours, alone or over an image; all images are (H, W, 3) uint8."""

import numpy as np

from tmt.data.labels import IGNORE, LabelSet, colourise

BORDER_COLOUR = (255, 230, 0)
RED, BLUE = (214, 69, 61), (59, 125, 216)
# Transferability from 0 (divergent, blue) to 1 (transferable, red); even steps of lightness up to the middle.
HEAT = np.array([(33, 60, 140), (90, 150, 205), (235, 235, 225), (240, 150, 90), (165, 30, 40)], dtype=np.float32)


def overlay(image: np.ndarray, label: np.ndarray, label_set: LabelSet, opacity: float) -> np.ndarray:
    """The image under the colours of its classes, train ids (H, W); what is ignored keeps its own."""
    share = np.where(label == IGNORE, 0.0, opacity)[..., None]
    return (image * (1 - share) + colourise(label, label_set) * share).round().astype(np.uint8)


def heat(values: np.ndarray) -> np.ndarray:
    """Values (H, W) in [0, 1] as colours, blue to red."""
    position = np.clip(values, 0, 1) * (len(HEAT) - 1)
    channels = [np.interp(position, np.arange(len(HEAT)), HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def outline(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The image with the borders between regions (H, W) drawn in."""
    border = np.zeros(regions.shape, dtype=bool)
    border[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    border[1:] |= regions[1:] != regions[:-1]
    drawn = image.copy()
    drawn[border] = BORDER_COLOUR
    return drawn


def marked(image: np.ndarray, where: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The image, pale, with the pixels that `where` (H, W) bool names in a colour."""
    return np.where(where[..., None], np.array(colour, np.uint8), image // 3 + 150).astype(np.uint8)


def tinted(image: np.ndarray, share: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The image in pale grey, coloured where share (H, W) is 1."""
    grey = image.mean(-1, keepdims=True) * 0.6 + 90
    return (grey + 0.55 * share[..., None] * (np.array(colour) - grey)).clip(0, 255).astype(np.uint8)


def glowing(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The image in dark grey, from red to yellow where values (H, W) in [0, 1] are high."""
    grey = image.mean(-1, keepdims=True) * 0.45
    root = np.sqrt(values)[..., None]
    glow = np.concatenate([np.full_like(root, 255), 255 * values[..., None], np.zeros_like(root)], axis=-1)
    return (grey + root * (glow - grey)).clip(0, 255).astype(np.uint8)
