"""Persons on foot, and what is ridden: bicycles and motorcycles, with or without a rider."""

import math

from tmt.synthetic.canvas import BICYCLE, MOTORCYCLE, PERSON, RIDER, Paint, Point, Stage
from tmt.synthetic.texture import BLOTCH

Foot = tuple[float, float, float]


def limb(stage: Stage, foot: Foot, start: Point, end: Point, width: float, paint: Paint) -> None:
    """A straight limb or tube between two points, metres from `foot`."""
    across, up = end[0] - start[0], end[1] - start[1]
    length = math.hypot(across, up) or 1.0
    half = width / 2
    side = (-up / length * half, across / length * half)
    corners = [
        (start[0] + side[0], start[1] + side[1]), (end[0] + side[0], end[1] + side[1]),
        (end[0] - side[0], end[1] - side[1]), (start[0] - side[0], start[1] - side[1]),
    ]  # fmt: skip
    stage.canvas.sprite(foot, corners, paint)


def _cloth(stage: Stage, label: int) -> Paint:
    return Paint(label, stage.colour(stage.domain.colours.cloth), BLOTCH, 0.15, 0.5)


def _skin(stage: Stage, label: int) -> Paint:
    tone = stage.pick((0.25, 0.85))
    return Paint(label, (tone, 0.76 * tone, 0.62 * tone))


def draw_person(stage: Stage, x: float, z: float) -> None:
    """A standing or walking person, seen from the front, the back or the side."""
    height = stage.rng.gauss(1.72, 0.1) * (0.7 if stage.chance(0.12) else 1.0)
    foot, side_on = (x, 0.0, z), stage.chance(0.4)
    stage.cast(x, z, 0.5, height, 0.5)
    top, legs = _cloth(stage, PERSON), _cloth(stage, PERSON).lit(0.85)
    skin, shoulder = _skin(stage, PERSON), height * (0.12 if side_on else 0.155)
    stride = height * stage.pick((0.02, 0.2)) * (1.0 if side_on else 0.45)
    hip, neck = 0.5 * height, 0.84 * height
    for way in (-1, 1):
        limb(stage, foot, (way * 0.04 * height, hip), (way * stride, 0), 0.115 * height, legs.lit(1 - 0.15 * (way > 0)))
    swing = stride * 0.8
    for way in (-1, 1):
        hand = (way * (swing if side_on else shoulder + 0.05 * height), 0.47 * height)
        start = (0.0 if side_on else way * shoulder, 0.8 * height)
        limb(stage, foot, start, hand, 0.08 * height, top.lit(0.85))
    torso = [(-shoulder, neck - 0.03 * height), (-0.8 * shoulder, hip - 0.05 * height)]
    torso += [(-right, up) for right, up in reversed(torso)]
    stage.canvas.sprite(foot, [*torso, (0.0, neck + 0.01)], top)
    if stage.chance(0.25):
        _bag(stage, foot, height, shoulder)
    _head(stage, foot, (0.0, 0.92 * height), 0.078 * height, skin)


def _bag(stage: Stage, foot: Foot, height: float, shoulder: float) -> None:
    """A bag or rucksack; it counts as person."""
    way = stage.rng.choice((-1, 1))
    low, high = stage.rng.choice(((0.3, 0.48), (0.55, 0.78)))
    inner, outer, low, high = 0.7 * way * shoulder, 1.7 * way * shoulder, low * height, high * height
    stage.canvas.sprite(foot, [(inner, low), (outer, low), (outer, high), (inner, high)], _cloth(stage, PERSON))


def _head(stage: Stage, foot: Foot, middle: Point, radius: float, skin: Paint) -> None:
    """Head with hair, cap or helmet."""
    hair = Paint(skin.label, stage.colour(stage.domain.colours.cloth)).lit(0.8)
    stage.canvas.disc(foot, (middle[0], middle[1] + 0.3 * radius), (1.05 * radius, 1.1 * radius), hair)
    stage.canvas.disc(foot, (middle[0], middle[1] - 0.2 * radius), (0.85 * radius, 0.95 * radius), skin)


