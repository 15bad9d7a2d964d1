"""A dataset as its layout, folder and options."""

import pytest

from tmt.data.spec import DatasetSpec
from tmt.errors import DataError


def test_it_opens_what_it_names(made) -> None:
    assert len(DatasetSpec("gtav", made["gtav"]).open("val")) == len(
        DatasetSpec("gtav", made["gtav"]).list("val").images
    )


def test_a_name_that_is_none_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="dataset must be one of"):
        DatasetSpec("kitti", tmp_path).open("val")
