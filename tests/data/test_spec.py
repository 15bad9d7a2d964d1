"""How a command line names a dataset."""

import pytest

from tmt.data.spec import DatasetSpec
from tmt.errors import DataError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("gtav=/data/a=b", DatasetSpec("gtav", "/data/a=b")),
        ("mapillary=x", DatasetSpec("mapillary", "x")),
        ("mapillary:broad=x", DatasetSpec("mapillary", "x", "broad")),
        ("mapillary:broad:v1.2=x", DatasetSpec("mapillary", "x", "broad", "v1.2")),
        ("mapillary:strict:=x", DatasetSpec("mapillary", "x")),
    ],
)
def test_it_is_read_and_written(text: str, spec: DatasetSpec) -> None:
    assert DatasetSpec.parse(text) == spec == DatasetSpec.parse(str(spec))


@pytest.mark.parametrize("text", ["gtav", "=x", "gtav=", "mapillary:broad:v1.2:more=x"])
def test_a_mistake_is_named(text: str) -> None:
    with pytest.raises(DataError, match=f"must be NAME=FOLDER or mapillary:MAPPING:VERSION=FOLDER, got {text}"):
        DatasetSpec.parse(text)


def test_it_opens_what_it_names(tmp_path) -> None:
    with pytest.raises(DataError, match="dataset must be one of"):
        DatasetSpec("kitti", tmp_path).open("val")
