"""From a painted canvas to a picture and its label: texture, shadow, air, lens and sensor."""

from random import Random

import numpy as np
from scipy.ndimage import gaussian_filter

from tmt.data.labels import lookup_table
from tmt.data.transforms import hue_matrix, saturation_matrix
from tmt.errors import DataError
from tmt.synthetic.canvas import SKY, Stage
from tmt.synthetic.domain import Domain, Optics
from tmt.synthetic.domains import DOMAINS
from tmt.synthetic.lens import distortion_maps, drops, windscreen
from tmt.synthetic.scene import draw_scene
from tmt.synthetic.spectrum import domain_at
from tmt.synthetic.texture import CLOUD, SIDE, TEXELS_PER_METRE, bank
from tmt.synthetic.weather import Conditions, bloom, darken, draw_conditions, glow_map, overcast, settle_snow, soak

SAMPLES = 2  # canvas pixels per picture pixel, each way


def render_ids(
    domain: str, seed: int, index: int, size: tuple[int, int], distance: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scene `index` of a seed: image uint8 (H, W, 3) and Cityscapes label ids uint8 (H, W), 34 for licence plates.

    A pure function of its arguments. `size` is (H, W) in pixels; `distance` is how much of the domain's own look it
    has, from 0, the look that all domains have in common, to 1. Raises DataError for an unknown domain, a bad size and
    a bad distance.
    """
    if domain not in DOMAINS:
        raise DataError(f"render: domain must be one of {', '.join(DOMAINS)}, got {domain!r}")
    height, width = size
    if height < 16 or width < 16:
        raise DataError(f"render: size must be at least 16 x 16 pixels, got {height} x {width}")
    look, rng = domain_at(domain, distance), Random(f"{domain} {seed} {index}")
    extra = Random(f"{domain} {seed} {index} air and glass")  # of its own, so that the street stays the same
    stage = draw_scene(look, rng, width * SAMPLES, height * SAMPLES)
    conditions = draw_conditions(look.weather, extra)
    picture, glow, ids = _daylight(stage, conditions, extra)
    picture, ids = _shrink(picture), _majority(ids)
    if conditions.dark:
        picture = bloom(picture, _shrink(glow), conditions.dark)
    picture = _behind_glass(look.optics, picture, conditions, extra)
    if look.optics.mirror and extra.random() < look.optics.mirror:
        picture, ids = picture[:, ::-1], ids[:, ::-1]
    return _photograph(look, rng, picture), np.ascontiguousarray(ids)


def render(
    domain: str, seed: int, index: int, size: tuple[int, int] = (96, 192), distance: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """As `render_ids`, with training ids (19 classes, 255 = ignore)."""
    image, ids = render_ids(domain, seed, index, size, distance)
    return image, lookup_table("gtav")[ids]


def _daylight(stage: Stage, conditions: Conditions, extra: Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The canvas in colour under its light and weather and through its lens: picture and what shines by itself, float32
    (h, w, 3) each, and label ids (h, w)."""
    numbers, shadows = stage.canvas.arrays()
    ids = np.array([paint.label for paint in stage.canvas.paints], dtype=np.uint8)[numbers]
    picture = _sky(stage, _surfaces(stage, numbers, shadows), ids)
    if conditions.snow:
        picture = settle_snow(stage, picture, ids, conditions.snow)
    picture, glow = _airlight(stage, picture, numbers, ids), np.zeros((), dtype=np.float32)
    if conditions.wet:
        picture = overcast(picture, ids, conditions.wet)
    if conditions.dark:
        glow = glow_map(stage, numbers)
        picture = darken(stage, picture, ids, _distance(stage, numbers), glow, conditions.dark)
    if conditions.wet:
        picture = soak(stage, picture, ids, conditions.wet)
    if any(stage.domain.optics.distortion):
        rows, columns = distortion_maps(ids.shape, extra.uniform(*stage.domain.optics.distortion))
        picture, ids = picture[rows, columns], ids[rows, columns]
        glow = glow[rows, columns] if glow.ndim else glow
    return picture, glow, ids


def _behind_glass(optics: Optics, picture: np.ndarray, conditions: Conditions, extra: Random) -> np.ndarray:
    """The windscreen, if the camera is behind one, with what the weather leaves on it."""
    if not optics.windscreen:
        return picture
    picture = windscreen(picture, optics.windscreen * (1 - 0.6 * conditions.dark), extra)
    return drops(picture, optics.windscreen * conditions.wet, extra) if conditions.wet else picture


def _surfaces(stage: Stage, numbers: np.ndarray, shadows: np.ndarray) -> np.ndarray:
    """Colours of all surfaces with their textures and the shadows on the ground, float32 (h, w, 3)."""
    paints = stage.canvas.paints
    colours = np.array([paint.colour for paint in paints], dtype=np.float32)
    amounts = np.array([paint.amount for paint in paints], dtype=np.float32)
    ground = np.array([paint.ground for paint in paints])[numbers]
    distance, rows, columns = _ground_texels(stage)
    texture = _texture(stage, numbers, ground, rows, columns)
    fade = np.where(ground, 1 / (1 + distance / 25), np.float32(1))
    brightness = 1 + amounts[numbers] * fade * texture
    dark = stage.pick(stage.domain.weather.shadow) * (0.45 + 0.55 * stage.light.strength)
    brightness -= ground * (shadows / np.float32(255)) * np.float32(dark)
    return colours[numbers] * np.maximum(brightness, 0.05)[..., None]


def _ground_texels(stage: Stage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The flat ground: each row's distance (h, 1), each pixel's texel along and across the street (h, w)."""
    view = stage.view
    below = np.maximum(np.arange(view.height, dtype=np.float32) + 0.5 - view.horizon, 1.0)[:, None]
    distance = view.focal * view.camera_y / below
    across = (np.arange(view.width, dtype=np.float32)[None, :] - view.centre) * (distance / view.focal)
    along = np.broadcast_to(distance, across.shape)
    return distance, along * TEXELS_PER_METRE, across * TEXELS_PER_METRE


def _texture(
    stage: Stage, numbers: np.ndarray, ground: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Texture values (h, w): on the ground in its plane, on all else in the picture's, as fine as the distance asks."""
    paints, view = stage.canvas.paints, stage.view
    depths = np.array(stage.canvas.depths, dtype=np.float32)
    sizes = np.array([paint.size for paint in paints], dtype=np.float32)
    step = np.clip(TEXELS_PER_METRE * depths / view.focal, 0.05, 2.0) / sizes
    step = np.where(np.array([paint.ground for paint in paints]), 1 / sizes, step).astype(np.float32)[numbers]
    y = np.where(ground, rows, np.arange(view.height, dtype=np.float32)[:, None])
    x = np.where(ground, columns, np.arange(view.width, dtype=np.float32)[None, :])
    y = (y * step).astype(np.int32) + numbers * 37
    x = (x * step).astype(np.int32) + numbers * 91
    kinds = np.array([paint.texture for paint in paints], dtype=np.int32)[numbers]
    return bank().ravel()[(kinds * SIDE + y % SIDE) * SIDE + x % SIDE]


def _sky(stage: Stage, picture: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Fills the sky: a gradient from the zenith to the horizon, and clouds."""
    view, weather = stage.view, stage.domain.weather
    zenith, low = (np.array(colour, dtype=np.float32) for colour in stage.rng.choice(weather.skies))
    down = np.clip(np.arange(view.height, dtype=np.float32) / max(view.horizon, 1), 0, 1)[:, None, None]
    gradient = zenith + (low - zenith) * down**1.3
    step = 1.3 * SIDE / view.width
    rows = (np.arange(view.height) * 2 * step).astype(int) + stage.rng.randrange(SIDE)
    columns = (np.arange(view.width) * step).astype(int) + stage.rng.randrange(SIDE)
    clouds = bank()[CLOUD][rows[:, None] % SIDE, columns[None, :] % SIDE]
    sky = gradient * (1 + np.float32(stage.pick(weather.clouds)) * clouds[..., None])
    mask = ids == SKY
    picture[mask] = np.broadcast_to(sky, picture.shape)[mask]
    return picture


def _distance(stage: Stage, numbers: np.ndarray) -> np.ndarray:
    """Metres to what each pixel shows, float32 (h, w)."""
    depths = np.array(stage.canvas.depths, dtype=np.float32)[numbers]
    distance, _, _ = _ground_texels(stage)
    ground = np.array([paint.ground for paint in stage.canvas.paints])[numbers]
    return np.where(ground, np.minimum(distance, 250), depths)


def _airlight(stage: Stage, picture: np.ndarray, numbers: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Mixes in the air's colour with distance; the sky already has it."""
    depths = _distance(stage, numbers)
    clear = np.exp(-np.float32(stage.pick(stage.domain.weather.haze)) * depths)
    clear = np.where(ids == SKY, np.float32(1), clear)[..., None]
    air = picture[ids == SKY].mean(axis=0) if (ids == SKY).any() else np.float32(0.7)
    return picture * clear + air * (1 - clear)


def _shrink(picture: np.ndarray) -> np.ndarray:
    """Mean over the canvas pixels of each picture pixel."""
    height, width = picture.shape[0] // SAMPLES, picture.shape[1] // SAMPLES
    return picture.reshape(height, SAMPLES, width, SAMPLES, 3).mean(axis=(1, 3))


def _majority(ids: np.ndarray) -> np.ndarray:
    """The most frequent of the four canvas labels of each picture pixel; of equals, the first in reading order."""
    a, b, c, d = ids[::2, ::2], ids[::2, 1::2], ids[1::2, ::2], ids[1::2, 1::2]
    others = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, others)


def _photograph(domain: Domain, rng: Random, picture: np.ndarray) -> np.ndarray:
    """Lens and sensor: blur, vignette, exposure, contrast, colour cast, noise; to uint8."""
    optics, height = domain.optics, picture.shape[0]
    blur = rng.uniform(*optics.blur) * height / 96
    if blur > 0.2:
        picture = gaussian_filter(picture, (blur, blur, 0), truncate=2.5)
    y, x = np.ogrid[-1 : 1 : picture.shape[0] * 1j, -1 : 1 : picture.shape[1] * 1j]
    gain = 2 ** rng.uniform(*optics.exposure) * (1 - rng.uniform(*optics.vignette) * (y * y + x * x) / 2)
    cast = np.diag([1 + rng.uniform(-1, 1) * optics.cast for _ in range(3)])
    tones = cast @ saturation_matrix(rng.uniform(*optics.saturation)) @ hue_matrix(rng.uniform(-1, 1) * optics.hue)
    picture = (picture * gain[..., None].astype(np.float32)) @ tones.T.astype(np.float32)
    picture = 0.5 + (picture - 0.5) * np.float32(rng.uniform(*optics.contrast))
    sigma = np.float32(rng.uniform(*optics.noise))
    noise = np.random.default_rng(rng.getrandbits(64)).standard_normal(picture.shape, dtype=np.float32)
    return (np.clip(picture + sigma * noise, 0, 1) * 255 + 0.5).astype(np.uint8)
