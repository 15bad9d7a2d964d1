"""Cars, trucks and buses: side profiles extruded to their width, seen from any place on the street."""

from collections.abc import Callable
from dataclasses import dataclass

from tmt.synthetic.canvas import BUS, CAR, CIRCLE, PLATE, TRUCK, Colour, Paint, Point, Stage
from tmt.synthetic.texture import SHEEN, STRIPE

BODY, GLASS = "body", "glass"


@dataclass(frozen=True)
class Profile:
    """A vehicle's outline seen from its left: metres from its tail, and up; and what is on it."""

    label: int
    width: float
    outline: tuple[Point, ...]  # from the tail's foot over the roof to the nose's foot
    skin: tuple[str, ...]  # of each stretch of the outline
    windows: tuple[tuple[Point, ...], ...]
    wheels: tuple[float, ...]
    radius: float
    belt: float  # above it the sides lean inwards
    lean: float


def _rectangles(start: float, end: float, count: int, low: float, high: float) -> tuple[tuple[Point, ...], ...]:
    """A row of upright windows."""
    pitch = (end - start) / count
    spans = [(start + i * pitch + 0.06 * pitch, start + (i + 0.94) * pitch) for i in range(count)]
    return tuple(((a, low), (b, low), (b, high), (a, high)) for a, b in spans)


SALOON = Profile(
    CAR, 1.8,
    ((0, 0.2), (0, 0.75), (0.05, 0.95), (0.75, 1.0), (1.3, 1.42), (2.6, 1.46), (3.3, 1.0), (4.3, 0.8), (4.4, 0.2)),
    (BODY, BODY, BODY, GLASS, BODY, GLASS, BODY, BODY),
    (((0.95, 1.0), (1.4, 1.36), (1.95, 1.4), (1.95, 1.0)), ((2.05, 1.0), (2.05, 1.4), (2.55, 1.4), (3.1, 1.0))),
    (0.85, 3.55), 0.32, 1.0, 0.16,
)  # fmt: skip
HATCHBACK = Profile(
    CAR, 1.75, ((0, 0.2), (0, 0.95), (0.35, 1.45), (2.2, 1.52), (3.0, 1.0), (3.85, 0.85), (3.95, 0.2)),
    (BODY, GLASS, BODY, GLASS, BODY, BODY),
    (((0.3, 1.0), (0.6, 1.4), (1.45, 1.44), (1.45, 1.0)), ((1.55, 1.0), (1.55, 1.44), (2.15, 1.44), (2.8, 1.0))),
    (0.7, 3.2), 0.31, 1.0, 0.16,
)  # fmt: skip
ESTATE = Profile(
    CAR, 1.9, ((0, 0.25), (0, 1.1), (0.3, 1.68), (3.0, 1.74), (3.6, 1.15), (4.6, 1.0), (4.7, 0.25)),
    (BODY, GLASS, BODY, GLASS, BODY, BODY),
    (((0.3, 1.15), (0.55, 1.6), (1.9, 1.65), (1.9, 1.15)), ((2.0, 1.15), (2.0, 1.65), (2.9, 1.65), (3.4, 1.15))),
    (0.85, 3.8), 0.38, 1.15, 0.14,
)  # fmt: skip
VAN = Profile(
    CAR, 1.95, ((0, 0.25), (0, 1.15), (0.08, 2.0), (3.7, 2.05), (4.4, 1.2), (5.0, 1.0), (5.1, 0.25)),
    (BODY, GLASS, BODY, GLASS, BODY, BODY),
    (((2.9, 1.25), (2.9, 1.85), (3.6, 1.85), (4.1, 1.25)),),
    (0.95, 4.1), 0.36, 1.3, 0.1,
)  # fmt: skip
PICKUP = Profile(
    CAR, 1.95, ((0, 0.35), (0, 1.1), (1.9, 1.1), (2.15, 1.75), (3.5, 1.8), (4.1, 1.2), (5.2, 1.1), (5.3, 0.35)),
    (BODY, BODY, GLASS, BODY, GLASS, BODY, BODY),
    (((2.2, 1.2), (2.35, 1.66), (2.9, 1.7), (2.9, 1.2)), ((3.0, 1.2), (3.0, 1.7), (3.45, 1.7), (3.85, 1.2))),
    (1.0, 4.2), 0.42, 1.2, 0.12,
)  # fmt: skip
BOX = Profile(TRUCK, 2.45, ((0, 0.6), (0, 3.4), (5.4, 3.4), (5.4, 0.6)), (BODY, BODY, BODY), (), (1.2,), 0.5, 9.0, 0.0)
CAB = Profile(
    TRUCK, 2.3, ((5.6, 0.5), (5.6, 2.6), (6.9, 2.65), (7.3, 1.5), (7.4, 0.5)), (BODY, BODY, GLASS, BODY),
    (((6.1, 1.5), (6.1, 2.35), (6.8, 2.35), (7.15, 1.5)),), (6.5,), 0.5, 9.0, 0.0,
)  # fmt: skip
COACH = Profile(
    BUS, 2.5, ((0, 0.35), (0, 1.5), (0.05, 2.6), (0.1, 3.05), (10.8, 3.05), (10.95, 2.7), (11.0, 1.1), (11.0, 0.35)),
    (BODY, GLASS, BODY, BODY, BODY, GLASS, BODY),
    (*_rectangles(0.4, 9.4, 6, 1.45, 2.55), ((9.5, 0.5), (9.5, 2.5), (10.5, 2.5), (10.5, 0.5))),
    (2.4, 8.6), 0.48, 9.0, 0.0,
)  # fmt: skip
CARS = (SALOON, HATCHBACK, ESTATE, VAN, PICKUP)


