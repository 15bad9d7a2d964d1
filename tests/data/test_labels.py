"""The label tables against the official ones."""

import csv
from functools import partial

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official

from tests.data.trees import png, put
from tmt.data import CLASSES, IGNORE, PALETTE, colourise, lookup_table
from tmt.data.labels import TABLES, known_ids
from tmt.data.readers import cityscapes, gtav, mapillary, synthia
from tmt.errors import DataError

TRAINED = {label.trainId: label for label in official if 0 <= label.trainId < 19}


def test_classes_and_colours_are_the_official_ones():
    assert list(CLASSES) == [TRAINED[i].name for i in range(19)]
    assert PALETTE.tolist() == [list(TRAINED[i].color) for i in range(19)]


@pytest.mark.parametrize("dataset", ["cityscapes", "gtav"])
def test_tables_map_every_id_as_the_official_scripts_do(dataset):
    table = lookup_table(dataset)
    for label in official:
        if label.id >= 0:
            expected = label.trainId if 0 <= label.trainId < 19 else IGNORE
            assert table[label.id] == expected, label.name
            assert known_ids(dataset)[label.id]
    assert table.dtype == np.uint8 and (table[35:] == IGNORE).all()


READERS = {
    ("cityscapes", "train_id"): cityscapes.read_label,
    ("gtav", "train_id"): gtav.read_label,
    ("synthia", "train_id"): synthia.read_label,
} | {
    (f"mapillary_{version}", mapping): partial(mapillary.read_label, table=f"mapillary_{version}", mapping=mapping)
    for version in ("v1.2", "v2.0")
    for mapping in ("strict", "broad")
}


@pytest.mark.parametrize(("table", "column"), READERS)
def test_readers_map_every_id_of_every_table(tmp_path, table, column):
    with (TABLES / f"{table}.csv").open(newline="") as file:
        rows = [(int(row["id"]), int(row[column])) for row in csv.DictReader(file)]
    ids, expected = (np.array(values, dtype=np.uint8)[None] for values in zip(*rows, strict=True))
    deep = np.stack([ids.astype(np.uint16), ids * 7, ids * 0], axis=-1)
    path = put(tmp_path / "x_labelIds.png", png(deep, 16, 2) if table == "synthia" else png(ids, 8, 0))
    np.testing.assert_array_equal(READERS[table, column](path), expected)
    assert len(rows) == len(set(ids[0])) == {"cityscapes": 34, "gtav": 35, "synthia": 23}.get(table, len(rows))
    assert set(expected[0].tolist()) <= {*range(19), IGNORE} and (expected != IGNORE).sum() >= 16


def test_every_table_is_read_by_a_reader():
    others = {"camvid11", "camvid32", "idd", "idd_lite", "labelmefacade"}  # of other classes, tested with their readers
    assert {table for table, _ in READERS} | others == {path.stem for path in TABLES.glob("*.csv")}


def test_known_ids_end_where_the_tables_end():
    assert np.flatnonzero(known_ids("cityscapes")).tolist() == list(range(34))
    assert np.flatnonzero(known_ids("gtav")).tolist() == list(range(35))  # 34: licence plate


def test_mapillary_tables_have_two_mappings():
    strict, broad = lookup_table("mapillary_v1.2", "strict"), lookup_table("mapillary_v1.2", "broad")
    assert strict[7] == IGNORE and broad[7] == CLASSES.index("road")  # bike lane
    assert strict[13] == broad[13] == CLASSES.index("road")


def test_unknown_tables_and_columns_are_refused():
    with pytest.raises(DataError, match="dataset must be one of"):
        lookup_table("kitti")
    with pytest.raises(DataError, match="column must be one of"):
        lookup_table("gtav", "strict")


def test_colourise_paints_ignore_black():
    label = np.array([[0, 18], [IGNORE, 10]], dtype=np.uint8)
    assert colourise(label).tolist() == [[[128, 64, 128], [119, 11, 32]], [[0, 0, 0], [70, 130, 180]]]
