"""Apple's GPUs, of which there is none here: operators are plain PyTorch there and say so once; training stays on the
CPU."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from tmt_ext import _plain

APPLE = SimpleNamespace(device=torch.device("mps"))


def test_operators_are_plain_there_and_say_so_once() -> None:
    _plain._tell_of_mps.cache_clear()
    with pytest.warns(UserWarning, match="no kernels for MPS"):
        assert _plain.is_plain(None, APPLE)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _plain.is_plain(APPLE)  # type: ignore[arg-type]
        assert not _plain.is_plain(torch.zeros(1), None) and not _plain.is_plain()


def test_training_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from tmt.runtime import distributed

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed._device_kind("auto") == "cpu"
    assert "no kernels for MPS" in capsys.readouterr().out
    assert distributed._device_kind("cpu") == "cpu" and not capsys.readouterr().out
