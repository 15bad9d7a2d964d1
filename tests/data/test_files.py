"""Decoding: the quick way gives pillow's pixels, EXIF orientations are never guessed, every damage is named."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from tests.data.trees import palette_label, picture, png, put
from tmt.data.files import decode, read_image, read_pair, read_picture, read_pixels, turned
from tmt.data.png import check_png
from tmt.errors import DataError

ORIENTATION = 0x0112
NOISE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def ids(path):
    return read_pixels(path, ("L", "P"), "mend it")


@pytest.mark.parametrize("pixels", [NOISE, NOISE[..., 0]], ids=["RGB", "grey"])
@pytest.mark.parametrize("writer", ["by hand", "pillow", "optimised", "with text", "with gamma"])
def test_png_files_decode_as_by_pillow(tmp_path, pixels, writer):
    path, options = tmp_path / "x.png", {}
    if writer == "by hand":
        put(path, png(pixels, 8, 2 if pixels.ndim == 3 else 0))
    else:
        if writer == "with text":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_text("Comment", "hello")
        Image.fromarray(pixels).save(path, optimize=writer == "optimised", **options)
    if writer == "with gamma":
        content, gamma = path.read_bytes(), b"gAMA" + (20000).to_bytes(4, "big")
        chunk = (4).to_bytes(4, "big") + gamma + zlib.crc32(gamma).to_bytes(4, "big")
        path.write_bytes(content[:33] + chunk + content[33:])
    found = decode(path.read_bytes(), path)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert check_png(path.read_bytes(), path).plain == (writer != "with text")


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_palettes_of_few_colours_give_indices(tmp_path, depth):
    """Files of 1, 2 or 4 bits hold several indices a byte, as tools write them that save space."""
    index = np.random.default_rng(1).integers(0, 2**depth, (8, 16), dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(list(range(3 * 2**depth)))
    image.save(tmp_path / "x.png", bits=depth)
    assert check_png((tmp_path / "x.png").read_bytes(), tmp_path).depth == depth
    np.testing.assert_array_equal(ids(tmp_path / "x.png"), index)


def test_palettes_of_many_colours_give_indices_even_where_colours_collide(tmp_path):
    index = np.arange(240, dtype=np.uint8).reshape(12, 20)
    path = put(tmp_path / "x.png", palette_label(index))
    np.testing.assert_array_equal(ids(path), index)
    put(path, png(index, 8, 3, bytes(720)))  # all entries black
    np.testing.assert_array_equal(ids(path), index)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, orientation):
    path = tmp_path / "x.png"
    Image.fromarray(NOISE).save(path, exif=exif(orientation))
    with Image.open(path) as file:
        expected = np.array(ImageOps.exif_transpose(file))
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(turned(NOISE, orientation), expected)
    assert read_picture(path).orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_senseless_orientations_are_none(tmp_path, orientation):
    Image.fromarray(NOISE).save(tmp_path / "x.jpg", exif=exif(orientation))
    assert read_picture(tmp_path / "x.jpg").orientation == 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("way", ["as stored", "turned"])
def test_a_label_says_by_its_size_whether_a_picture_was_turned(tmp_path, orientation, way):
    image, label = tmp_path / "x.jpg", tmp_path / "x.png"
    Image.fromarray(picture()).save(image, exif=exif(orientation), quality=95)
    size = (20, 40) if way == "as stored" else (40, 20)
    put(label, png(np.zeros(size, np.uint8), 8, 0))
    with pytest.warns(UserWarning, match=rf"{image}: EXIF orientation {orientation}; taken {way}"):
        sample = read_pair(image, label, "x", ids)
    stored = read_picture(image).pixels
    np.testing.assert_array_equal(sample.image, stored if way == "as stored" else turned(stored, orientation))


@pytest.mark.parametrize(
    ("orientation", "size"), [(2, (20, 40)), (3, (20, 40)), (4, (20, 40)), (6, (30, 30)), (6, (9, 9))]
)
def test_an_orientation_that_leaves_both_ways_open_is_refused(tmp_path, orientation, size):
    image, label = tmp_path / "x.jpg", tmp_path / "x.png"
    Image.fromarray(picture(size=(30, 30) if size == (30, 30) else (20, 40))).save(image, exif=exif(orientation))
    put(label, png(np.zeros(size, np.uint8), 8, 0))
    with pytest.raises(DataError, match=rf"{image}: image must be stored upright, got EXIF orientation {orientation}"):
        read_pair(image, label, "x", ids)


def test_upright_pictures_say_nothing(tmp_path):
    put(tmp_path / "x.jpg", picture())
    put(tmp_path / "x.png", png(np.zeros((20, 40), np.uint8), 8, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pair(tmp_path / "x.jpg", tmp_path / "x.png", "x", ids)


@pytest.mark.parametrize("colour", [0, 3])
def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, colour):
    header = b"IHDR" + (40_000).to_bytes(4, "big") * 2 + bytes((8, colour, 0, 0, 0))
    whole = palette_label(np.zeros((2, 2), np.uint8)) if colour else png(np.zeros((2, 2), np.uint8), 8, 0)
    path = put(tmp_path / "x.png", whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:])
    with pytest.raises(DataError, match=rf"{path}: must be a complete image file, got .*exceeds limit"):
        ids(path)


@pytest.mark.parametrize("ending", ["bmp", "tif", "TIFF", "webp"])
def test_pictures_of_other_formats_are_read(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    Image.fromarray(NOISE).save(path, **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_image(path), NOISE)


@pytest.mark.parametrize("ending", ["png", "gif", "tif", "webp"])
def test_one_of_several_pictures_is_not_chosen(tmp_path, ending):
    path, first = tmp_path / f"x.{ending}", Image.fromarray(NOISE)
    first.save(path, save_all=True, append_images=[first.transpose(Image.Transpose.ROTATE_180)])
    with pytest.raises(DataError, match=rf"{path}: must hold one picture, got 2"):
        read_image(path)


def test_the_photograph_of_a_camera_with_its_previews_is_read(tmp_path):
    path, first = tmp_path / "x.jpg", Image.fromarray(picture())
    first.save(path, format="MPO", save_all=True, append_images=[first.resize((8, 8))])
    assert read_image(path).shape == (20, 40, 3)


def test_what_a_tiff_would_lose_is_named(tmp_path):
    path = tmp_path / "x.tif"
    path.write_bytes(deep_tiff())
    with Image.open(path) as file:
        assert file.mode == "RGB"  # pillow drops half of the bits
    with pytest.raises(DataError, match=rf"{path}: image must have 8 bits a channel, got 16"):
        read_image(path)
    Image.fromarray(NOISE).save(path, exif=exif(6))
    with pytest.raises(DataError, match=rf"{path}: TIFF must be stored upright, got orientation 6"):
        read_image(path)


def deep_tiff():
    """A TIFF of one pixel of three channels of 16 bits."""
    bits, pixel = 8 + 2 + 8 * 12 + 4, 8 + 2 + 8 * 12 + 4 + 6
    tags = (
        (256, 1, 1),
        (257, 1, 1),
        (258, 3, bits),
        (259, 1, 1),
        (262, 1, 2),
        (273, 1, pixel),
        (277, 1, 3),
        (279, 1, 6),
    )
    entries = b"".join(struct.pack("<HHII", tag, 3 if count == 3 else 4, count, value) for tag, count, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + struct.pack("<6H", 16, 16, 16, 999, 0, 7)


def test_a_label_of_sixteen_bits_is_called_an_instance_file(tmp_path):
    path = put(tmp_path / "x.png", png(np.full((2, 2), 26001), 16, 0))
    with pytest.raises(DataError, match=rf"{path}: label must hold class ids of 8 bits, got 16 .*instance.*mend it"):
        ids(path)
