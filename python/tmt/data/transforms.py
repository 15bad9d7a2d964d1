"""Training augmentation of 8-bit images, every random choice from one generator; and the network's input scaling.

Pillow resizes, mirrors and applies colour matrices to 8-bit pixels, on the crop alone. Kornia's augmentations do the
same on float tensors and take more than ten times as long on a processor; `python -m bench.data`
times both. Of kornia, the decoders of kornia_rs are used.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from tmt.data.labels import IGNORE
from tmt.errors import DataError

LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)
GREY = 128  # image value of padding


@dataclass(frozen=True)
class Scaling:
    """How a network wants its pixels: (pixel - mean) / deviation, channel by channel."""

    mean: tuple[float, ...]
    """Of each channel, for pixels in [0, 1]; with one channel, the network wants a picture's grey."""
    deviation: tuple[float, ...]

    def of_8_bit(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation for pixels in [0, 255], float32 (C,)."""
        mean, deviation = (np.array(values, dtype=np.float32) * 255 for values in (self.mean, self.deviation))
        return mean, deviation

    def of_channels(self, count: int) -> "Scaling":
        """The same for images of another number of channels: one has the mean of all, more repeat them."""
        if count == 1:
            mean, deviation = ((sum(values) / len(values),) for values in (self.mean, self.deviation))
            return Scaling(mean, deviation)
        channels = [i % len(self.mean) for i in range(count)]
        return Scaling(tuple(self.mean[i] for i in channels), tuple(self.deviation[i] for i in channels))


IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MEAN, STD = IMAGENET.of_8_bit()

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Wanted:
    """What a crop should show: a class on at least a share of its pixels."""

    train_id: int
    share: float


@dataclass(frozen=True)
class Augment:
    """Resize, category-limited crop, colour jitter and flip; sizes in pixels, each jitter with its own coin."""

    crop: tuple[int, int] = (512, 1024)  # height, width of the output
    scale: tuple[float, float] = (0.5, 2.0)  # resize factor of the short side, uniform
    max_class_share: float = 0.75  # of a crop's labelled pixels, for its largest class
    crop_tries: int = 10  # after which the last crop is taken
    brightness: float = 32.0  # largest shift, of 255
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0  # largest rotation, degrees
    jitter_probability: float = 0.5  # of each of the four
    flip_probability: float = 0.5

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator, wanted: Wanted | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """image uint8 (H, W, 3) and label uint8 (H, W) to a crop of both: uint8 (h, w, 3), uint8 (h, w), filled up at
        the bottom and the right where the image is smaller."""
        picture, target = self.cut(image, label, rng, wanted)
        return pad(picture, self.crop, GREY), pad(target, self.crop, IGNORE)

    def cut(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator, wanted: Wanted | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As a call, but not filled up."""
        factor = rng.uniform(*self.scale)
        height, width = (max(1, round(side * factor)) for side in label.shape)
        picture, target = self._crop(Image.fromarray(image), Image.fromarray(label), (height, width), rng, wanted)
        picture = jitter(picture, self._colour_matrix(rng))
        if rng.random() < self.flip_probability:
            picture, target = (side.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for side in (picture, target))
        return np.array(picture), np.array(target)

    def _crop(
        self,
        image: Image.Image,
        label: Image.Image,
        size: tuple[int, int],
        rng: np.random.Generator,
        wanted: Wanted | None,
    ) -> tuple[Image.Image, Image.Image]:
        """The crop of image and label as if both had first been resized to `size`; only the crop is computed."""
        height, width = min(self.crop[0], size[0]), min(self.crop[1], size[1])
        for _ in range(self.crop_tries):
            top = int(rng.integers(size[0] - height + 1))
            left = int(rng.integers(size[1] - width + 1))
            cropped = crop_resized(label, size, (top, left, height, width), Image.Resampling.NEAREST)
            counts = np.array(cropped.histogram())
            if largest_share(counts) <= self.max_class_share and shows(counts, wanted):
                break
        return crop_resized(image, size, (top, left, height, width), Image.Resampling.BILINEAR), cropped

    def _colour_matrix(self, rng: np.random.Generator) -> np.ndarray:
        """The jitter of one image as one affine map of RGB, float32 (3, 4): hue, saturation, contrast, brightness."""
        coins = rng.random(4) < self.jitter_probability
        degrees = rng.uniform(-self.hue, self.hue) * coins[0]
        saturation = rng.uniform(*self.saturation) if coins[1] else 1.0
        contrast = rng.uniform(*self.contrast) if coins[2] else 1.0
        shift = rng.uniform(-self.brightness, self.brightness) * coins[3]
        linear = contrast * saturation_matrix(saturation) @ hue_matrix(degrees)
        offset = np.full((3, 1), 127.5 * (1 - contrast) + shift)
        return np.concatenate((linear, offset), axis=1).astype(np.float32)


def saturation_matrix(factor: float) -> np.ndarray:
    """Scales the distance from the grey of equal luma, (3, 3)."""
    return factor * np.eye(3) + (1 - factor) * LUMA[None, :]


def hue_matrix(degrees: float) -> np.ndarray:
    """Rotation about the grey axis, (3, 3); 120 degrees turn red into green."""
    angle = math.radians(degrees)
    third, skew = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    cross = np.array(((0, -1, 1), (1, 0, -1), (-1, 1, 0)))
    return math.cos(angle) * np.eye(3) + third + skew * cross


def jitter(image: Image.Image, matrix: np.ndarray) -> Image.Image:
    """Applies an affine colour map (3, 4) to an RGB image, rounded and clipped."""
    return image.convert("RGB", tuple(matrix.ravel().tolist()))


def crop_resized(image: Image.Image, size: tuple[int, int], box: Box, method: Image.Resampling) -> Image.Image:
    """What `box` cuts out of an image resized to `size` (height, width)."""
    top, left, height, width = box
    down, across = image.height / size[0], image.width / size[1]
    source = (left * across, top * down, (left + width) * across, (top + height) * down)
    source = (*source[:2], min(source[2], image.width), min(source[3], image.height))
    return image.resize((width, height), method, box=source)


def largest_share(counts: np.ndarray) -> float:
    """Share of the largest class among the labelled pixels, from pixels by id (256,); 1 where nothing is labelled."""
    labelled = counts[:IGNORE].sum()
    return float(counts[:IGNORE].max() / labelled) if labelled else 1.0


def shows(counts: np.ndarray, wanted: Wanted | None) -> bool:
    """Whether a label with so many pixels by id (256,) has what is wanted."""
    return wanted is None or counts[wanted.train_id] >= max(1, wanted.share * counts.sum())


def pad(pixels: np.ndarray, size: tuple[int, int], value: int) -> np.ndarray:
    """Fills `pixels` (h, w[, 3]) up to `size` at the bottom and the right."""
    missing = [(0, size[0] - pixels.shape[0]), (0, size[1] - pixels.shape[1]), (0, 0)][: pixels.ndim]
    return np.pad(pixels, missing, constant_values=value) if any(after for _, after in missing) else pixels


def normalise(image: np.ndarray, scaling: Scaling = IMAGENET) -> torch.Tensor:
    """uint8 (H, W, 3) to float32 (C, H, W), as a model's `scaling` says; C is 3, or 1 for grey."""
    return normalise_planes(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), scaling)


def normalise_planes(planes: torch.Tensor, scaling: Scaling = IMAGENET) -> torch.Tensor:
    """uint8 (..., 3, H, W) to float32 (..., C, H, W), on the same device, as `normalise`.

    Raises DataError where the scaling is of other channels than 3 or 1.
    """
    mean, deviation = (torch.from_numpy(values).to(planes.device).view(-1, 1, 1) for values in scaling.of_8_bit())
    if len(mean) not in (1, 3):
        raise DataError(f"normalise: pictures have 3 channels, or 1 as grey, got a model of {len(mean)}")
    values = planes.to(torch.float32)
    return (grey(values) if len(mean) == 1 else values).sub_(mean).div_(deviation)


def grey(planes: torch.Tensor) -> torch.Tensor:
    """RGB (..., 3, H, W) to brightness (..., 1, H, W)."""
    weights = torch.from_numpy(LUMA).to(planes.device).view(3, 1, 1)
    return (planes * weights).sum(-3, keepdim=True)
