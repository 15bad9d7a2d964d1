"""Mapillary Vistas in its three layouts, with both mappings; ids are positions in the config file."""

import json

import numpy as np
import pytest

from tests.data.trees import config, every_id, palette_label, picture, png, put
from tmt.data import IGNORE, Mapillary, open_dataset
from tmt.data.labels import label_names, lookup_table
from tmt.errors import DataError

V12, V20 = "mapillary_v1.2", "mapillary_v2.0"
FOLDERS = {V12: "labels", V20: "v2.0/labels"}


def alone(root, table=V12, split="training"):
    """v1.2 as it once came: labels beside the images, config.json."""
    put(root / "config.json", config(table))
    put(root / split / "images" / "a b.jpg", picture())
    return put(root / split / "labels" / "a b.png", palette_label(every_id(len(label_names(table)))))


def together(root, split="training"):
    """v2.0 with v1.2 beside it."""
    put(root / split / "images" / "a b.jpg", picture())
    for table, version in ((V12, "v1.2"), (V20, "v2.0")):
        put(root / f"config_{version}.json", config(table))
        put(root / split / version / "labels" / "a b.png", palette_label(every_id(len(label_names(table)))))


@pytest.mark.parametrize("mapping", ["strict", "broad"])
def test_v12_alone(tmp_path, mapping):
    alone(tmp_path)
    dataset = open_dataset("mapillary", tmp_path, "train", mapping=mapping)
    np.testing.assert_array_equal(dataset[0].label, lookup_table(V12, mapping)[every_id(66)])
    assert dataset.names == ["a b"] and len(dataset.label_set) == 19


@pytest.mark.parametrize("mapping", ["strict", "broad"])
@pytest.mark.parametrize(("version", "table", "count"), [("v1.2", V12, 66), ("v2.0", V20, 124), (None, V20, 124)])
def test_both_releases_in_one_root(tmp_path, mapping, version, table, count):
    together(tmp_path, "validation")
    dataset = open_dataset("mapillary", tmp_path, "val", mapping=mapping, version=version)
    np.testing.assert_array_equal(dataset[0].label, lookup_table(table, mapping)[every_id(count)])


def test_strict_is_the_default_and_differs_from_broad(tmp_path):
    alone(tmp_path)
    strict, broad = Mapillary(tmp_path)[0].label, Mapillary(tmp_path, mapping="broad")[0].label
    assert (strict == IGNORE).sum() > (broad == IGNORE).sum()
    np.testing.assert_array_equal(strict, lookup_table(V12, "strict")[every_id(66)])


def test_a_config_in_another_order_is_refused(tmp_path):
    alone(tmp_path)
    path = put(tmp_path / "config.json", config(V12, [1, 0, *range(2, 66)]))
    with pytest.raises(DataError, match=rf"{path}: label 0 must be 'Bird', got 'Ground Animal'; .*another order"):
        Mapillary(tmp_path)


@pytest.mark.parametrize("order", [range(65), [*range(66), 0]])
def test_a_config_with_fewer_or_more_labels_is_refused(tmp_path, order):
    alone(tmp_path)
    put(tmp_path / "config.json", config(V12, order))
    with pytest.raises(DataError, match=rf"labels must be the 66 of mapillary_v1.2, got {len(order)}"):
        Mapillary(tmp_path)


def test_the_config_of_the_other_release_is_refused(tmp_path):
    alone(tmp_path)
    put(tmp_path / "config.json", config(V20))
    with pytest.raises(DataError, match="label 2 must be 'Curb', got 'Ambiguous Barrier'"):
        Mapillary(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"labels": 3}', '{"labels": [{}]}', "\x00"])
def test_a_damaged_config_is_refused(tmp_path, text):
    alone(tmp_path)
    put(tmp_path / "config.json", text)
    with pytest.raises(DataError, match="config.json: must be Mapillary's JSON"):
        Mapillary(tmp_path)


