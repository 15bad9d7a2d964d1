"""Poles, street lamps, traffic lights, signs and clutter. `side` is -1 (left) or 1 (right)."""

import math

from tmt.synthetic.canvas import LIGHT, POLE, SIGN, STATIC, Paint, Stage
from tmt.synthetic.texture import GRAIN

LAMPS = ((0.9, 0.1, 0.08), (0.95, 0.7, 0.1), (0.1, 0.85, 0.35))  # red, amber, green


def _post(stage: Stage, x: float, z: float, height: float, width: float) -> Paint:
    """An upright tube and its shadow; returns its paint."""
    paint = Paint(POLE, stage.colour(stage.domain.colours.pole), GRAIN, 0.1)
    half = stage.view.thin(width, z) / 2
    stage.cast(x, z, 2 * half, height, 0.3)
    stage.canvas.sprite((x, 0, z), [(-half, 0), (half, 0), (half, height), (-half, height)], paint)
    lit = half * stage.light.side
    stage.canvas.sprite((x, 0, z), [(0, 0), (lit, 0), (lit, height), (0, height)], paint.lit(1.25))
    return paint


def _arm(stage: Stage, x: float, z: float, reach: float, height: float, rise: float, paint: Paint) -> None:
    """A tube sideways from the top of a post."""
    half = stage.view.thin(0.12, z) / 2
    points = [(0, height - half), (reach, height + rise - half), (reach, height + rise + half), (0, height + half)]
    stage.canvas.sprite((x, 0, z), points, paint)


def draw_lamp(stage: Stage, side: int, x: float, z: float) -> None:
    """A street lamp: a tall post with an arm over the road, or a plain pole."""
    height = stage.pick((4.5, 7.5))
    paint = _post(stage, x, z, height, stage.pick((0.16, 0.3)))
    if stage.chance(0.7):
        reach = -side * stage.pick((0.8, 2.2))
        _arm(stage, x, z, reach, height, stage.pick((0.0, 0.5)), paint)
        stage.canvas.disc((x, 0, z), (reach, height), (0.4, 0.13), paint.lit(stage.pick((0.7, 1.6)))._replace(glow=1.0))


def draw_light(stage: Stage, side: int, x: float, z: float) -> None:
    """A traffic light on its post, or on an arm over the road."""
    if stage.chance(stage.domain.population.hanging_lights):
        height, reach = stage.pick((4.4, 5.2)), -side * stage.pick((2.0, 4.5))
        paint = _post(stage, x, z, height + 0.6, 0.25)
        _arm(stage, x, z, reach, height + 0.5, 0.1, paint)
        _housing(stage, x + reach, z, height - 0.9)
    else:
        _post(stage, x, z, 2.8, 0.16)
    _housing(stage, x, z, stage.pick((2.1, 2.6)))


def _housing(stage: Stage, x: float, z: float, low: float) -> None:
    """A box with three round lamps of which one is lit, or its back."""
    foot, high = (x, 0.0, z), low + 1.5
    half = max(0.3, stage.view.thin(0.44, z) * 0.75)
    housing = Paint(LIGHT, stage.colour(stage.domain.colours.light))
    stage.canvas.sprite(foot, [(-half, low), (half, low), (half, high), (-half, high)], housing)
    if stage.chance(0.15):
        return
    burning = stage.rng.randrange(3)
    for index, colour in enumerate(LAMPS):
        paint = Paint(LIGHT, colour, glow=float(index == burning)).lit(1.1 if index == burning else 0.22)
        stage.canvas.disc(foot, (0, high - 0.27 - 0.48 * index), (0.66 * half, 0.2), paint)


def draw_sign(stage: Stage, x: float, z: float) -> None:
    """A traffic sign on a post."""
    low, size = stage.pick((1.9, 2.6)), max(stage.pick((0.45, 0.65)), 1.5 * stage.view.thin(0.0, z))
    _post(stage, x, z, low + size, 0.09)
    plate = Paint(SIGN, stage.colour(stage.domain.colours.sign))
    field = Paint(SIGN, stage.colour(stage.domain.colours.sign))
    middle = (0.0, low + size)
    if stage.chance(0.12):
        plate = field = Paint(SIGN, stage.colour(stage.domain.colours.pole))  # the back of a sign
    if stage.chance(stage.domain.population.round_signs):
        _round_sign(stage, (x, 0.0, z), middle, size, plate, field)
    else:
        _square_sign(stage, (x, 0.0, z), middle, size, plate, field)


def _round_sign(stage: Stage, foot: tuple, middle: tuple, size: float, plate: Paint, field: Paint) -> None:
    """A disc or a triangle with a rim."""
    corners = stage.rng.choice((3, 3, 16, 16, 16, 8))
    turn = stage.rng.choice((math.pi / 2, -math.pi / 2)) if corners == 3 else math.pi / 8
    for share, paint in ((1.0, plate), (0.66, field)):
        angles = [turn + 2 * math.pi * index / corners for index in range(corners)]
        points = [(share * size * math.cos(a), middle[1] + share * size * math.sin(a)) for a in angles]
        stage.canvas.sprite(foot, points, paint)


def _square_sign(stage: Stage, foot: tuple, middle: tuple, size: float, plate: Paint, field: Paint) -> None:
    """A board, lying, square or standing, with a stripe or a field."""
    wide, tall = stage.rng.choice(((1.5, 0.8), (0.95, 0.95), (0.75, 1.1), (0.95, 0.95)))
    for share, paint in ((1.0, plate), (stage.pick((0.3, 0.75)), field)):
        right, up = share * wide * size, share * tall * size
        points = [(-right, middle[1] - up), (right, middle[1] - up), (right, middle[1] + up), (-right, middle[1] + up)]
        stage.canvas.sprite(foot, points, paint)


def draw_clutter(stage: Stage, x: float, z: float) -> None:
    """Something without a class: a bin, a box or a bollard."""
    width, height = stage.rng.choice(((0.6, 1.1), (0.9, 1.3), (0.3, 0.9)))
    paint = Paint(STATIC, stage.colour(stage.domain.colours.vehicle))
    stage.cast(x, z, width, height)
    half = width / 2
    for low, part in ((0.0, paint), (0.8 * height, paint.lit(0.7))):
        stage.canvas.sprite((x, 0, z), [(-half, low), (half, low), (half, height), (-half, height)], part)
