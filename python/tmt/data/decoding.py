"""Image files to arrays, with one clear error for each way in which they can be wrong."""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from tmt.data.png import GREY, RGB, Header, check_png, decode_deep, decode_plain, is_png
from tmt.errors import DataError

ORIENTATION = 0x0112  # EXIF tag; 1: stored upright, 5-8: stored on its side


class Picture(NamedTuple):
    """A decoded image file."""

    pixels: np.ndarray  # (H, W) or (H, W, channels), as stored
    mode: str  # pillow's
    format: str  # pillow's
    bits: int  # per channel or index
    orientation: int = 1  # EXIF's, 1..8; 1, upright, where there is none or a senseless one
    frames: int = 1
    palette: np.ndarray | None = None  # (colours, 3) uint8 of what has one


DEEP_IMAGE = "image must have 8 bits a channel, got {bits}; convert it to 8 bits"
DEEP_LABEL = "label must hold class ids of 8 bits, got {bits} bits, as instance files have; "


def decode(data: bytes, path: Path, too_deep: str | None = None) -> Picture:
    """An image file decoded whole.

    `too_deep` is what is said of more than 8 bits a channel; None: 16 bits are taken, of grey and of PNGs. Raises
    DataError for them, for a damaged or truncated file, several pictures, and a TIFF that is to be turned.
    """
    header = check_png(data, path) if is_png(data) else None
    if header and header.depth == 16 and too_deep is not None:
        raise DataError(f"{path}: {too_deep.replace('{bits}', '16')}")
    try:
        if header and header.depth == 16 and header.colour in (GREY, RGB) and _fits(header):
            return Picture(decode_deep(data, header), "RGB" if header.colour == RGB else "L", "PNG", 16)
        if header and _quick(header):
            return Picture(decode_plain(data, header), "RGB" if header.colour == RGB else "L", "PNG", 8)
        picture = _decode_any(data, min(header.depth, 8) if header else 8)
    except Exception as error:  # both libraries raise many kinds for a damaged file
        text = " ".join(str(error).split(" <_io.")[0].split())
        raise DataError(f"{path}: must be a complete image file, got {text}; copy or make it again") from error
    _require_usual(picture, path, too_deep)
    return picture


def _require_usual(picture: Picture, path: Path, too_deep: str | None) -> None:
    """Raises DataError for what would lose bits, frames or its direction."""
    if picture.bits > 8 and (too_deep is not None or picture.pixels.dtype != np.uint16):
        raise DataError(f"{path}: {(too_deep or DEEP_IMAGE).replace('{bits}', str(picture.bits))}")
    if picture.format == "TIFF" and picture.orientation != 1:  # pillow has turned it
        got = f"orientation {picture.orientation}"
        raise DataError(f"{path}: TIFF must be stored upright, got {got}; turn the picture itself and drop the tag")
    if picture.frames > 1 and picture.format != "MPO":  # of which the first is the photograph, the rest previews
        raise DataError(f"{path}: must hold one picture, got {picture.frames}; save the one that is meant alone")


def _quick(header: Header) -> bool:
    """Whether `decode_plain` reads such a file; one so large that pillow refuses it is left to pillow."""
    return header.plain and header.depth == 8 and header.colour in (GREY, RGB) and _fits(header)


def _fits(header: Header) -> bool:
    return header.width * header.height <= (Image.MAX_IMAGE_PIXELS or 2**31)


def _decode_any(data: bytes, bits: int) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = Image.open(io.BytesIO(data))
        turn = picture.getexif().get(ORIENTATION, 1)  # before pillow turns a TIFF and drops the tag
        frames = getattr(picture, "n_frames", 1)
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            bits = max(picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        picture.load()
    palette = np.array(picture.getpalette(), np.uint8).reshape(-1, 3) if picture.mode == "P" else None
    turn = turn if turn in range(2, 9) else 1
    return Picture(np.array(picture), picture.mode, picture.format or "", bits, turn, frames, palette)


KINDS = {
    "1": "black and white",
    "L": "grey",
    "I;16": "grey",
    "P": "palette",
    "LA": "grey with alpha",
    "RGBA": "with alpha",
}
"""What images of pillow's other modes than RGB are called that can be converted to it."""


def to_rgb(picture: Picture, path: Path) -> tuple[np.ndarray, str]:
    """The pixels of an image as RGB, (H, W, 3) uint8, and what kind of image it is, nothing where it is RGB of 8 bits.

    16 bits are scaled, 65535 to 255; palettes are looked up; alpha is left out. Raises DataError for other modes.
    """
    if picture.mode not in ("RGB", *KINDS):
        raise DataError(f"{path}: image mode must be RGB, got {picture.mode}; convert it to 8-bit RGB")
    kind = " ".join(part for part in ("16-bit" if picture.bits == 16 else "", KINDS.get(picture.mode, "")) if part)
    pixels = _eight_bits(picture.pixels)
    if picture.palette is not None:
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(picture.palette)] = picture.palette
        return colours[pixels], kind
    if pixels.ndim == 2 or pixels.shape[2] == 2:
        return np.repeat(pixels.reshape(*pixels.shape[:2], -1)[..., :1], 3, axis=2), kind
    return np.ascontiguousarray(pixels[..., :3]), kind


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels of booleans or of 8 or 16 bits as uint8 of the same shape; white stays white."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return pixels
