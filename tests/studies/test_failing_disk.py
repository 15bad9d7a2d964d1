"""A disk that refuses to be read or written costs a study's job no more than an attempt."""

import errno
import io
import os
from pathlib import Path

import pytest

from tests.studies import small
from tests.studies.test_scheduler import TMT, begin, order
from tmt.cli.study import listing


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOSPC])
def test_what_a_failing_disk_leaves_is_kept(tmp_path: Path, number: int) -> None:
    """tmt.train names what the system refused; the next attempt finds its folder as it was."""
    study = begin(tmp_path)
    order(study, **{TMT: [f"refused {number}"]})
    assert small.run(study, retries=0) == 1
    (line,) = [line for line in listing(study).splitlines() if line.startswith(f"failed: {TMT}")]
    assert os.strerror(number) in line and "checkpoint.pt" in line
    assert (study.job_folder(TMT) / "half").read_text() == "done so far"
    assert small.run(study) == 0 and (study.job_folder(TMT) / "half").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_settings_that_cannot_be_read_now_cost_no_folder(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's config.yaml that the system refuses to read says nothing about what an earlier attempt left."""
    study = begin(tmp_path)
    order(study, **{TMT: [f"refused {number}"]})
    assert small.run(study, retries=0) == 1
    folder, opened = study.job_folder(TMT), io.open

    def refuse(path: object, *args: object, **options: object) -> object:
        if str(path) == str(folder / "config.yaml"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *args, **options)

    with monkeypatch.context() as disk:
        disk.setattr(io, "open", refuse)
        disk.setattr("builtins.open", refuse)
        assert small.run(study, retries=0) == 1
    (line,) = [line for line in listing(study).splitlines() if line.startswith(f"failed: {TMT}")]
    assert f"config.yaml: {os.strerror(number)}" in line and (folder / "half").exists()
    assert small.run(study) == 0 and (folder / "half").read_text() == "done so far"
