"""The parts of a PNG file that image libraries do not tell or check: bits per channel, and every chunk's checksum."""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import kornia_rs.io
import numpy as np

from tmt.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2  # colour types


# Chunks that change no pixel and hold no EXIF; a file with any other one takes the slower way through pillow.
PLAIN = frozenset((b"IHDR", b"IDAT", b"IEND", b"gAMA", b"pHYs", b"sRGB", b"cHRM", b"tIME", b"sBIT", b"bKGD"))


class Header(NamedTuple):
    """What the file says of itself."""

    width: int
    height: int
    depth: int  # bits per channel, or per index
    colour: int  # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    plain: bool  # whether it has no chunk but those in PLAIN


def is_png(data: bytes) -> bool:
    """Whether a file's content claims to be a PNG."""
    return data.startswith(SIGNATURE)


def is_deep_grey(data: bytes) -> bool:
    """Whether a file's content claims to be a PNG of 16-bit grey."""
    return is_png(data) and data[24:26] == bytes((16, GREY))


def check_png(data: bytes, path: Path) -> Header:
    """The header of a PNG file whose chunks are all there and undamaged.

    Decoders skip the checksums of pixel data, and a damaged label can decode into wrong ids without any error. Raises
    DataError, naming `path`, for a truncated or damaged file.
    """
    place, kinds = len(SIGNATURE), []
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            break
        content = memoryview(data)[place + 4 : end - 4]
        if zlib.crc32(content) != struct.unpack_from(">I", data, end - 4)[0]:
            raise DataError(
                f"{path}: must be a complete image file, got a wrong checksum in {kind!r}; copy or make it again"
            )
        kinds.append(kind)
        if kind == b"IEND" and kinds[0] == b"IHDR":
            return Header(*struct.unpack_from(">IIBB", data, len(SIGNATURE) + 8), plain=PLAIN.issuperset(kinds))
        place = end
    raise DataError(f"{path}: must be a complete image file, got a truncated PNG; copy or make it again")


def decode_plain(data: bytes, header: Header) -> np.ndarray:
    """Pixels of a checked PNG of 8-bit grey (H, W) or RGB (H, W, 3), uint8, a third of the time that pillow takes."""
    kind = "rgb" if header.colour == RGB else "mono"
    pixels = kornia_rs.io.decode_image_png_u8(data, (header.height, header.width), kind)
    return pixels if header.colour == RGB else pixels[..., 0]


def decode_deep(data: bytes, header: Header) -> np.ndarray:
    """Pixels of a checked PNG of 16-bit grey (H, W) or RGB (H, W, 3), uint16; pillow keeps 8 bits of the latter."""
    kind = "rgb" if header.colour == RGB else "mono"
    pixels = kornia_rs.io.decode_image_png_u16(data, (header.height, header.width), kind)
    return pixels if header.colour == RGB else pixels[..., 0]
