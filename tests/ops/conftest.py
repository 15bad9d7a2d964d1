"""Tests marked `gpu` are skipped where there is no GPU or no CUDA kernel; with TMT_REQUIRE_GPU=1 they run and fail."""

import os

import pytest
import torch

import tmt_ext


def pytest_collection_modifyitems(items):
    if os.environ.get("TMT_REQUIRE_GPU") == "1" or (torch.cuda.is_available() and tmt_ext.build_info()["cuda_loaded"]):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU and the CUDA kernels"))