def _wheel(stage: Stage, foot: Foot, middle: Point, radius: Point, tyre: Paint, inner: Paint) -> None:
    stage.canvas.disc(foot, middle, radius, tyre)
    rim = stage.view.thin(0.07, foot[2]) * 0.5
    stage.canvas.disc(foot, middle, (max(0.0, radius[0] - rim), max(0.0, radius[1] - rim)), inner)


def draw_bicycle(stage: Stage, x: float, z: float, ridden: bool = False) -> None:
    """A bicycle seen obliquely or from its end; what shows through its wheels counts as bicycle."""
    foot = (x, 0.0, z)
    squeeze = stage.pick((0.45, 1.0)) if stage.chance(0.65) else 0.0
    stage.cast(x, z, max(0.4, 1.6 * squeeze), 1.0, 0.4)
    frame = Paint(BICYCLE, stage.colour(stage.domain.colours.vehicle))
    if squeeze:
        _bicycle_side(stage, foot, squeeze, frame)
    else:
        _bicycle_end(stage, foot, frame)
    if ridden:
        _draw_rider(stage, foot, squeeze, 0.95)


def _bicycle_side(stage: Stage, foot: Foot, squeeze: float, frame: Paint) -> None:
    """Two wheels, the frame's triangles, saddle and handlebar."""
    tyre = frame._replace(colour=(0.08, 0.08, 0.08))
    inner = Paint(BICYCLE, stage.colour(stage.domain.colours.road)).lit(stage.pick((0.5, 0.9)))
    tube, wheelbase = stage.view.thin(0.06, foot[2]) * 0.7, 0.55 * squeeze
    for way in (-1, 1):
        _wheel(stage, foot, (way * wheelbase, 0.35), (0.35 * squeeze, 0.35), tyre, inner)
    saddle, head, crank = (-0.25 * squeeze, 0.9), (0.4 * squeeze, 0.85), (-0.02, 0.32)
    joints = [((-wheelbase, 0.35), saddle), (saddle, crank), (crank, head), (saddle, head), (head, (wheelbase, 0.35))]
    for start, end in [*joints, ((-wheelbase, 0.35), crank), (head, (0.33 * squeeze, 1.05))]:
        limb(stage, foot, start, end, tube, frame)
    limb(stage, foot, (saddle[0] - 0.12, 0.95), (saddle[0] + 0.12, 0.95), 0.08, tyre)
    limb(stage, foot, (0.22 * squeeze, 1.05), (0.45 * squeeze, 1.05), 0.07, tyre)


def _bicycle_end(stage: Stage, foot: Foot, frame: Paint) -> None:
    """One narrow wheel, handlebar and mudguard."""
    half = stage.view.thin(0.09, foot[2]) / 2
    tyre = frame._replace(colour=(0.08, 0.08, 0.08))
    stage.canvas.sprite(foot, [(-half, 0), (half, 0), (half, 0.7), (-half, 0.7)], tyre)
    stage.canvas.sprite(foot, [(-half, 0.6), (half, 0.6), (half, 1.0), (-half, 1.0)], frame)
    limb(stage, foot, (-0.3, 1.02), (0.3, 1.02), stage.view.thin(0.07, foot[2]) * 0.8, tyre)


def draw_motorcycle(stage: Stage, x: float, z: float, ridden: bool = False) -> None:
    """A motorcycle seen obliquely or from its end."""
    foot = (x, 0.0, z)
    squeeze = stage.pick((0.5, 1.0)) if stage.chance(0.65) else 0.0
    stage.cast(x, z, max(0.8, 1.9 * squeeze), 1.0, 0.7)
    body = Paint(MOTORCYCLE, stage.colour(stage.domain.colours.vehicle))
    if squeeze:
        _motorcycle_side(stage, foot, squeeze, body)
    else:
        _motorcycle_end(stage, foot, body)
    if ridden:
        _draw_rider(stage, foot, squeeze, 0.8)


