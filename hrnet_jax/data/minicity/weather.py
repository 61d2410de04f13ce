"""Sky, light and lens of minicity, which turn a clean drawing into a photograph."""

from dataclasses import dataclass

import cv2
import numpy as np

from hrnet_jax.data.minicity.paints import Number, fractal
from hrnet_jax.data.minicity.stage import Stage

ROAD, SKY = 7, 23


@dataclass(frozen=True)
class Weather:
    """One kind of light; colours are factors or RGB values."""

    name: str
    zenith: tuple[Number, Number, Number]
    haze: tuple[Number, Number, Number]  # colour of the sky at the horizon and of fog
    light: tuple[Number, Number, Number]
    clouds: Number  # -1 none .. 1 closed
    cloud: tuple[Number, Number, Number]
    sight: Number  # metres at which half of the light is lost
    shadow: Number  # how dark shadows are
    glow: Number  # how strongly lamps and windows shine
    wet: Number


WEATHERS = (
    Weather("sunny", (74, 128, 196), (196, 214, 228), (1.1, 1.06, 0.98), -0.05, (250, 248, 244),
            260, 0.46, 0.0, 0.0),
    Weather("bright", (112, 158, 206), (214, 222, 226), (1.04, 1.03, 1.0), 0.25, (240, 240, 240),
            220, 0.34, 0.0, 0.0),
    Weather("overcast", (148, 154, 160), (206, 208, 208), (0.88, 0.9, 0.93), 0.7, (190, 193, 197),
            150, 0.2, 0.0, 0.0),
    Weather("golden", (104, 128, 172), (246, 206, 150), (1.14, 0.96, 0.76), 0.1, (252, 214, 178),
            190, 0.42, 0.15, 0.0),
    Weather("dusk", (52, 64, 108), (222, 150, 122), (0.66, 0.58, 0.64), 0.2, (176, 120, 126),
            170, 0.2, 0.8, 0.0),
    Weather("fog", (190, 194, 196), (204, 206, 206), (0.92, 0.93, 0.94), 1.0, (200, 202, 203),
            46, 0.1, 0.1, 0.1),
    Weather("rain", (110, 118, 126), (164, 170, 174), (0.72, 0.76, 0.8), 0.8, (140, 146, 152),
            95, 0.16, 0.35, 0.5),
    Weather("night", (16, 22, 42), (58, 56, 72), (0.36, 0.38, 0.5), 0.1, (40, 42, 58),
            150, 0.12, 1.0, 0.25),
)  # fmt: skip
ODDS = (0.26, 0.16, 0.15, 0.12, 0.09, 0.07, 0.09, 0.06)


def choose_weather(rng: np.random.Generator) -> Weather:
    """Choose one kind of weather by its odds."""
    return WEATHERS[int(rng.choice(len(WEATHERS), p=ODDS))]