@dataclass(frozen=True)
class Pose:
    """Where a vehicle is: its middle line at `x`, its nearest end at `z`; or, across, its left end at x."""

    x: float
    z: float
    across: bool = False
    towards: bool = False  # facing the camera; across: facing left

    def place(self, length: float) -> Callable[[float, float, float], tuple[float, float, float]]:
        """Maps (from the tail, sideways, up) to the world."""

        def world(tail: float, sideways: float, up: float) -> tuple[float, float, float]:
            forward = length - tail if self.towards else tail
            if self.across:
                return self.x + forward, up, self.z + 1.0 + sideways
            return self.x + sideways, up, self.z + forward

        return world


def draw_car(stage: Stage, pose: Pose) -> None:
    """A car of one of the domain's types."""
    profile = stage.rng.choices(CARS, stage.domain.population.vehicle_types)[0]
    _draw(stage, (profile,), pose, (stage.colour(stage.domain.colours.vehicle),))


def draw_truck(stage: Stage, pose: Pose) -> None:
    """A box truck: cab and box in colours of their own, the farther first."""
    parts = (BOX, CAB) if pose.towards else (CAB, BOX)
    _draw(stage, parts, pose, tuple(stage.colour(stage.domain.colours.vehicle) for _ in parts))


def draw_bus(stage: Stage, pose: Pose) -> None:
    """A bus."""
    _draw(stage, (COACH,), pose, (stage.colour(stage.domain.colours.vehicle),))


def _draw(stage: Stage, profiles: tuple[Profile, ...], pose: Pose, colours: tuple[Colour, ...]) -> None:
    """Shadow, then each part."""
    length = max(profile.outline[-1][0] for profile in profiles)
    world = pose.place(length)
    half = profiles[0].width / 2 + 0.1
    corners = [world(tail, side, 0.0) for tail, side in ((0, -half), (0, half), (length, half), (length, -half))]
    stage.canvas.shadow(corners)
    if stage.light.strength > 0.25:
        reach = -stage.light.side * stage.light.length * 1.3
        stage.canvas.shadow([(x + (reach if x * reach > pose.x * reach else 0), y, z) for x, y, z in corners])
    for profile, colour in zip(profiles, colours, strict=True):
        Part(stage, profile, pose, world, colour).draw()