def _motorcycle_side(stage: Stage, foot: Foot, squeeze: float, body: Paint) -> None:
    """Fat wheels, engine, tank, seat, fork and windscreen."""
    dark = body._replace(colour=(0.07, 0.07, 0.07))
    hub = body._replace(colour=(0.4, 0.4, 0.4))
    for way in (-1, 1):
        stage.canvas.disc(foot, (way * 0.7 * squeeze, 0.32), (0.33 * squeeze, 0.33), dark)
        stage.canvas.disc(foot, (way * 0.7 * squeeze, 0.32), (0.15 * squeeze, 0.15), hub)
    shapes = (
        (((-0.45, 0.25), (0.35, 0.25), (0.45, 0.6), (-0.5, 0.6)), hub.lit(0.6)),
        (((-0.95, 0.75), (-0.1, 0.65), (0.0, 0.85), (-0.85, 0.9)), dark),
        (((-0.1, 0.6), (0.55, 0.6), (0.55, 0.95), (0.1, 1.02)), body),
        (((-0.9, 0.55), (-0.3, 0.5), (-0.2, 0.75), (-0.95, 0.75)), body.lit(0.85)),
        (((0.45, 1.1), (0.62, 0.3), (0.75, 0.3), (0.6, 1.15)), dark),
        (((0.45, 0.85), (0.8, 0.8), (0.65, 1.2), (0.5, 1.2)), body.lit(1.1)),
    )
    for points, paint in shapes:
        stage.canvas.sprite(foot, [(squeeze * right, up) for right, up in points], paint)


def _motorcycle_end(stage: Stage, foot: Foot, body: Paint) -> None:
    """Fat tyre, bulky tail or fairing, mirrors."""
    dark = body._replace(colour=(0.06, 0.06, 0.06))
    half = max(0.12, stage.view.thin(0.2, foot[2]) / 2)
    stage.canvas.sprite(foot, [(-half, 0), (half, 0), (half, 0.6), (-half, 0.6)], dark)
    stage.canvas.sprite(foot, [(-0.3, 0.45), (0.3, 0.45), (0.25, 0.95), (-0.25, 0.95)], body)
    lamp = body._replace(colour=stage.rng.choice(((0.8, 0.1, 0.1), (1.0, 1.0, 0.9))))
    stage.canvas.disc(foot, (0.0, 0.8), (0.1, 0.09), lamp)
    limb(stage, foot, (-0.42, 1.08), (0.42, 1.08), stage.view.thin(0.08, foot[2]) * 0.8, dark)


def _draw_rider(stage: Stage, foot: Foot, squeeze: float, seat: float) -> None:
    """Someone sitting: leaning forward when seen from the side, upright from the end."""
    top, legs, skin = _cloth(stage, RIDER), _cloth(stage, RIDER).lit(0.85), _skin(stage, RIDER)
    hip = (-0.22 * squeeze, seat)
    neck = (0.12 * squeeze, seat + 0.58)
    spread = 0.0 if squeeze else 0.17
    for way in (-1, 1):
        knee = (hip[0] + 0.32 * squeeze + way * (spread + 0.02), seat - 0.25 + 0.1 * way * bool(squeeze))
        ankle = (hip[0] + 0.15 * squeeze + way * (spread + 0.1 * squeeze), seat - 0.7 + 0.1 * way)
        limb(stage, foot, (hip[0] + way * 0.6 * spread, hip[1]), knee, 0.17, legs)
        limb(stage, foot, knee, ankle, 0.13, legs.lit(0.9))
    limb(stage, foot, hip, neck, 0.28 if squeeze else 0.42, top)
    for way in (-1, 1):
        hand = (0.36 * squeeze + way * 1.6 * spread, seat + 0.15)
        limb(stage, foot, (neck[0] + way * 1.2 * spread, neck[1] - 0.05), hand, 0.11, top.lit(0.85))
    _head(stage, foot, (neck[0] + 0.05 * squeeze, neck[1] + 0.19), 0.13, skin)
