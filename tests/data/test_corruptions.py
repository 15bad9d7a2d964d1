"""Two hundred ways to spoil a dataset: each ends in one line that names the file, or in a warning that does, or in the
very labels that were there. Never in another exception, never in other labels without a word."""

import io
import random
import shutil
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.trees import png, put
from tmt.data import CLASSES, IGNORE, open_dataset
from tmt.errors import DataError

CASES = 204
DATASETS = ("cityscapes", "bdd100k", "mapillary", "gtav", "synthia", "folders")
SIZE = (32, 64)
SIDE_FILES = {
    "cityscapes": (), "bdd100k": (), "mapillary": ("config.json",), "gtav": ("split.mat",),
    "synthia": ("train.txt", "val.txt"), "folders": ("classes.csv",),
}  # fmt: skip


@pytest.fixture(scope="module")
def trees(made, tmp_path_factory):
    """A whole tree of each dataset, and the labels that it holds."""
    own = tmp_path_factory.mktemp("own") / "folders"
    rows = [f"{i},{name},{i}" for i, name in enumerate(CLASSES)]
    put(own / "classes.csv", "\n".join(["id,name,train_id", *rows, f"{IGNORE},nothing,"]))
    for sample in open_dataset("bdd100k", made["bdd100k"], "train"):
        put(own / "images/train" / f"{sample.name}.jpg", sample.image)
        put(own / "labels/train" / f"{sample.name}.png", sample.label)
    roots = dict(made) | {"folders": own}
    return {name: (root, [s.label for s in open_dataset(name, root, "train")]) for name, root in roots.items()}


# Each takes a generator, an image or label path and the kind of file, "image" or "label".


def truncated(rng, path, kind):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(1, len(content) - 12)])


def emptied(rng, path, kind):
    path.write_bytes(b"")


def random_bytes(rng, path, kind):
    path.write_bytes(
        rng.choice((b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0")) + rng.randbytes(rng.randrange(1, 400))
    )


def flipped(rng, path, kind):
    content = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 6)):
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)


def other_mode(rng, path, kind):
    modes = ("L", "RGBA", "P", "1", "LA", "CMYK") if kind == "image" else ("RGB", "RGBA", "LA", "1", "F")
    mode = rng.choice(modes)
    form = "TIFF" if mode in ("CMYK", "F") else "PNG"
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).convert(mode).save(path, format=form)


def alpha(rng, path, kind):
    Image.fromarray(np.full((*SIZE, 4), 3, np.uint8)).save(path, format="PNG")


def sixteen_bits(rng, path, kind):
    path.write_bytes(png(np.full(SIZE, 700, np.uint16), 16, 0) if kind == "label" else png(np.zeros((*SIZE, 3)), 16, 2))


