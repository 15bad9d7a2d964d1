"""What a domain of synthetic scenes looks like: frozen parameter sets, one for each dataset whose layout it takes."""

import colorsys
from dataclasses import dataclass
from random import Random

Range = tuple[float, float]
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Swatch:
    """A box of colours in hue (degrees), saturation and value."""

    hue: Range
    saturation: Range
    value: Range

    def draw(self, rng: Random) -> RGB:
        """A colour of the box, RGB 0 .. 1."""
        hue, saturation, value = rng.uniform(*self.hue), rng.uniform(*self.saturation), rng.uniform(*self.value)
        return colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)


@dataclass(frozen=True)
class Optics:
    """Camera and picture."""

    focal: Range  # of the picture's width
    horizon: Range  # of the picture's height, from the top
    height: Range  # metres
    ahead: Range  # where the street leads, of the picture's width
    bend: float  # largest, per metre
    climb: float  # largest, per metre
    blur: Range  # pixels at 96 rows
    noise: Range  # deviation, of 1
    vignette: Range
    exposure: Range  # stops
    contrast: Range
    saturation: Range
    cast: float  # largest gain of a colour channel, relative
    hue: float  # largest rotation of all colours, degrees
    bonnet: float  # probability that the own bonnet is in the picture
    side: Range = (0.6, 2.4)  # metres to the right of the street's middle
    distortion: Range = (0.0, 0.0)  # of the radius at the picture's corner; above 0 barrel, below 0 pincushion
    mirror: float = 0.0  # probability that traffic keeps left
    windscreen: float = 0.0  # strength of reflections in the windscreen, and of dirt on it
    jpeg: Range = (92.0, 95.0)  # quality, where the layout has JPEG files


@dataclass(frozen=True)
class Weather:
    """Sky, air and sun."""

    skies: tuple[tuple[RGB, RGB], ...]  # zenith and horizon
    clouds: Range
    haze: Range  # per metre
    sun: Range  # strength
    shadow: Range  # darkness at full sun
    shadow_length: Range  # per metre of height
    night: float = 0.0  # probability, as of the next three
    dusk: float = 0.0
    rain: float = 0.0
    snow: float = 0.0


@dataclass(frozen=True)
class Colours:
    """Swatches of each material; they overlap on purpose, so that colour does not give the class away."""

    road: tuple[Swatch, ...]
    sidewalk: tuple[Swatch, ...]
    building: tuple[Swatch, ...]
    wall: tuple[Swatch, ...]
    fence: tuple[Swatch, ...]
    pole: tuple[Swatch, ...]
    sign: tuple[Swatch, ...]
    leaf: tuple[Swatch, ...]
    grass: tuple[Swatch, ...]
    vehicle: tuple[Swatch, ...]
    cloth: tuple[Swatch, ...]
    light: tuple[Swatch, ...]  # housings of traffic lights
    marking: tuple[Swatch, ...]


@dataclass(frozen=True)
class Street:
    """The built street; lengths in metres."""

    lanes: tuple[int, int]
    lane: Range
    parking: float  # probability of a parking lane, each side
    sidewalk: Range
    verge: float  # probability of grass between road and sidewalk
    lots: tuple[float, float, float, float, float]  # weights of building, wall, fence, park, side street
    lot: Range  # length
    setback: Range
    floors: tuple[int, int]
    floor: Range
    window: Range  # spacing
    brick: float  # probability
    gable: float  # probability of a sloped roof
    shop: float  # probability of shop fronts
    ribbon: float  # probability of window bands
    texture: Range  # strength of surface textures
    tiles: float  # probability of paving slabs
    palms: float  # share of palms among the trees
    conifers: float
    grass: bool = True  # grass is terrain; else it counts as vegetation


@dataclass(frozen=True)
class Population:
    """How many of each, at least and at most; spacings in metres."""

    parked: float  # share of the parking lane taken
    cars: tuple[int, int]
    large: tuple[int, int]  # trucks and buses
    persons: tuple[int, int]
    riders: tuple[int, int]
    bicycles: tuple[int, int]
    motorcycles: tuple[int, int]
    poles: Range  # spacing
    trees: Range  # spacing
    signs: tuple[int, int]
    lights: tuple[int, int]
    clutter: tuple[int, int]
    vehicle_types: tuple[float, float, float, float, float]  # weights of saloon, hatchback, estate, van, pickup
    far: float  # distance to which small things stand
    plates: bool  # licence plates have a label of their own
    hanging_lights: float  # share of traffic lights on arms over the road
    round_signs: float  # share of round and triangular signs, the others are rectangular
    trucks: bool = True  # large vehicles are trucks and buses, else buses
    nearest: float = 0.0  # where traffic begins, at least
    reach: float = 42.0  # distance to which lamps stand


@dataclass(frozen=True)
class Domain:
    """One look of synthetic scenes."""

    name: str
    optics: Optics
    weather: Weather
    colours: Colours
    street: Street
    population: Population
