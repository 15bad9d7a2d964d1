"""The superpixel iteration (paper, Eqs. 6-9) in plain PyTorch: any dtype, differentiable; in float64 it is the oracle.

Written for reading: it holds a map of every pixel's nine similarities and a copy of the features per neighbour.
"""

import torch
from torch import Tensor

from tmt_ext._types import SuperpixelOutput

NORM_EPS = 1e-6  # vectors shorter than this are divided by it instead of by their norm
MASS_EPS = 1e-12  # regions that no pixel wants get features 0, not 0 / 0
TIE = 2.0**-15  # cosines less than this below the largest tie with it, as csrc/superpixel/definitions.h says
OWN_FIRST = [4, 0, 1, 2, 3, 5, 6, 7, 8]  # whom ties go to: the pixel's own cell, else the lowest neighbour


def superpixel(features: Tensor, cell: int, *, iterations: int = 6, kappa: float = 1 / 0.07) -> SuperpixelOutput:
    """Same arguments and result as `tmt_ext.superpixel`; see there."""
    batch, channels, height, width = features.shape
    rows, columns = cells(height, cell), cells(width, cell)
    regions, exists = neighbour_regions(height, width, cell, features.device)  # (9, H*W) both
    pixels = features.flatten(2)  # (B, C, H*W)
    directions = normalise(pixels)

    own = torch.zeros(batch, 9, height * width, dtype=features.dtype, device=features.device)
    own[:, 4] = 1  # at first every pixel belongs to its own cell
    centres = region_means(pixels, own, regions, rows * columns)
    for _ in range(iterations):
        cosines = similarities(normalise(centres), directions, regions).masked_fill(~exists, -torch.inf)
        assignment = torch.softmax(kappa * cosines, dim=1)  # subtracts the maximum first
        centres = region_means(pixels, assignment, regions, rows * columns)

    labels = regions.expand(batch, -1, -1).gather(1, nearest_neighbours(cosines)).squeeze(1)
    return SuperpixelOutput(
        centres.reshape(batch, channels, rows, columns),
        assignment.reshape(batch, 9, height, width),
        labels.reshape(batch, height, width),
    )


def cells(length: int, cell: int) -> int:
    """How many cells cover a line; of no negative number, which ONNX would round towards zero."""
    return (length + cell - 1) // cell


def neighbour_regions(height: int, width: int, cell: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Region index of each pixel's nine neighbours, row-major from (-1, -1), and whether it exists: both (9, H*W).

    The index of a neighbour that does not exist is that of some region that does.
    """
    rows, columns = cells(height, cell), cells(width, cell)
    offsets = torch.arange(-1, 2, device=device)
    y = (torch.arange(height, device=device) // cell).view(1, 1, -1, 1) + offsets.view(3, 1, 1, 1)  # (3, 1, H, 1)
    x = (torch.arange(width, device=device) // cell).view(1, 1, 1, -1) + offsets.view(1, 3, 1, 1)  # (1, 3, 1, W)
    exists = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    regions = y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)
    return regions.reshape(9, -1), exists.reshape(9, -1)


def normalise(vectors: Tensor) -> Tensor:
    """x / max(|x|, eps) over dim 1 of (B, C, M)."""
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(NORM_EPS)


def similarities(centres: Tensor, directions: Tensor, regions: Tensor) -> Tensor:
    """Inner products (B, 9, H*W) of each pixel of directions (B, C, H*W) with its neighbours in centres (B, C, h*w)."""
    if torch.compiler.is_exporting():  # all neighbours at once: nine times the memory, a ninth of the graph
        return (centres[:, :, regions] * directions[:, :, None]).sum(1)
    return torch.stack([(centres[:, :, index] * directions).sum(1) for index in regions], dim=1)


def nearest_neighbours(cosines: Tensor) -> Tensor:
    """(B, 9, H*W), -inf where there is no neighbour -> (B, 1, H*W): the largest, ties as `OWN_FIRST` says."""
    ties = cosines >= cosines.amax(1, keepdim=True) - TIE
    order = torch.tensor(OWN_FIRST, device=cosines.device)
    return order[ties[:, order].int().argmax(1, keepdim=True)]  # the first that ties


def region_means(pixels: Tensor, assignment: Tensor, regions: Tensor, count: int) -> Tensor:
    """Means (B, C, h*w) of pixels (B, C, H*W) weighted by assignment (B, 9, H*W)."""
    sums = pixels.new_zeros(*pixels.shape[:2], count)
    masses = pixels.new_zeros(pixels.shape[0], 1, count)
    if torch.compiler.is_exporting():
        shares, index = assignment[:, None], regions.flatten()
        sums = sums.index_add(2, index, (shares * pixels[:, :, None]).flatten(2))
        return sums / masses.index_add(2, index, shares.flatten(2)).clamp_min(MASS_EPS)
    for n, index in enumerate(regions):
        weight = assignment[:, n : n + 1]
        sums = sums.index_add(2, index, weight * pixels)
        masses = masses.index_add(2, index, weight)
    return sums / masses.clamp_min(MASS_EPS)
