"""Houses, walls and fences along the street, and the skyline at its end. `side` is -1 (left) or 1 (right)."""

import math
from dataclasses import dataclass

from tmt.synthetic.canvas import BUILDING, FENCE, WALL, Colour, Paint, Stage
from tmt.synthetic.texture import BLOTCH, BRICK, GRAIN, SMOOTH, STRIPE


@dataclass(frozen=True)
class Face:
    """An upright plane along the street (x fixed) or across it (z fixed), with coordinates (u along, y up)."""

    stage: Stage
    x: float
    z: float
    along: bool
    direction: int = 1  # across: the sign of x in which u grows

    def quad(self, start: float, end: float, low: float, high: float, paint: Paint) -> None:
        """Fills a rectangle of the plane."""
        corners = ((start, low), (end, low), (end, high), (start, high))
        self.fill(list(corners), paint)

    def fill(self, points: list[tuple[float, float]], paint: Paint) -> None:
        """Fills a polygon of the plane."""
        if self.along:
            world = [(self.x, y, self.z + u) for u, y in points]
        else:
            world = [(self.x + self.direction * u, y, self.z) for u, y in points]
        self.stage.canvas.world(world, paint)

    def pixels(self, start: float, end: float) -> float:
        """How wide a stretch of the plane looks, in canvas pixels."""
        view = self.stage.view
        if self.along:
            return abs(view.point(self.x, 0, self.z + start)[0] - view.point(self.x, 0, self.z + end)[0])
        return abs(end - start) * view.focal / max(self.z, 0.4)


@dataclass(frozen=True)
class Style:
    """What the fronts of one house have in common."""

    wall: Paint
    trim: Paint
    glass: Colour
    floors: int
    floor: float  # height
    spacing: float
    width: float  # window, share of the spacing
    tall: float  # window, share of the floor
    ribbon: bool
    shop: bool
    balcony: bool


def draw_style(stage: Stage) -> Style:
    """The style of one house, drawn from the domain's street."""
    street = stage.domain.street
    colour = stage.colour(stage.domain.colours.building)
    texture = BRICK if stage.chance(street.brick) else stage.rng.choice((GRAIN, BLOTCH, SMOOTH))
    wall = Paint(BUILDING, colour, texture, stage.pick(street.texture), stage.pick((0.8, 2.0)))
    glass = stage.pick((0.08, 0.6))
    tint = stage.pick((-0.06, 0.08))
    return Style(
        wall=wall,
        trim=wall.lit(stage.rng.choice((0.65, 0.8, 1.25, 1.4))),
        glass=(glass - tint, glass, glass + tint),
        floors=stage.rng.randint(*street.floors),
        floor=stage.pick(street.floor),
        spacing=stage.pick(street.window),
        width=stage.pick((0.4, 0.65)),
        tall=stage.pick((0.42, 0.65)),
        ribbon=stage.chance(street.ribbon),
        shop=stage.chance(street.shop),
        balcony=stage.chance(0.2),
    )


def draw_house(stage: Stage, side: int, x: float, near: float, far: float) -> None:
    """A house whose front stands at x from `near` to `far`, with the wall it turns to the camera."""
    style = draw_style(stage)
    height = style.floors * style.floor + stage.pick((0.3, 1.0))
    deep = stage.pick((8, 14))
    front = Face(stage, x, near, along=True)
    flank = Face(stage, x, near, along=False, direction=side)
    flank.quad(0, deep, 0, height, style.wall.lit(stage.light.facing(0)))
    if stage.chance(stage.domain.street.gable):
        _roof(stage, side, x, near, far, height, flank)
    if near > 4:
        _windows(stage, flank, style, deep, stage.light.facing(0))
    shade = stage.light.facing(-side)
    front.quad(0, far - near, 0, height, style.wall.lit(shade))
    _windows(stage, front, style, far - near, shade)
    front.quad(0, far - near, height - 0.45, height, style.trim.lit(shade))
    front.quad(0, far - near, 0, 0.5, style.trim.lit(0.8 * shade))


def _roof(stage: Stage, side: int, x: float, near: float, far: float, height: float, flank: Face) -> None:
    """A sloped roof: the slope above the front, and the gable turned to the camera."""
    rise, half = stage.pick((2.0, 4.0)), stage.pick((4.0, 5.5))
    tile = stage.colour(stage.domain.colours.building)
    paint = Paint(BUILDING, tile, STRIPE, 0.5 * stage.pick(stage.domain.street.texture))
    ridge = x + side * half
    slope = [(x, height, near), (x, height, far), (ridge, height + rise, far), (ridge, height + rise, near)]
    flank.fill([(0, height), (half, height + rise), (2 * half, height)], paint.lit(0.8))
    stage.canvas.world(slope, paint.lit(stage.light.facing(-side)))
    if stage.chance(0.6):
        u, z = x + side * half * 0.7, near + stage.pick((0.3, 0.7)) * (far - near)
        chimney = [(u, height, z), (u + 0.8, height, z), (u + 0.8, height + rise + 1, z), (u, height + rise + 1, z)]
        stage.canvas.world(chimney, paint.lit(0.6))


def _windows(stage: Stage, face: Face, style: Style, length: float, shade: float) -> None:
    """The window grid of one front, with shop windows or a door on the ground floor."""
    columns = max(1, int(length / style.spacing))
    pitch = length / columns
    if style.shop:
        _shop(stage, face, style, length, shade)
    else:
        _ground_floor(stage, face, style, columns, pitch, shade)
    for level in range(1, style.floors):
        low = level * style.floor + 0.3 * style.floor
        if style.ribbon:
            _pane(stage, face, style, 0.3, length - 0.3, low, low + style.tall * style.floor, shade)
            continue
        for column in range(columns):
            middle = (column + 0.5) * pitch
            half = 0.5 * style.width * pitch
            _pane(stage, face, style, middle - half, middle + half, low, low + style.tall * style.floor, shade)