def four_bits(rng, path, kind):
    packed = png(np.zeros((SIZE[0], SIZE[1] // 2), np.uint8), 8, 0)
    header = bytearray(packed[12:29])
    header[4:8], header[12] = SIZE[1].to_bytes(4, "big"), 4
    path.write_bytes(packed[:12] + bytes(header) + zlib.crc32(header).to_bytes(4, "big") + packed[33:])


def other_size(rng, path, kind):
    size = rng.choice(((31, 64), (32, 63), (64, 32), (1, 1), (64, 128)))
    if kind == "image":
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    elif path.parent.name == "LABELS":
        path.write_bytes(png(np.zeros((*size, 3)), 16, 2))
    else:
        path.write_bytes(png(np.full(size, 7, np.uint8), 8, 0))


def rotated(rng, path, kind):
    exif = Image.Exif()
    exif[0x0112] = rng.randrange(2, 9)
    with Image.open(path) as file:
        picture = file.copy()
    if rng.random() < 0.5 and exif[0x0112] >= 5:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    picture.save(path, exif=exif)


def out_of_range(rng, path, kind):
    bad = rng.choice((67, 100, 254))
    if path.parent.name == "LABELS":
        path.write_bytes(png(np.full((*SIZE, 3), rng.choice((bad, 700))), 16, 2))
    else:
        path.write_bytes(png(np.full(SIZE, bad, np.uint8), 8, 0))


def lossy(rng, path, kind):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(path, format=rng.choice(("JPEG", "BMP", "GIF")))


def linked_to_itself(rng, path, kind):
    path.unlink()
    path.symlink_to(path)


def linked_to_nothing(rng, path, kind):
    path.unlink()
    path.symlink_to(path.with_name("gone.png"))


def a_folder(rng, path, kind):
    path.unlink()
    path.mkdir()


def removed(rng, path, kind):
    path.unlink()


BREAKS = {  # which of the two files they break for sure, so that silence would be a defect
    truncated: ("image", "label"), emptied: ("image", "label"), random_bytes: ("image", "label"), flipped: (),
    other_mode: ("image", "label"), alpha: ("image", "label"), sixteen_bits: ("image", "label"),
    four_bits: ("image", "label"), other_size: ("image", "label"), rotated: ("image",), out_of_range: ("label",),
    lossy: ("label",), linked_to_itself: ("image", "label"), linked_to_nothing: ("image", "label"),
    a_folder: ("label",), removed: (),
}  # fmt: skip


def renamed(rng, dataset):
    """Gives an image and its label a name with spaces and non-ASCII letters."""
    index, name = rng.randrange(len(dataset)), rng.choice(("a b", "Straße 日本", " lead", "café\u0301", "per%cent'"))
    for path in (dataset.images[index], dataset.labels[index]):
        path.rename(path.with_name(path.name.replace(dataset.names[index].split("/")[-1], name)))
    return dataset.images[index]


def looped(rng, dataset):
    """Puts a link among the images that leads back to their folder."""
    link = dataset.images[0].parent / "loop"
    link.symlink_to(link.parent if rng.random() < 0.5 else link)
    return link


def side_file(rng, name, root):
    """Spoils what goes with the files."""
    path = root / rng.choice(SIDE_FILES[name])
    change = rng.choice((truncated, emptied, random_bytes, removed, a_folder, linked_to_itself))
    content = path.read_bytes()
    change(rng, path, "label")
    return path, content


def spoil(rng, name, root):
    """Spoils one thing; returns what, the file, and whether silence would be wrong."""
    dataset, choice = open_dataset(name, root, "train"), rng.random()
    if choice < 0.06:
        return "renamed", renamed(rng, dataset), False
    if choice < 0.1:
        return "looped", looped(rng, dataset), False
    if choice < 0.18 and SIDE_FILES[name]:
        return "side file", side_file(rng, name, root)[0], False
    kind = rng.choice(("image", "label"))
    change = rng.choice(list(BREAKS))
    path = rng.choice(dataset.images if kind == "image" else dataset.labels)
    change(rng, path, kind)
    # JPEG files have no checksums: a flipped byte shows in the picture, at most.
    return f"{kind} {change.__name__}", path, kind in BREAKS[change]


@pytest.mark.parametrize("case", range(CASES))
def test_a_spoilt_dataset_says_so_in_one_line(trees, tmp_path, case):
    rng, name = random.Random(case), DATASETS[case % len(DATASETS)]
    whole, truth = trees[name]
    root = shutil.copytree(whole, tmp_path / "tree")
    what, path, must_tell = spoil(rng, name, root)
    told = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            samples = list(open_dataset(name, root, "train"))
        except DataError as error:
            told.append(str(error))
            samples = []
    told += [str(warning.message) for warning in caught]
    assert told or not must_tell, what
    for text in told:
        assert "\n" not in text and len(text) < 600, text
        stem = path.stem.removesuffix("_gtFine_labelIds").removesuffix("_leftImg8bit")  # of the image and of its label
        of_folder = "images are converted to 8-bit RGB" in text
        assert stem in text or of_folder or what in ("side file", "renamed"), (what, text)
        assert str(root) in text, text
    if samples and not told:
        found = {sample.label.tobytes() for sample in samples}
        assert found <= {label.tobytes() for label in truth}, what


def test_every_kind_of_corruption_occurs(trees, tmp_path):
    seen = set()
    for case in range(CASES):
        rng, name = random.Random(case), DATASETS[case % len(DATASETS)]
        root = shutil.copytree(trees[name][0], tmp_path / str(case))
        seen.add(spoil(rng, name, root)[0].split(" ")[-1])
        shutil.rmtree(root)
    assert seen >= {change.__name__ for change in BREAKS} | {"renamed", "looped", "file"}


def test_a_damaged_label_that_decodes_is_refused(trees, tmp_path):
    """Decoders skip the checksum of pixel data; here the data are whole, only the ids are others."""
    root = shutil.copytree(trees["gtav"][0], tmp_path / "tree")
    path = root / "labels" / "00001.png"
    with Image.open(path) as file:
        ids = np.array(file)
    content = path.read_bytes()
    buffer = io.BytesIO()
    other = Image.fromarray(np.where(ids == 7, 8, ids).astype(np.uint8))
    other.putpalette(bytes(105))
    other.save(buffer, format="PNG", compress_level=3)
    start, theirs = content.index(b"IDAT"), buffer.getvalue()
    begin = theirs.index(b"IDAT")
    length = int.from_bytes(theirs[begin - 4 : begin], "big")
    crc = content[start + 4 + int.from_bytes(content[start - 4 : start], "big") :][:4]
    tail = content[start + 8 + int.from_bytes(content[start - 4 : start], "big") :]
    path.write_bytes(content[: start - 4] + theirs[begin - 4 : begin + 4 + length] + crc + tail)
    with Image.open(path) as file:
        assert (np.array(file) != ids).any()  # pillow alone gives other ids
    with pytest.raises(DataError, match=rf"{path}: must be a complete image file, got a wrong checksum in b'IDAT'"):
        open_dataset("gtav", root, "train")[0]
