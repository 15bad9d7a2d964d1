"""Images of other kinds than 8-bit RGB: converted, and told of once for a folder."""

import warnings

import numpy as np
import pytest
from PIL import Image

from tests.data.trees import picture, png, put
from tmt.data import open_dataset
from tmt.data.check import check_dataset
from tmt.data.files import read_image, read_picture, tell_again
from tmt.errors import DataError

GREY = picture()[..., 0]
DEEP = np.linspace(0, 65535, 800).reshape(20, 40).round().astype(np.uint16)


@pytest.fixture(autouse=True)
def nothing_told():
    tell_again()


def converted(path, kind):
    """The image, with the one line that is said of its folder."""
    with pytest.warns(UserWarning, match=rf"^{path.parent}: {kind} images are converted to 8-bit RGB$") as told:
        image = read_image(path)
    assert len(told) == 1 and image.dtype == np.uint8 and image.shape == (20, 40, 3) and image.flags.c_contiguous
    return image


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_grey(tmp_path, ending):
    Image.fromarray(GREY).save(tmp_path / f"x.{ending}")
    np.testing.assert_array_equal(converted(tmp_path / f"x.{ending}", "grey"), np.stack([GREY] * 3, -1))


def test_black_and_white(tmp_path):
    Image.fromarray(GREY > 80).save(tmp_path / "x.png")
    image = converted(tmp_path / "x.png", "black and white")
    np.testing.assert_array_equal(image[..., 1], np.where(GREY > 80, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_left_out(tmp_path, mode):
    pixels = np.dstack([picture() if mode == "RGBA" else GREY, GREY])
    Image.fromarray(pixels, mode).save(tmp_path / "x.png")
    image = converted(tmp_path / "x.png", "with alpha" if mode == "RGBA" else "grey with alpha")
    np.testing.assert_array_equal(image, picture() if mode == "RGBA" else np.stack([GREY] * 3, -1))


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_palettes(tmp_path, ending):
    drawn = Image.fromarray(picture()).quantize(60)
    drawn.save(tmp_path / f"x.{ending}")
    np.testing.assert_array_equal(converted(tmp_path / f"x.{ending}", "palette"), np.array(drawn.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    expected = np.rint(DEEP / 257).astype(np.uint8)
    put(tmp_path / "grey/x.png", png(DEEP, 16, 0))
    np.testing.assert_array_equal(converted(tmp_path / "grey/x.png", "16-bit grey")[..., 2], expected)
    put(tmp_path / "rgb/x.png", png(np.stack([DEEP, DEEP[::-1], DEEP // 2], -1), 16, 2))
    image = converted(tmp_path / "rgb/x.png", "16-bit")
    np.testing.assert_array_equal(image[..., 0], expected)
    np.testing.assert_array_equal(image[..., 1], expected[::-1])
    assert image[..., 2].max() == 127 or image[..., 2].max() == 128
    (tmp_path / "tif").mkdir()
    Image.fromarray(DEEP).save(tmp_path / "tif/x.tif")
    np.testing.assert_array_equal(converted(tmp_path / "tif/x.tif", "16-bit grey")[..., 0], expected)


@pytest.mark.parametrize("mode", ["CMYK", "F", "I"])
def test_what_cannot_be_converted_is_named(tmp_path, mode):
    Image.fromarray(GREY).convert("RGB" if mode == "CMYK" else "L").convert(mode).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=rf"x.tif: image (mode must be RGB, got {mode}|must have 8 bits)"):
        read_picture(tmp_path / "x.tif")


def tree(root):
    put(root / "classes.csv", "id,name,train_id\n0,a,0\n1,b,1\n")
    for i in range(4):
        put(root / f"images/train/{i}.png", png(GREY, 8, 0))
        put(root / f"labels/train/{i}.png", png((GREY > 80).astype(np.uint8), 8, 0))
    return root


def test_a_folder_is_told_of_when_it_is_opened_and_never_again(tmp_path):
    with pytest.warns(UserWarning, match="images/train: grey images are converted") as told:
        dataset = open_dataset("folders", tree(tmp_path), "train")
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(sample.image.shape == (20, 40, 3) for sample in dataset)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_check_tells_it_in_one_line(tmp_path, workers):
    for _ in range(2):
        report = check_dataset("folders", tree(tmp_path), workers=workers, progress=False)
        assert not report.faults
        assert sum("grey images are converted" in line for line in report.warnings) == 1