def shine(colour: Colour, factor: float) -> Colour:
    """A colour times a factor."""
    red, green, blue = colour
    return factor * red, factor * green, factor * blue


def _pane(
    stage: Stage, face: Face, style: Style, start: float, end: float, low: float, high: float, shade: float
) -> None:
    """One window: frame, glass, and where it is large enough a bar, a sill or a balcony."""
    bright, pixels = stage.pick((0.6, 1.5)), face.pixels(start, end)
    if pixels < 1.2:
        return
    glass = Paint(BUILDING, shine(style.glass, bright), glow=0.3)
    if pixels > 5:
        face.quad(start - 0.12, end + 0.12, low - 0.12, high + 0.12, style.trim.lit(shade))
    face.quad(start, end, low, high, glass)
    if pixels > 8:
        middle = (start + end) / 2
        face.quad(middle - 0.05, middle + 0.05, low, high, style.trim.lit(shade))
        if style.balcony:
            face.quad(start - 0.3, end + 0.3, low - 0.5, low + 0.25, style.trim.lit(0.7 * shade))


def _ground_floor(stage: Stage, face: Face, style: Style, columns: int, pitch: float, shade: float) -> None:
    """Windows and one door."""
    door = stage.rng.randrange(columns)
    for column in range(columns):
        middle, half = (column + 0.5) * pitch, 0.5 * style.width * pitch
        if column == door:
            tone = stage.colour(stage.domain.colours.building)
            face.quad(middle - 0.7, middle + 0.7, 0, 2.5, style.trim.lit(shade))
            face.quad(middle - 0.55, middle + 0.55, 0, 2.35, Paint(BUILDING, tone).lit(0.6 * shade))
        else:
            _pane(stage, face, style, middle - half, middle + half, 1.0, 1.0 + style.tall * style.floor, shade)


def _shop(stage: Stage, face: Face, style: Style, length: float, shade: float) -> None:
    """Shop windows between piers, a coloured board and now and then an awning."""
    top = 0.72 * style.floor
    bays = max(1, round(length / 5))
    for bay in range(bays):
        start, end = (bay + 0.08) * length / bays, (bay + 0.92) * length / bays
        bright = stage.pick((0.5, 1.6))
        face.quad(start, end, 0.4, top, Paint(BUILDING, shine(style.glass, bright), glow=0.7))
        board = Paint(BUILDING, stage.colour(stage.domain.colours.sign))
        face.quad(start, end, top, top + 0.6, board.lit(shade))
        if stage.chance(0.35):
            face.quad(start, end, top - 0.7, top, board._replace(texture=STRIPE, amount=0.3).lit(1.1 * shade))


def draw_wall(stage: Stage, side: int, x: float, near: float, far: float) -> None:
    """A free-standing wall with a coping and piers."""
    height = stage.pick((2.2, 3.6))
    texture = stage.rng.choice((BRICK, BRICK, GRAIN))
    amount = 0.1 + stage.pick(stage.domain.street.texture)
    paint = Paint(WALL, stage.colour(stage.domain.colours.wall), texture, amount, stage.pick((0.8, 2.0)))
    shade = stage.light.facing(-side)
    Face(stage, x, near, along=False, direction=side).quad(0, 0.4, 0, height, paint.lit(stage.light.facing(0)))
    face = Face(stage, x, near, along=True)
    face.quad(0, far - near, 0, height, paint.lit(shade))
    face.quad(0, far - near, height - 0.2, height, paint.lit(1.25 * shade))
    pier = stage.pick((2.5, 5.0))
    for index in range(math.ceil((far - near) / pier)):
        u = index * pier
        face.quad(u, min(u + 0.35, far - near), 0, height + 0.12, paint.lit(0.8 * shade))


def draw_fence(stage: Stage, side: int, x: float, near: float, far: float) -> None:
    """A fence of pickets, bars or boards; what shows through its gaps counts as fence."""
    height = stage.pick((1.7, 2.6))
    paint = Paint(FENCE, stage.colour(stage.domain.colours.fence)).lit(stage.light.facing(-side))
    back = Paint(FENCE, stage.colour(stage.domain.colours.leaf), BLOTCH, 0.2).lit(0.5)
    face = Face(stage, x, near, along=True)
    face.quad(0, far - near, 0.1, height - 0.1, back)
    pitch = stage.rng.choice((0.5, 0.7, 0.9))
    width = pitch * stage.pick((0.45, 0.6))
    for index in range(int((far - near) / pitch)):
        u = index * pitch
        if face.pixels(u, u + pitch) > 1.5:
            face.quad(u, u + width, 0, height, paint)
    for y in (0.25, height - 0.3):
        face.quad(0, far - near, y, y + 0.16, paint.lit(0.9))


def draw_skyline(stage: Stage, distance: float) -> None:
    """House silhouettes across the end of the street."""
    x = -0.75 * distance
    while x < 0.75 * distance:
        width, height = stage.pick((8, 26)), stage.pick((4, 18))
        paint = Paint(BUILDING, stage.colour(stage.domain.colours.building), BLOTCH, 0.1)
        z = distance + stage.pick((0, 15))
        face = Face(stage, x, z, along=False)
        face.quad(0, width, -12, height, paint)
        for level in range(int(height / 3.5)):
            face.quad(0.8, width - 0.8, level * 3.5 + 1.2, level * 3.5 + 2.4, paint.lit(0.75))
        x += width * stage.pick((0.8, 1.6))
