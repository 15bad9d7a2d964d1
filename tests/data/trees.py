"""Small trees in the layouts of the real datasets, and PNG files written by nothing that the package reads with."""

import json
import struct
import zlib

import numpy as np
from PIL import Image

from tmt.data.labels import label_names


def png(pixels, depth, colour, palette=None):
    """The bytes of a PNG: `pixels` (H, W) or (H, W, 3) of 8 or 16 bits, colour type 0 grey, 2 RGB, 3 palette."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = pixels.astype(">u2" if depth == 16 else "u1").reshape(pixels.shape[0], -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, 0)
    middle = chunk(b"PLTE", palette) if palette else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + middle
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def put(path, content):
    """Writes a file of bytes, of text, or of pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    else:
        Image.fromarray(content).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def picture(seed=0, size=(20, 40)):
    """A smooth image, which JPEG keeps well."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([4 * x + seed, 6 * y, 2 * x + 3 * y], axis=-1).astype(np.uint8)


def every_id(count, size=(20, 40)):
    """A label that holds each of 0 .. count - 1."""
    return (np.arange(size[0] * size[1]) % count).reshape(size).astype(np.uint8)


def palette_label(ids, colours=256):
    """A palette file of as many colours, every entry its own."""
    palette = np.random.default_rng(1).permutation(256 * 3)[: colours * 3].astype(np.uint8)
    return png(ids, 8, 3, palette.tobytes())


def config(table, order=None):
    """Mapillary's config file of a release, with its labels in another order if asked."""
    names = label_names(table)
    labels = [{"readable": names[i], "name": names[i].lower()} for i in (order or range(len(names)))]
    return json.dumps({"labels": labels, "version": "x"})
