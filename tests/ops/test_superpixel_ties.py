"""Labels where regions are alike but for rounding: the same on every path, whatever the dtype."""

import kernel_checks
import pytest
import torch
from helpers import run_at_level
from superpixel_cases import KAPPA, features, oracle, own_cells, piecewise_constant, tied_features

import tmt_ext
from tmt_ext._reference_superpixel import OWN_FIRST, TIE, nearest_neighbours

CPU = torch.device("cpu")


@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_ties_at_every_simd_level(level):
    script = "import kernel_checks, torch; kernel_checks.check_superpixel_ties(torch.ops.tmt, torch.device('cpu'))"
    if not run_at_level(level, script):
        pytest.skip(f"no {level} here")


@pytest.mark.parametrize("kappa", [KAPPA, 200.0])
@pytest.mark.parametrize("dtype", [torch.float64, *kernel_checks.DTYPES])
def test_reference_in_every_dtype(dtype, kappa):
    for name, x in tied_features().items():
        labels = oracle(x.to(dtype), 4, kappa=kappa).labels
        assert torch.equal(labels[0], own_cells(*x.shape[2:], 4)), name
    plain = tmt_ext.reference.superpixel(piecewise_constant().float(), 4, kappa=kappa).labels
    assert torch.equal(plain, oracle(piecewise_constant(), 4, kappa=kappa).labels)


def test_float64_operator_equals_the_oracle():
    for x in (*tied_features().values(), piecewise_constant()):
        assert torch.equal(tmt_ext.superpixel(x, 4).labels, oracle(x, 4).labels)


def test_pieces_keep_to_their_own_regions():
    x = piecewise_constant()
    labels, own = tmt_ext.superpixel(x, 4).labels[0], own_cells(17, 22, 4)
    whole = torch.tensor([len(x[0, :, own == cell].unique(dim=1).mT) == 1 for cell in range(own.max() + 1)])
    assert whole.sum() > 10 and torch.equal(labels[whole[own]], own[whole[own]])


@pytest.mark.parametrize(("cosines", "nearest"), [({0: 1.0, 4: 1.0}, 4), ({2: 1.0, 7: 1.0}, 2), ({8: 1.0, 4: 0.9}, 8)])
@pytest.mark.parametrize("below", [0.0, 0.99 * TIE])
def test_who_ties(cosines, nearest, below):
    values = torch.full((1, 9, 1), -1.0, dtype=torch.float64)
    for n, cosine in cosines.items():
        values[0, n] = cosine - (below if n == nearest else 0.0)
    assert nearest_neighbours(values).item() == nearest


def test_who_is_nearer_wins():
    values = torch.full((1, 9, 1), 0.5, dtype=torch.float64)
    values[0, 6] += 1.01 * TIE
    assert nearest_neighbours(values).item() == 6
    assert OWN_FIRST[0] == 4 and sorted(OWN_FIRST) == list(range(9))


def test_other_labels_are_the_most_probable_region():
    x = features((2, 16, 20, 24))
    found = tmt_ext.superpixel(x, 4)
    largest = found.assignment.topk(2, dim=1)
    clear = largest.values[:, 0] > largest.values[:, 1] * (1 + 2 * KAPPA * TIE)
    regions, _ = tmt_ext._reference_superpixel.neighbour_regions(20, 24, 4, CPU)
    labels = regions.expand(2, -1, -1).gather(1, largest.indices[:, :1].flatten(2)).view(2, 20, 24)
    assert clear.float().mean() > 0.9 and torch.equal(found.labels[clear], labels[clear])
