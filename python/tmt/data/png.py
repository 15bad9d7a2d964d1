"""The parts of a PNG file that image libraries do not tell or check: bits per channel, and every chunk's checksum."""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from tmt.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2  # colour types


class Header(NamedTuple):
    """What the file says of itself."""

    width: int
    height: int
    depth: int  # bits per channel, or per index
    colour: int  # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha


def is_png(data: bytes) -> bool:
    """Whether a file's content claims to be a PNG."""
    return data.startswith(SIGNATURE)


def read_header(data: bytes) -> Header:
    """The header of a file that `check_png` found whole."""
    return Header(*struct.unpack_from(">IIBB", data, len(SIGNATURE) + 8))


def check_png(data: bytes, path: Path) -> Header:
    """The header of a PNG file whose chunks are all there and undamaged.

    Decoders skip the checksums of pixel data, and a damaged label can decode into wrong ids without any error. Raises
    DataError, naming `path`, for a truncated or damaged file.
    """
    place, first = len(SIGNATURE), data[len(SIGNATURE) + 4 : len(SIGNATURE) + 8]
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
        if kind == b"IEND" and first == b"IHDR":
            return read_header(data)
        place = end
    raise DataError(f"{path}: must be a complete image file, got a truncated PNG; copy or make it again")
