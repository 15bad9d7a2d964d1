"""Superpixels at image resolution: connected, along edges, numbered; and their outlines as polygons."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.draw import polygon2mask
from skimage.measure import label

from tmt.labelling.polygons import polygon
from tmt.labelling.regions import default_cell, joined, superpixels
from tmt.synthetic import render


def pieces_of(mask: np.ndarray) -> np.ndarray:
    """Pieces numbered from 1, their pixels joined by their sides."""
    return np.asarray(label(mask, connectivity=1))


def assert_connected(regions: np.ndarray) -> None:
    for region in np.unique(regions):
        assert pieces_of(regions == region).max() == 1


def test_regions_are_connected_and_numbered_as_they_come() -> None:
    image = render("gtav", 0, 3, (96, 160))[0]
    regions = superpixels(image, 12)
    assert regions.shape == (96, 160) and regions.dtype == np.int64
    _, first = np.unique(regions, return_index=True)
    assert (np.unique(regions) == np.arange(len(first))).all() and (np.diff(first) > 0).all()
    assert 0.6 * 8 * 14 <= len(first) <= 8 * 14  # of the squares that they begin as, few are lost
    assert_connected(regions)


def test_regions_keep_to_edges() -> None:
    """A wavy border between two colours that cuts through the squares is a border of regions."""
    rows, columns = np.mgrid[:64, :96]
    below = rows > 30 + 6 * np.sin(columns / 9)
    noise = np.random.default_rng(0).integers(-12, 13, (64, 96, 3))
    image = np.where(below[..., None], (150, 60, 50), (60, 90, 160)) + noise
    regions = superpixels(image.clip(0, 255).astype(np.uint8), 8)
    squares = rows // 8 * 12 + columns // 8

    def wrong(cut: np.ndarray) -> float:
        """The share of pixels on the other side than most of their region."""
        share = np.bincount(cut.ravel(), below.ravel()) / np.bincount(cut.ravel())
        return float(np.minimum(share, 1 - share)[cut].mean())

    assert wrong(regions) < 0.005 < 0.03 < wrong(squares)


def test_a_plain_image_is_cut_into_its_squares() -> None:
    regions = superpixels(np.full((32, 48, 3), 90, np.uint8), 8)
    rows, columns = np.mgrid[:32, :48]
    assert (regions == rows // 8 * 6 + columns // 8).mean() > 0.9


@given(arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_joining_leaves_one_piece_of_each(labels: np.ndarray) -> None:
    found = joined(labels)
    assert_connected(found)
    kept = {}  # the largest piece of each label stays whole
    for value in np.unique(labels):
        pieces = pieces_of(labels == value)
        sizes = np.bincount(pieces.ravel())[1:]
        kept[value] = sizes.max()
        best = [i + 1 for i in range(len(sizes)) if sizes[i] == sizes.max()]
        assert any(len(np.unique(found[pieces == piece])) == 1 for piece in best)
    assert len(np.unique(found)) == len(kept)


def test_a_stray_piece_goes_where_its_border_is_longest() -> None:
    labels = np.array([[1, 1, 1, 2], [1, 0, 1, 2], [1, 1, 1, 2], [0, 0, 2, 2]])
    assert (joined(labels) == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 1, 1]]).all()


@pytest.mark.parametrize(("height", "cell"), [(96, 8), (240, 8), (1024, 32), (2160, 68)])
def test_a_cell_grows_with_the_image(height: int, cell: int) -> None:
    assert default_cell(height) == cell


def inside(points: list[int], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres a polygon holds, as scikit-image sees them."""
    corners = np.array(points, dtype=float).reshape(-1, 2)[:, ::-1] - 0.5
    return polygon2mask(shape, corners)


@given(arrays(np.int64, st.tuples(st.integers(1, 10), st.integers(1, 10)), elements=st.integers(0, 2)))
def test_polygons_hold_exactly_the_pixels(labels: np.ndarray) -> None:
    regions = joined(labels)
    for region in np.unique(regions):
        mask = regions == region
        assert (even_odd(polygon(mask), mask.shape) == mask).all()


def even_odd(points: list[int], shape: tuple[int, int]) -> np.ndarray:
    """The pixels from whose centres a ray to the left crosses the polygon an odd number of times."""
    corners = np.array(points, dtype=float).reshape(-1, 2)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    crossings = np.zeros(shape, dtype=int)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 != y2:
            at = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
            crossings += ((y1 < y) != (y2 < y)) & (at < x)
    return crossings % 2 == 1


def test_a_polygon_of_a_ring_by_scikit_image() -> None:
    mask = np.zeros((12, 14), dtype=bool)
    mask[2:10, 3:12] = True
    mask[4:7, 5:9] = False
    points = polygon(mask)
    assert len(points) == 2 * (4 + 1 + 5 + 1)  # the outline, back to its start, the hole and back, and the start again
    assert (even_odd(points, mask.shape) == mask).all()
    solid = np.zeros((6, 7), dtype=bool)
    solid[1:4, 2:6] = True
    assert polygon(solid) == [2, 1, 6, 1, 6, 4, 2, 4]
    assert (inside(polygon(solid), solid.shape) == solid).all()
