"""What the fuzz tests draw: sizes and choices by hypothesis, numbers by torch from a drawn seed, and strides."""

import os
from typing import NamedTuple

import torch
from helpers import FLOOR
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("TMT_FUZZ_CASES", 500))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def profile(cases):
    """The same cases every time, however long each takes."""
    unhurried = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=cases, derandomize=True, database=None, deadline=None, suppress_health_check=unhurried)


def _plain(x):
    return x


def _transposed(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def _batch_last(x):
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def _expanded(x):
    return x[:1].contiguous().expand(x.shape)


def _with_offset(x):
    """Begins 3 elements into its storage: aligned to the element only."""
    return torch.cat([x.new_full((3,), torch.nan), x.flatten()])[3:].view(x.shape)


def _every_other(x):
    return torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]


def _inner(x):
    """The inner part of a larger tensor of NaN."""
    return torch.nn.functional.pad(x, (1, 2, 2, 1), value=torch.nan)[..., 2 : 2 + x.shape[-2], 1 : 1 + x.shape[-1]]


STRIDES = st.sampled_from([_plain, _transposed, _batch_last, _expanded, _with_offset, _every_other, _inner])


class Numbers(NamedTuple):
    """Draws tensors: normal numbers of a scale, in a dtype, with strides of a kind."""

    seed: int
    dtype: torch.dtype
    strides: object
    scale: float = 1.0

    def normal(self, *shape, stream=0, first=(), squash=False):
        """Another tensor per stream; `first` replaces its first elements; squash: in [0, 1]."""
        generator = torch.Generator().manual_seed(self.seed + stream)
        x = self.scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
        x = torch.sigmoid(x) if squash else x
        if x.numel() > len(first) > 0:
            x.view(-1)[: len(first)] = torch.tensor(first, dtype=x.dtype)
        return self.strides(x.to(self.dtype)) if x.numel() else x.to(self.dtype)

    def gradients(self, function, inputs, shake=0.0):
        """As helpers.gradients, but the inputs keep their strides; everything given is off by about `shake`, relative.

        -> [*floating-point outputs, *gradients]
        """
        inputs = [self.shaken(x.detach(), shake, i).requires_grad_() for i, x in enumerate(inputs)]
        outputs = function(*inputs)
        outputs = [y for y in (outputs if isinstance(outputs, tuple) else (outputs,)) if y.is_floating_point()]
        exact = self._replace(scale=1.0, dtype=torch.float64)
        weights = [self.shaken(exact.normal(*y.shape, stream=9).to(y.dtype), shake, 5) for y in outputs]
        return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, inputs, weights)]

    def shaken(self, x, shake, stream):
        return (
            x * (1 + shake * Numbers(self.seed, x.dtype, _plain).normal(*x.shape, stream=20 + stream)) if shake else x
        )

    def compare(self, kernel, oracle, inputs, names, magnitudes, plain_dtype=None):
        """Values and gradients of a kernel against the float64 oracle. The error may be some times that of plain
        PyTorch, plus what the inputs' last bits can change, plus rounding of `magnitudes`: 2-norms of what is summed
        up where almost all of it may cancel.
        """
        double, dtype = [x.double() for x in inputs], inputs[0].dtype
        right = self.gradients(oracle, double)
        plain = self.gradients(oracle, [x.to(plain_dtype or dtype) for x in inputs])
        shaken = self.gradients(oracle, double, torch.finfo(torch.promote_types(dtype, torch.float32)).eps)
        found = self.gradients(kernel, inputs)
        compared = zip(names, found, plain, shaken, right, magnitudes, strict=True)
        assert [x.dtype for x in found] == [dtype] * (len(names) - len(inputs)) + [x.dtype for x in inputs]
        for name, got, a, b, exact, magnitude in compared:
            assert got.shape == exact.shape, name
            error, *others = ((x.double() - exact).norm() for x in (got, a, b))
            rounding = torch.finfo(dtype).eps * magnitude + 2 * FLOOR[dtype] * exact.norm()
            assert error <= FACTOR * sum(others) + rounding, f"{name} {dtype}: error {error:.2e} of {exact.norm():.2e}"


FACTOR = 10


def numbers(dtypes=DTYPES, scales=(1.0, 1e-3, 30.0)):
    return st.builds(Numbers, st.integers(0, 10**6), st.sampled_from(dtypes), STRIDES, st.sampled_from(scales))
