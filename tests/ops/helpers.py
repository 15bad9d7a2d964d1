"""Measures shared by the operators' tests."""

import os
import subprocess
import sys

import torch

import tmt_ext

# Errors below this are rounding noise of one dtype step, where the reference may happen to be exact.
FLOOR = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def relative_error(actual, expected):
    """|actual - expected| / |expected| in float64, 2-norms over all elements; 0 for two empty or zero tensors."""
    difference = (actual.detach().double() - expected.detach().double()).norm()
    return (difference / expected.detach().double().norm().clamp_min(1e-300)).item() if difference != 0 else 0.0


def assert_close(actual, oracle, limit=1e-5, what="result"):
    """`actual` differs from the float64 `oracle` by at most `limit`, relative; shapes equal, no NaN."""
    assert actual.shape == oracle.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    error = relative_error(actual, oracle)
    assert error <= limit, f"{what}: relative error {error:.2e} is above {limit:.0e}"


def assert_twice(actual, reference, oracle, what="result"):
    """The rule for lower precision: error <= 2 x the error of plain PyTorch at that dtype, both against the oracle."""
    allowed = 2 * relative_error(reference, oracle) + FLOOR[actual.dtype]
    error = relative_error(actual, oracle)
    assert error <= allowed, f"{what} {actual.dtype}: relative error {error:.2e} is above {allowed:.2e}"


def gradients(function, inputs, *, seed=0):
    """Floating-point outputs of `function(*inputs)`, and the gradients of a fixed random projection of them."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    outputs = [y for y in outputs if y.is_floating_point()]
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in outputs]
    return outputs, torch.autograd.grad(outputs, inputs, weights)


def run_at_level(level, script, *arguments):
    """Runs a Python script with the CPU kernels of a SIMD level; False where the build or the processor has none."""
    if level not in tmt_ext.build_info()["simd_levels"]:
        return False
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "TMT_SIMD": level, "PYTHONPATH": path}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "supported by this processor" in run.stderr:
        return False
    assert run.returncode == 0, run.stderr
    return True