@dataclass(frozen=True)
class Part:
    """One extruded profile in its place."""

    stage: Stage
    profile: Profile
    pose: Pose
    world: Callable[[float, float, float], tuple[float, float, float]]
    colour: Colour

    @property
    def hand(self) -> int:
        """The turning sense, on the canvas, of an outline stretch that faces the camera."""
        return -1 if self.pose.across == self.pose.towards else 1

    def draw(self) -> None:
        """Outline stretches from far to near, then the side, the wheels and the tail."""
        outline = self.profile.outline
        stretches = list(zip(outline[:-1], outline[1:], self.profile.skin, strict=True))
        for start, end, skin in stretches if self.pose.towards else reversed(stretches):
            self._stretch(start, end, skin)
        for side in (-1, 1):
            self._side(side)
        if not self.pose.across:
            self._ends()

    def _half(self, up: float) -> float:
        return self.profile.width / 2 - (self.profile.lean if up > self.profile.belt else 0.0)

    def _fill(self, points: list[tuple[float, float, float]], paint: Paint, sense: int) -> bool:
        """Fills the polygon if it turns in the given sense, that is, if it faces the camera."""
        view = self.stage.view
        seen = [view.point(*p) for p in points]
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(seen, seen[1:] + seen[:1], strict=True))
        if area * sense <= 0:
            return False
        self.stage.canvas.polygon(seen, paint, self.pose.z)
        return True

    def _paint(self, skin: str, factor: float) -> Paint:
        if skin == GLASS:
            return Paint(self.profile.label, (0.16, 0.18, 0.2), SHEEN, 0.35).lit(factor)
        return Paint(self.profile.label, self.colour, SHEEN, 0.06).lit(factor)

    def _stretch(self, start: Point, end: Point, skin: str) -> None:
        """The quad between two outline points; flat ones catch the sky."""
        low, high = self._half(start[1]), self._half(end[1])
        flat = abs(end[1] - start[1]) < 0.6 * abs(end[0] - start[0])
        factor = 1.2 if flat else self.stage.light.facing(0) * 0.9
        halves = ((start, -low), (start, low), (end, high), (end, -high))
        self._fill([self.world(tail, half, up) for (tail, up), half in halves], self._paint(skin, factor), self.hand)

    def _side(self, side: int) -> None:
        """One flank with its windows, wheels and sill, if it faces the camera."""
        flank = [self.world(a, side * self._half(up), up) for a, up in self.profile.outline]
        facing = self.stage.light.facing(0 if self.pose.across else side)
        if not self._fill(flank, self._paint(BODY, facing), -self.hand * side):
            return
        glass = self._paint(GLASS, facing)
        for window in self.profile.windows:
            points = [self.stage.view.point(*self.world(a, side * self._half(up), up)) for a, up in window]
            self.stage.canvas.polygon(points, glass, self.pose.z)
        for wheel in self.profile.wheels:
            self._wheel(wheel, side)

    def _wheel(self, tail: float, side: int) -> None:
        half, radius = self.profile.width / 2, self.profile.radius
        for share, tone in ((1.0, 0.06), (0.55, 0.45)):
            ring = [self.world(tail + share * radius * x, side * half, radius + share * radius * y) for x, y in CIRCLE]
            paint = Paint(self.profile.label, (tone, tone, tone))
            self.stage.canvas.polygon([self.stage.view.point(*p) for p in ring], paint, self.pose.z)

    def _ends(self) -> None:
        """What is on the end turned to the camera: lamps, plate, wheels below, doors of a box."""
        outline, half = self.profile.outline, self.profile.width / 2
        tail = outline[-1][0] if self.pose.towards else outline[0][0]
        if abs(self.world(tail, 0, 0)[2] - self.pose.z) > 0.3:
            return
        foot = outline[0][1]
        lamp = (0.95, 0.93, 0.8) if self.pose.towards else (0.75, 0.08, 0.08)
        up, tyre = min(foot + 0.5, 1.1), Paint(self.profile.label, (0.05, 0.05, 0.05))
        for side in (-1, 1):
            self._patch(tail, side * (half - 0.22), 0.13, 0.0, foot, tyre)
            self._patch(tail, side * (half - 0.2), 0.16, up, up + 0.2, Paint(self.profile.label, lamp, glow=1.0))
        self._patch(tail, 0, half - 0.02, foot, foot + 0.15, self._paint(BODY, 0.45))
        if self.profile is BOX:
            self._patch(tail, 0, half - 0.15, 1.0, 3.25, self._paint(BODY, 0.85)._replace(texture=STRIPE, amount=0.15))
            self._patch(tail, 0, 0.05, 1.0, 3.25, self._paint(BODY, 0.45))
        label = PLATE if self.stage.domain.population.plates else self.profile.label
        self._patch(tail, 0, 0.28, up - 0.12, up + 0.06, Paint(label, (0.85, 0.85, 0.7)))

    def _patch(self, tail: float, middle: float, half: float, low: float, high: float, paint: Paint) -> None:
        """An upright rectangle on the end."""
        corners = ((middle - half, low), (middle + half, low), (middle + half, high), (middle - half, high))
        points = [self.stage.view.point(*self.world(tail, side, up)) for side, up in corners]
        self.stage.canvas.polygon(points, paint, self.pose.z)
