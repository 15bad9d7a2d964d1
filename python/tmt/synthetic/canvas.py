"""The drawing surface: polygons are painted once, as numbers; colour, label and depth are looked up by number."""

import math
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tmt.synthetic.domain import Domain
from tmt.synthetic.texture import SMOOTH

Colour = tuple[float, float, float]  # RGB, 0 .. 1
Point = tuple[float, float]  # canvas pixels, x to the right, y down
World = tuple[float, float, float]  # metres: x to the right of the street's middle, y up from the ground, z ahead

# Label ids (Cityscapes) of what is drawn; every written layout is made from these.
EGO, STATIC, ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY = (
    1, 4, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23,
)  # fmt: skip
PERSON, RIDER, CAR, TRUCK, BUS, MOTORCYCLE, BICYCLE, PLATE = 24, 25, 26, 27, 28, 32, 33, 34

CIRCLE = tuple((math.cos(2 * math.pi * i / 12), math.sin(2 * math.pi * i / 12)) for i in range(12))


class Paint(NamedTuple):
    """What a polygon is made of."""

    label: int
    colour: Colour
    texture: int = SMOOTH
    amount: float = 0.0  # relative deviation of brightness
    size: float = 1.0  # magnification of the texture
    ground: bool = False  # the texture lies in the ground plane, and shadows fall on it
    glow: float = 0.0  # probability that it shines in the dark

    def lit(self, factor: float) -> "Paint":
        """The same with its colour brighter or darker."""
        return self._replace(colour=tuple(channel * factor for channel in self.colour))


@dataclass(frozen=True)
class View:
    """A pinhole camera over a street that may bend and climb; lengths on the canvas in pixels, others in metres."""

    width: int
    height: int
    focal: float
    centre: float  # canvas x of the point ahead
    horizon: float  # canvas y of the horizon
    camera_x: float
    camera_y: float
    bend: float  # sideways shift of the street per square metre ahead
    climb: float  # upward shift

    @property
    def near(self) -> float:
        """Distance of the nearest ground in the picture."""
        return self.focal * self.camera_y / (self.height - self.horizon)

    def point(self, x: float, y: float, z: float) -> Point:
        """Where a world point is seen; points beside or behind the camera are pulled in front of it."""
        z = max(z, 0.4)
        scale = self.focal / z
        across = x - self.camera_x + self.bend * z * z
        up = y - self.camera_y + self.climb * z * z
        return self.centre + scale * across, self.horizon - scale * up

    def thin(self, metres: float, z: float) -> float:
        """`metres`, or what is needed at distance z to be two pixels wide in a picture of 96 rows."""
        return max(metres, self.height / 38 * z / self.focal)


class Canvas:
    """Painted polygons: a picture of their numbers and, by number, their paints and distances."""

    def __init__(self, view: View):
        self.view = view
        self.numbers = Image.new("I", (view.width, view.height))
        self.shadows = Image.new("L", (view.width, view.height))
        self._draw = ImageDraw.Draw(self.numbers)
        self._draw_shadow = ImageDraw.Draw(self.shadows)
        self.paints: list[Paint] = [Paint(SKY, (0.0, 0.0, 0.0))]
        self.depths: list[float] = [1e4]

    def polygon(self, points: list[Point], paint: Paint, depth: float) -> None:
        """Fills a polygon on the canvas."""
        self._draw.polygon(points, fill=len(self.paints))
        self.paints.append(paint)
        self.depths.append(depth)

    def world(self, points: list[World], paint: Paint) -> None:
        """Fills a polygon in the world."""
        point = self.view.point
        depth = sum(z for _, _, z in points) / len(points)
        self.polygon([point(*p) for p in points], paint, depth)

    def sprite(self, foot: World, points: list[Point], paint: Paint) -> None:
        """Fills a polygon facing the camera; `points` are metres to the right of and above `foot`."""
        x, y = self.view.point(*foot)
        scale = self.view.focal / max(foot[2], 0.4)
        self.polygon([(x + scale * right, y - scale * up) for right, up in points], paint, foot[2])

    def disc(self, foot: World, middle: Point, radius: Point, paint: Paint) -> None:
        """Fills an ellipse facing the camera; `middle` and `radius` in metres from `foot`."""
        points = [(middle[0] + radius[0] * x, middle[1] + radius[1] * y) for x, y in CIRCLE]
        self.sprite(foot, points, paint)

    def shadow(self, points: list[World]) -> None:
        """Darkens the ground inside a polygon of the world."""
        self._draw_shadow.polygon([self.view.point(*p) for p in points], fill=255)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Polygon numbers int32 (h, w) and shadow uint8 (h, w)."""
        return np.asarray(self.numbers), np.asarray(self.shadows)


@dataclass(frozen=True)
class Light:
    """The sun over one scene."""

    side: int  # -1: it stands on the left, 1: on the right
    strength: float  # 0 overcast .. 1 clear
    length: float  # shadow length per metre of height

    def facing(self, side: int) -> float:
        """Brightness of an upright surface that faces left (-1), right (1) or the camera (0)."""
        return 1.0 + 0.3 * self.strength * (side * self.side if side else -0.15)


@dataclass(frozen=True)
class Stage:
    """All that drawing one scene needs."""

    domain: Domain
    canvas: Canvas
    view: View
    light: Light
    rng: Random

    def pick(self, bounds: tuple[float, float]) -> float:
        """A number between two bounds."""
        return self.rng.uniform(*bounds)

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.rng.random() < probability

    def colour(self, swatches: tuple) -> Colour:
        """A colour from one of some swatches."""
        return self.rng.choice(swatches).draw(self.rng)

    def cast(self, x: float, z: float, width: float, height: float, length: float = 0.6) -> None:
        """The shadow on the ground of something upright at (x, z): under it, and away from the sun."""
        half = width / 2
        near, far = z - length / 2, z + length / 2
        self.canvas.shadow([(x - half, 0, near), (x + half, 0, near), (x + half, 0, far), (x - half, 0, far)])
        if self.light.strength > 0.25:
            reach = -self.light.side * self.light.length * height
            tip = z + 0.35 * abs(reach)
            foot = [(x - half, 0, z), (x + half, 0, z)]
            self.canvas.shadow([*foot, (x + half + reach, 0, tip), (x - half + reach, 0, tip)])
