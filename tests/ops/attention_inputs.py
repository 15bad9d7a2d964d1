"""Inputs of the masked-attention tests, with every kind of row in them."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from tmt_ext import reference

RULES = ("uncertain", "foreground", "none")
FALLBACKS = ("all", "transfer")
CHOICES = list(itertools.product(RULES, FALLBACKS))


class Inputs(NamedTuple):
    query: Tensor  # (B, heads, N, D)
    key: Tensor  # (B, heads, S, D)
    value: Tensor  # (B, heads, S, D)
    mask_logits: Tensor  # (B, N, S)
    transferability: Tensor  # (B, S)

    @property
    def qkv(self):
        return self[:3]

    @property
    def mask(self):
        return {"mask_logits": self.mask_logits, "transferability": self.transferability}


def inputs(batch=2, heads=2, queries=7, keys=150, dim=32, dtype=torch.float64, *, seed=0, scale=1.0):
    """Random; rows n % 4 = 1 fail the mask test of either rule everywhere for NaN, so they fall back."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mask = normal(batch, queries, keys) * 2
    mask[:, 1::4] = torch.nan
    transferability = torch.rand(batch, keys, generator=g, dtype=torch.float64)
    qkv = [(scale * normal(batch, heads, rows, dim)).to(dtype) for rows in (queries, keys, keys)]
    return Inputs(*qkv, mask.float(), transferability.float())


def thresholds(transferability, fraction=0.7):
    """(B,): the threshold that lets `fraction` of the keys pass."""
    return torch.quantile(transferability.float(), fraction, dim=-1)


def oracle(data, **options):
    """The reference in float64, from inputs of any dtype."""

    def double(*qkv):
        return reference.masked_attention(*(x.double() for x in qkv), **data.mask, **options)

    return double
