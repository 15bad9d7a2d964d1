"""The outline of a region as one polygon along the sides of its pixels, as COCO's files want it."""

from collections import defaultdict

import numpy as np

Point = tuple[int, int]
"""Column and row of a pixel's corner."""


def polygon(mask: np.ndarray, left: int = 0, top: int = 0) -> list[int]:
    """The outline of a connected region.

    Args:
        mask: (H, W) bool, one piece, its pixels joined by their sides.
        left, top: column and row of the mask's first pixel in the image.

    Returns:
        x, y, x, y, ...: corners of pixels, (0, 0) the image's top left. By the even-odd rule the polygon holds exactly
        the mask's pixels; a hole hangs on the outline by a bridge, which is gone along twice.
    """
    outline, *holes = sorted(_loops(mask), key=_area, reverse=True)
    start, points = outline[0], outline
    for hole in holes:
        points = [*points, start, *hole, hole[0]]
    if holes:
        points = [*points, start]
    return [value for x, y in points for value in (x + left, y + top)]


def _loops(mask: np.ndarray) -> list[list[Point]]:
    """The closed lines around a mask, its pixels to the right: clockwise around it, the other way around holes."""
    steps = _steps(np.pad(mask, 1))
    loops = []
    while steps:
        start = next(iter(steps))
        loop, here, heading = [], start, None
        while True:
            ahead = steps[here]
            there = ahead[0] if len(ahead) == 1 or heading is None else _rightmost(here, heading, ahead)
            ahead.remove(there)
            if not ahead:
                del steps[here]
            step = there[0] - here[0], there[1] - here[1]
            if step != heading:
                loop.append(here)
            here, heading = there, step
            if here == start:
                break
        on_a_side = start[0] == loop[1][0] == loop[-1][0] or start[1] == loop[1][1] == loop[-1][1]
        loops.append(loop[1:] if on_a_side else loop)
    return loops


def _steps(mask: np.ndarray) -> dict[Point, list[Point]]:
    """From each corner of the padded mask the corners one side further, in coordinates of the mask without padding."""
    steps: dict[Point, list[Point]] = defaultdict(list)
    inside = mask.astype(np.int8)
    down, across = np.diff(inside, axis=0), np.diff(inside, axis=1)
    for y, x in np.argwhere(down > 0).tolist():  # the upper side of pixel (x - 1, y)
        steps[x - 1, y].append((x, y))
    for y, x in np.argwhere(down < 0).tolist():
        steps[x, y].append((x - 1, y))
    for y, x in np.argwhere(across > 0).tolist():  # the left side of pixel (x, y - 1)
        steps[x, y].append((x, y - 1))
    for y, x in np.argwhere(across < 0).tolist():
        steps[x, y - 1].append((x, y))
    return steps


def _rightmost(here: Point, heading: Point, ahead: list[Point]) -> Point:
    """The right turn where two pixels meet at a corner only: they are not joined there."""
    right = here[0] - heading[1], here[1] + heading[0]
    return right if right in ahead else ahead[0]


def _area(loop: list[Point]) -> float:
    """Twice the area, positive where the loop is clockwise, y pointing down."""
    x, y = np.array(loop, dtype=np.int64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