def paint_sky(stage: Stage, weather: Weather) -> None:
    """Fill the canvas with a sky: a gradient, a bright side, clouds that flatten far away."""
    cam, rng = stage.camera, stage.rng
    # clouds are soft: a quarter of the canvas's resolution is enough
    rows, width = (int(cam.horizon) + cam.height // 10) // 4 + 1, cam.width // 4
    lift = ((np.arange(rows, dtype=np.float32) + 0.5) * 4 / np.float32(cam.horizon))[:, None]
    lift = np.minimum(lift, 1).astype(np.float32)
    across = (np.arange(width, dtype=np.float32) + 0.5)[None, :] / np.float32(width)
    tile = (fractal(rng, size=256, cells=4, octaves=6) + np.float32(0.1)) * np.float32(1.9)
    # seen from below, a layer of clouds gets denser towards the horizon
    height = 1.0 / (1.25 - lift)
    iy = (height * 75).astype(np.int32) + int(rng.integers(256))
    ix = ((across - 0.5) * height * 160).astype(np.int32) + int(rng.integers(256, 512))
    iy, ix = (np.minimum(i & 511, 511 - (i & 511)) for i in (iy, ix))  # there and back
    noise = tile.take(iy * 256 + ix)
    cover = np.clip((noise + np.float32(weather.clouds * 0.9 - 0.12)) * np.float32(2.2), 0, 1)
    cover = cover * cover * (3 - 2 * cover) * np.float32(0.92)
    dense = 1 - np.float32(0.13) * np.clip(noise + np.float32(weather.clouds - 0.5), 0, 1)
    bright = (across if stage.sun > 0 else 1 - across) * lift
    fade = lift * (np.float32(0.35) + np.float32(0.65) * lift)
    planes = []
    for zenith, haze, cloud, sun in zip(weather.zenith, weather.haze, weather.cloud, (22, 20, 15),
                                        strict=True):  # fmt: skip
        sky = bright * np.float32(sun) + (zenith + np.float32(haze - zenith) * fade)
        sky += (dense * np.float32(cloud) - sky) * cover
        planes.append(_bytes(sky))
    small = cv2.merge((*planes, np.zeros((rows, width), np.uint8)))
    rows = min(4 * rows, cam.height)
    sky = cv2.resize(small, (cam.width, rows), interpolation=cv2.INTER_LINEAR_EXACT)
    stage.pixels[:rows] = sky
    stage.pixels[rows:, :, :3] = np.array(weather.haze, np.uint8)
    stage.tags[..., 0] = SKY


def _bytes(a: np.ndarray) -> np.ndarray:
    """Round down to uint8, within its range."""
    return np.minimum(np.maximum(a, 0), 255).astype(np.uint8)


def halved(a: np.ndarray) -> np.ndarray:
    """Average blocks of 2 x 2; this interpolation of OpenCV is exact on every processor."""
    size = (max(a.shape[1] // 2, 1), max(a.shape[0] // 2, 1))
    return np.asarray(cv2.resize(a, size, interpolation=cv2.INTER_LINEAR_EXACT))


def soften(plane: np.ndarray) -> np.ndarray:
    """Blur uint8 [h w] by (1 2 1)/4 in both directions, in whole numbers."""
    p = cv2.copyMakeBorder(plane, 1, 1, 1, 1, cv2.BORDER_REPLICATE).astype(np.uint16)
    rows = p[1:-1] * np.uint16(2)
    rows += p[:-2]
    rows += p[2:]
    both = rows[:, 1:-1] * np.uint16(2)
    both += rows[:, :-2]
    both += rows[:, 2:]
    both += np.uint16(8)
    both >>= np.uint16(4)
    return both.astype(np.uint8)


def _bloom(light: np.ndarray) -> np.ndarray:
    """Spread bright pixels (uint8 [h w]) over their neighbourhood."""
    h, w = light.shape
    total = np.zeros(light.shape, np.float32)
    small = light
    for halvings in (2, 2):
        for _ in range(halvings):
            small = halved(small)
        wide = soften(soften(small))
        total += cv2.resize(wide, (w, h), interpolation=cv2.INTER_LINEAR_EXACT)
    return total


def _reflect(planes: list[np.ndarray], label: np.ndarray, horizon: int, *, wet: Number) -> None:
    """Mirror the scene in a wet road."""
    rows = np.maximum(2 * horizon - np.arange(horizon, len(label)), 0)
    share = np.isin(label[horizon:], (ROAD, 9, 10)) * np.float32(wet * 0.55)
    for plane in planes:
        ghost = soften(soften(_bytes(plane)[rows]))
        plane[horizon:] += (ghost - plane[horizon:]) * share


def develop(stage: Stage, weather: Weather) -> tuple[np.ndarray, np.ndarray]:
    """Turn the canvas into an image of half its size: fog, light, glow, lens and sensor."""
    rng = stage.rng
    *colours, shine = cv2.split(halved(stage.pixels))
    label = np.ascontiguousarray(stage.tags[::2, ::2, 0])
    ratio = halved(stage.tags)[..., 1] / np.float32(2 * weather.sight * rng.uniform(0.8, 1.25))
    below = label != SKY
    shine = shine * below * np.float32(weather.glow / 255)
    fog = ratio / (1 + ratio) * below * (1 - np.float32(0.6) * shine)
    planes = []
    for plane, light, warm, haze in zip(colours, weather.light, (1.08, 0.98, 0.78), weather.haze,
                                        strict=True):  # fmt: skip
        gain = shine * np.float32(warm - light) + np.float32(light - 1) * below
        gain += 1
        gain *= plane
        gain += (np.float32(haze) - gain) * fog
        planes.append(gain)
    if weather.wet:
        _reflect(planes, label, int(stage.camera.horizon / 2), wet=weather.wet)
    if weather.glow:
        for plane in planes:
            plane += _bloom(_bytes(plane * shine)) * np.float32(0.32)
    return _expose(planes, rng), label


def _expose(planes: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Apply the camera's effects: vignette, softness, exposure, contrast, cast and noise."""
    h, w = planes[0].shape
    dx = ((np.arange(w, dtype=np.float32) + 0.5) / np.float32(w) - np.float32(0.5))[None, :]
    dy = ((np.arange(h, dtype=np.float32) + 0.5) / np.float32(h) - np.float32(0.5))[:, None]
    vignette = 1 - np.float32(0.5) * (dx * dx + dy * dy)
    soft, exposure = float(rng.uniform(0.0, 0.7)), float(rng.uniform(0.84, 1.2))
    contrast, amount = float(rng.uniform(0.88, 1.14)), float(rng.uniform(0.01, 0.055))
    noise = np.frombuffer(rng.bytes(6 * h * w), np.int8).reshape(2, 3, h, w)
    out = []
    for i, plane in enumerate(planes):
        sharp = _bytes(plane)
        image = soften(sharp) * np.float32(soft)
        image += sharp * np.float32(1 - soft)
        image *= vignette * np.float32(rng.uniform(0.91, 1.09) * exposure * contrast)
        grain = noise[0, i] * np.float32(amount)
        grain += noise[1, i] * np.float32(amount)
        grain += np.float32(118 * (1 - contrast) + 0.5)
        image += grain
        out.append(_bytes(image))
    return np.asarray(cv2.merge(out))
