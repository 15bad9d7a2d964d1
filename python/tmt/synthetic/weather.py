"""Night, dusk, rain and snow, put on a picture that was drawn by day."""

from dataclasses import dataclass
from random import Random

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter1d

from tmt.synthetic.canvas import ROAD, SIDEWALK, SKY, TERRAIN, VEGETATION, Stage
from tmt.synthetic.domain import Weather
from tmt.synthetic.texture import BLOTCH, CLOUD, SIDE, bank

WARM = np.array((1.0, 0.82, 0.55), dtype=np.float32)


@dataclass(frozen=True)
class Conditions:
    """What one scene's light and weather are beside the domain's usual ones; shares 0 .. 1."""

    dark: float = 0.0  # 0 day, about 0.5 dusk, 1 night
    wet: float = 0.0
    snow: float = 0.0


def draw_conditions(weather: Weather, rng: Random) -> Conditions:
    """The conditions of one scene; a domain without any draws no number."""
    if not (weather.night or weather.dusk or weather.rain or weather.snow):
        return Conditions()
    light, sky = rng.random(), rng.random()
    dark = 0.0
    if light < weather.night:
        dark = rng.uniform(0.85, 1.0)
    elif light < weather.night + weather.dusk:
        dark = rng.uniform(0.35, 0.6)
    wet = rng.uniform(0.4, 1.0) if sky < weather.rain else 0.0
    snow = rng.uniform(0.4, 1.0) if weather.rain <= sky < weather.rain + weather.snow else 0.0
    return Conditions(dark, wet, snow)


def glow_map(stage: Stage, numbers: np.ndarray) -> np.ndarray:
    """What shines by itself, by pixel, float32 (h, w, 3): lamps, and some windows."""
    paints = stage.canvas.paints
    colours = np.array([paint.colour for paint in paints], dtype=np.float32)
    # A hash of the number decides which windows are lit, so that no condition changes what else is drawn.
    chance = (np.arange(len(paints), dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(16)) % np.uint32(1000)
    shines = chance < 1000 * np.array([paint.glow for paint in paints])
    peak = np.maximum(colours.max(1, keepdims=True), 1e-3)
    vivid = (peak - colours.min(1, keepdims=True)) / peak > 0.55
    light = np.where(vivid, colours / peak, WARM) * shines[:, None]
    return light.astype(np.float32)[numbers]


def settle_snow(stage: Stage, picture: np.ndarray, ids: np.ndarray, amount: float) -> np.ndarray:
    """Whitens what lies flat, and the tops of plants; the road where no one drives."""
    cover = {TERRAIN: 1.0, SIDEWALK: 0.85, ROAD: 0.5, VEGETATION: 0.35}
    patches = _tile(BLOTCH, picture.shape[:2], 0.3)
    share = np.zeros(ids.shape, dtype=np.float32)
    for label, most in cover.items():
        share[ids == label] = most * amount
    share = np.clip(share * (1 + 0.35 * patches), 0, 1)[..., None]
    white = np.array((0.86, 0.88, 0.93), dtype=np.float32) * (1 + 0.02 * patches[..., None])
    return picture * (1 - share) + white * share


def darken(
    stage: Stage, picture: np.ndarray, ids: np.ndarray, distance: np.ndarray, glow: np.ndarray, dark: float
) -> np.ndarray:
    """The light of dusk or night: a dim sky, the own headlights, and what stands around lamps."""
    height, width = ids.shape
    ambient = np.array((1 - 0.86 * dark, 1 - 0.84 * dark, 1 - 0.78 * dark), dtype=np.float32)
    x = (np.arange(width, dtype=np.float32) - stage.view.centre) / (0.42 * width)
    y = np.clip(
        (np.arange(height, dtype=np.float32)[:, None] - stage.view.horizon + 0.12 * height) / (0.2 * height), 0, 1
    )
    beam = np.exp(-np.square(x))[None, :] * y * np.exp(-distance / 26)
    step = max(1, height // 48)
    small = glow[::step, ::step].mean(-1)
    halo = gaussian_filter(small, (height / step / 9, height / step / 9))
    halo = np.repeat(np.repeat(halo, step, 0), step, 1)[:height, :width]
    light = ambient + dark * (0.75 * beam[..., None] + 3.0 * halo[..., None]) * WARM
    night = np.where((ids == SKY)[..., None], _dark_sky(stage, picture, dark), picture * light)
    return np.maximum(night, glow * (0.35 + 0.6 * dark))


def _dark_sky(stage: Stage, picture: np.ndarray, dark: float) -> np.ndarray:
    """Orange over the roofs at dusk, a faint shine of the town at night."""
    down = np.clip(np.arange(picture.shape[0], dtype=np.float32) / max(stage.view.horizon, 1), 0, 1)[:, None, None] ** 2
    dusk = np.array((0.25, 0.28, 0.42), np.float32) * (1 - down) + np.array((0.85, 0.48, 0.3), np.float32) * down
    night = np.array((0.03, 0.035, 0.06), np.float32) + np.array((0.13, 0.1, 0.08), np.float32) * down
    share = min(1.0, max(0.0, (dark - 0.5) * 2.5))
    clouds = 0.6 + 0.4 * picture.mean(-1, keepdims=True)
    return (dusk * (1 - share) + night * share) * clouds


def soak(stage: Stage, picture: np.ndarray, ids: np.ndarray, wet: float) -> np.ndarray:
    """A wet road: darker, and showing a streaky mirror image of what stands over it."""
    height, horizon = picture.shape[0], int(stage.view.horizon)
    rows = np.clip(2 * horizon - np.arange(height) + height // 20, 0, height - 1)
    streaks = uniform_filter1d(picture[rows], size=max(3, height // 6), axis=0, mode="nearest")
    road = (ids == ROAD)[..., None] * np.float32(wet)
    gloss = (0.5 + 0.25 * np.clip(_tile(BLOTCH, ids.shape, 0.25), -1, 1))[..., None] * road
    return picture * (1 - 0.35 * road) * (1 - gloss) + streaks * gloss


def overcast(picture: np.ndarray, ids: np.ndarray, wet: float) -> np.ndarray:
    """Rain's flat grey light: little colour, little contrast, a grey sky."""
    grey = picture.mean(-1, keepdims=True)
    dull = picture + (grey - picture) * np.float32(0.45 * wet)
    sky = np.array((0.62, 0.64, 0.67), np.float32) * (1 + 0.06 * _tile(CLOUD, ids.shape, 0.7)[..., None])
    dull = np.where((ids == SKY)[..., None], dull * (1 - 0.85 * wet) + sky * (0.85 * wet), dull)
    return dull + (np.float32(0.5) - dull) * np.float32(0.15 * wet)


def bloom(picture: np.ndarray, glow: np.ndarray, dark: float) -> np.ndarray:
    """The shine that bright lamps spread over a dark picture; both float32 (H, W, 3)."""
    height = picture.shape[0]
    near = gaussian_filter(glow, (height / 60, height / 60, 0), truncate=3)
    wide = gaussian_filter(glow, (height / 14, height / 14, 0), truncate=2.5)
    return picture + np.float32(dark) * (0.55 * near + 0.8 * wide)


def _tile(kind: int, size: tuple[int, int], scale: float) -> np.ndarray:
    """A texture over a whole picture, stretched by 1 / scale."""
    rows, columns = (np.arange(length) * scale * 384 / size[1] for length in size)
    return bank()[kind][rows.astype(int)[:, None] % SIDE, columns.astype(int)[None, :] % SIDE]
