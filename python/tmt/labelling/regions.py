"""An image cut into connected superpixels of its own resolution, of colour and place alone, whatever the model.

One call of the operator of ACTE: its cosines, of vectors that end with a large constant, are squared distances in
disguise, so that it groups pixels as SLIC does (Achanta et al., 2012), softly. What such clusters leave apart is joined
to a neighbour: every region is one connected piece.
"""

import math

import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

import tmt_ext

LEVELS = (25.0, 15.0, 15.0)
"""Steps of luma and of the two chromas, of 256, that weigh as much as the width of a cell."""
PERIOD = 8
"""Cells after which places repeat: a pixel is compared with cells at most two away."""
CONSTANT = 16.0
KAPPA = 4 * CONSTANT**2
"""A region is e^2 times as probable as one that is a cell's width further away."""
ITERATIONS = 6


def superpixels(image: np.ndarray, cell: int) -> np.ndarray:
    """Cut an image into superpixels that begin as squares.

    Args:
        image: (H, W, 3) uint8, RGB.
        cell: side of the squares in pixels.

    Returns:
        (H, W) int64, regions numbered from 0 in the order of their first pixels, row by row; each is one piece, its
        pixels joined by their sides.
    """
    found = tmt_ext.superpixel(described(image, cell)[None], cell, iterations=ITERATIONS, kappa=KAPPA)
    return joined(found.labels[0].numpy())


def described(image: np.ndarray, cell: int) -> Tensor:
    """(8, H, W) float32: colour, place on two circles, and the constant, in units of a cell's width."""
    colours = np.asarray(Image.fromarray(image).convert("YCbCr"), dtype=np.float32) - 128
    colours /= np.array(LEVELS, dtype=np.float32)
    height, width = image.shape[:2]
    rows, columns = (_places(length, cell) for length in (height, width))
    planes = torch.empty(8, height, width)
    planes[:3] = torch.from_numpy(colours).movedim(-1, 0)
    planes[3:5], planes[5:7], planes[7] = rows[:, :, None], columns[:, None], CONSTANT
    return planes


def _places(length: int, cell: int) -> Tensor:
    """(2, length): points on a circle, a cell's width apart where their pixels are."""
    angle = torch.arange(length) * (2 * math.pi / (PERIOD * cell))
    return torch.stack([angle.cos(), angle.sin()]) * (PERIOD / (2 * math.pi))


def joined(labels: np.ndarray) -> np.ndarray:
    """Regions (H, W) made connected: of each its largest piece stays, another goes to the neighbour of longest border.

    Returns (H, W) int64, numbered from 0 in the order of their first pixels.
    """
    pieces = _pieces(labels)
    sizes = np.bincount(pieces.ravel())
    owner = np.empty(len(sizes), dtype=np.int64)  # the label of each piece
    owner[pieces.ravel()] = labels.ravel()
    order = np.lexsort((-sizes, owner))  # of a label, the largest first
    largest = order[np.r_[True, np.diff(owner[order]) != 0]]
    target = np.full(len(sizes), -1)
    target[largest] = largest
    pairs, lengths = _borders(pieces)
    while (left := np.flatnonzero(target < 0)).size:
        _join(left, target, pairs, lengths)
    return _renumbered(target[pieces])


def _join(left: np.ndarray, target: np.ndarray, pairs: np.ndarray, lengths: np.ndarray) -> None:
    """Give each piece of `left` that touches one with a target that of its longest border; some always do."""
    open_piece = np.isin(pairs[:, 0], left) & (target[pairs[:, 1]] >= 0)
    piece, to, length = pairs[open_piece, 0], target[pairs[open_piece, 1]], lengths[open_piece]
    order = np.lexsort((to, -length, piece))
    first = order[np.r_[True, np.diff(piece[order]) != 0]]
    target[piece[first]] = to[first]


def _pieces(labels: np.ndarray) -> np.ndarray:
    """(H, W) int64: connected pieces of one label, pixels joined by their sides."""
    index = np.arange(labels.size).reshape(labels.shape)
    across, down = labels[:, 1:] == labels[:, :-1], labels[1:] == labels[:-1]
    first = np.concatenate([index[:, :-1][across], index[:-1][down]])
    second = np.concatenate([index[:, 1:][across], index[1:][down]])
    links = coo_matrix((np.ones(len(first), bool), (first, second)), (labels.size, labels.size))
    return connected_components(links, directed=False)[1].reshape(labels.shape).astype(np.int64)


def _borders(pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbouring pieces (n, 2), each pair both ways, and the length of their border in pixels (n,)."""
    first = np.concatenate([pieces[:, :-1].ravel(), pieces[:-1].ravel()])
    second = np.concatenate([pieces[:, 1:].ravel(), pieces[1:].ravel()])
    differ = first != second
    once = np.stack([first[differ], second[differ]], 1)
    return np.unique(np.concatenate([once, once[:, ::-1]]), axis=0, return_counts=True)


def _renumbered(labels: np.ndarray) -> np.ndarray:
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[first.argsort()] = np.arange(len(first))
    return place[number].reshape(labels.shape)


def default_cell(height: int) -> int:
    """Side of a first square for images of a height: 1/32 of it, but 8 pixels at least."""
    return max(8, round(height / 32))