def test_a_missing_config_mapping_or_version_is_named(tmp_path):
    path = alone(tmp_path)
    with pytest.raises(DataError, match="must hold config_v2.0.json, got"):
        Mapillary(tmp_path, version="v2.0")
    with pytest.raises(DataError, match="version must be v1.2 or v2.0, got 'v3'"):
        Mapillary(tmp_path, version="v3")
    with pytest.raises(DataError, match="mapping must be one of strict, broad, got 'loose'"):
        Mapillary(tmp_path, mapping="loose")
    (tmp_path / "config.json").unlink()
    with pytest.raises(DataError, match="must hold config_v2.0.json or .* or config.json, got none of them"):
        Mapillary(tmp_path)
    assert path.is_file()


def test_ids_past_the_table_and_instance_files_are_named(tmp_path):
    path = alone(tmp_path)
    put(path, palette_label(every_id(67)))
    with pytest.raises(DataError, match=rf"{path}: label ids must be in the table, got 66 .*ends at 65"):
        Mapillary(tmp_path)[0]
    put(path, png(np.full((20, 40), 13 * 256), 16, 0))
    with pytest.raises(
        DataError, match=rf"{path}: label must hold class ids of 8 bits, got 16 .*as instance files.*`labels` folder"
    ):
        Mapillary(tmp_path)[0]
    put(path, picture())
    with pytest.raises(DataError, match="image mode must be P or L, got RGB; use the `labels` folder"):
        Mapillary(tmp_path)[0]


def coloured(table):
    """The config file of a release with a colour for each label, and those colours."""
    count = len(label_names(table))
    colours = np.random.default_rng(count).integers(0, 256, (count, 3))
    content = json.loads(config(table))
    for label, colour in zip(content["labels"], colours.tolist(), strict=True):
        label["color"] = colour
    return json.dumps(content), colours.astype(np.uint8)


def other(table):
    return V20 if table == V12 else V12


@pytest.mark.parametrize("table", [V12, V20])
@pytest.mark.parametrize("length", [None, 256], ids=["as many as labels", "padded"])
def test_labels_of_the_other_release_show_by_their_palette(tmp_path, table, length):
    text, own = coloured(table)
    foreign = coloured(other(table))[1]
    version = table.removeprefix("mapillary_")
    put(tmp_path / f"config_{version}.json", text)
    put(tmp_path / "training/images/a.jpg", picture())
    path = tmp_path / "training" / version / "labels/a.png"

    def label(colours):
        content = np.zeros((length or len(colours), 3), np.uint8)
        content[: len(colours)] = colours
        return put(path, png(every_id(60), 8, 3, content.tobytes()))

    label(foreign)
    with pytest.raises(DataError, match=rf"{path}: palette must be that of {table}, got \d+ of .* colours alike"):
        Mapillary(tmp_path)[0]
    label(own)
    np.testing.assert_array_equal(Mapillary(tmp_path)[0].label, lookup_table(table, "strict")[every_id(60)])
    own[::5] = 7  # a tool changed some colours
    label(own)
    assert Mapillary(tmp_path)[0].label.shape == (20, 40)


def test_a_palette_that_nobody_chose_tells_no_release(tmp_path):
    path = alone(tmp_path)
    put(tmp_path / "config.json", coloured(V12)[0])
    put(path, png(every_id(66), 8, 3, np.arange(256, dtype=np.uint8).repeat(3).tobytes()))
    np.testing.assert_array_equal(Mapillary(tmp_path)[0].label, lookup_table(V12, "strict")[every_id(66)])


def test_a_greyscale_label_has_no_palette_to_be_judged_by(tmp_path):
    path = alone(tmp_path)
    put(tmp_path / "config.json", coloured(V12)[0])
    put(path, png(every_id(66), 8, 0))
    np.testing.assert_array_equal(Mapillary(tmp_path)[0].label, lookup_table(V12, "strict")[every_id(66)])


def test_an_image_without_label_is_refused(tmp_path):
    alone(tmp_path).unlink()
    with pytest.raises(DataError, match="labels/a b.png: file must exist"):
        Mapillary(tmp_path)
