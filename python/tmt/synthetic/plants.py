"""Trees, hedges and bushes."""

import math

from tmt.synthetic.canvas import VEGETATION, Paint, Stage
from tmt.synthetic.texture import BLOTCH, LEAF


def draw_tree(stage: Stage, x: float, z: float) -> None:
    """A tree of one of the domain's kinds."""
    street, kind = stage.domain.street, stage.rng.random()
    stage.cast(x, z, 2.5, 2.0, 2.0)
    if kind < street.palms:
        _palm(stage, x, z)
    elif kind < street.palms + street.conifers:
        _conifer(stage, x, z)
    else:
        _broadleaf(stage, x, z)


def leaf_paint(stage: Stage) -> Paint:
    """Foliage of one plant."""
    amount = stage.pick((0.2, 0.4)) + 0.5 * stage.pick(stage.domain.street.texture)
    return Paint(VEGETATION, stage.colour(stage.domain.colours.leaf), LEAF, amount, stage.pick((1.2, 2.2)))


def _trunk(stage: Stage, x: float, z: float, height: float, width: float) -> None:
    bark = Paint(VEGETATION, stage.colour(stage.domain.colours.fence), BLOTCH, 0.2).lit(0.7)
    half = stage.view.thin(width, z) / 2
    stage.canvas.sprite((x, 0, z), [(-half, 0), (half, 0), (0.7 * half, height), (-0.7 * half, height)], bark)


def blob(stage: Stage, foot: tuple, middle: tuple, radius: tuple, paint: Paint, points: int = 14) -> None:
    """A ragged round of leaves, in metres from `foot`."""
    outline = []
    for index in range(points):
        angle = 2 * math.pi * index / points
        reach = stage.rng.uniform(0.78, 1.15)
        right, up = radius[0] * reach * math.cos(angle), radius[1] * reach * math.sin(angle)
        outline.append((middle[0] + right, middle[1] + up))
    stage.canvas.sprite(foot, outline, paint)


def _broadleaf(stage: Stage, x: float, z: float) -> None:
    """Trunk, then a crown of overlapping blobs, darker below and lit towards the sun."""
    height, spread = stage.pick((4.5, 9.0)), stage.pick((1.4, 2.8))
    clear = stage.pick((0.3, 0.45)) * height
    _trunk(stage, x, z, clear + 1.0, stage.pick((0.25, 0.5)))
    leaf, foot = leaf_paint(stage), (x, 0, z)
    tall = (height - clear) / 2
    blob(stage, foot, (0, clear + tall), (spread, tall), leaf.lit(0.8), 20)
    for index in range(6):
        up = stage.rng.uniform(-0.6, 0.7)
        side = stage.rng.uniform(-0.7, 0.7)
        sun = 0.25 * stage.light.strength * side * stage.light.side
        middle = (side * spread, clear + tall * (1 + up))
        paint = leaf.lit(0.9 + 0.25 * up + sun)
        blob(stage, foot, middle, (0.45 * spread, 0.4 * tall), paint, 9 + index % 3)


def _conifer(stage: Stage, x: float, z: float) -> None:
    """Stacked skirts."""
    height, spread = stage.pick((5, 10)), stage.pick((1.2, 2.0))
    _trunk(stage, x, z, 1.5, 0.3)
    leaf = leaf_paint(stage).lit(0.8)
    for level in range(5):
        low, wide = 0.8 + level * (height - 1) / 5, spread * (1 - level / 5.5)
        skirt = [(-wide, low), (0.4 * wide, low - 0.3), (wide, low), (0, low + height / 3)]
        stage.canvas.sprite((x, 0, z), skirt, leaf.lit(0.9 + 0.06 * level))


def _palm(stage: Stage, x: float, z: float) -> None:
    """A long trunk and a star of fronds."""
    height, reach = stage.pick((5, 10)), stage.pick((1.6, 2.6))
    _trunk(stage, x, z, height, 0.3)
    leaf, foot = leaf_paint(stage), (x, 0, z)
    for index in range(11):
        angle = 2 * math.pi * index / 11 + stage.rng.uniform(-0.2, 0.2)
        tip = (reach * math.cos(angle), height + 0.75 * reach * math.sin(angle) - 0.5)
        middle = (0.55 * tip[0], height + 0.65 * (tip[1] - height) + 0.45)
        lower = (0.5 * tip[0], height + 0.5 * (tip[1] - height) - 0.1)
        stage.canvas.sprite(foot, [(0, height + 0.15), middle, tip, lower, (0, height - 0.15)], leaf)
    blob(stage, foot, (0, height), (0.5, 0.4), leaf.lit(0.8), 8)


def draw_hedge(stage: Stage, side: int, x: float, near: float, far: float) -> None:
    """A hedge along the street, its end turned to the camera, its top ragged."""
    height, back, leaf = stage.pick((0.9, 2.2)), x + side * 1.2, leaf_paint(stage)
    stage.canvas.world([(x, 0, near), (back, 0, near), (back, height, near), (x, height, near)], leaf)
    steps = 10
    top = [(x, height * stage.rng.uniform(0.85, 1.1), near + i * (far - near) / steps) for i in range(steps + 1)]
    stage.canvas.world([(x, 0, near), *top, (x, 0, far)], leaf.lit(stage.light.facing(-side)))


def draw_bush(stage: Stage, x: float, z: float) -> None:
    """A low bush."""
    size, leaf = stage.pick((0.4, 1.1)), leaf_paint(stage)
    stage.cast(x, z, 2 * size, size)
    blob(stage, (x, 0, z), (0, 0.8 * size), (size, 0.85 * size), leaf.lit(0.85), 12)
    blob(stage, (x, 0, z), (0.2 * size, 1.1 * size), (0.6 * size, 0.5 * size), leaf.lit(1.05), 9)


def draw_treeline(stage: Stage, distance: float) -> None:
    """Crowns behind the end of the street."""
    x = -0.75 * distance
    while x < 0.75 * distance:
        size, leaf = stage.pick((5, 11)), leaf_paint(stage)
        blob(stage, (x, 0, distance), (0, 0.4 * size), (1.3 * size, size), leaf, 12)
        x += size * stage.pick((0.6, 1.3))
