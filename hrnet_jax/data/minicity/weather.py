"""Sky, light and lens of minicity: what turns a clean drawing into a photograph."""

from dataclasses import dataclass

import cv2
import numpy as np

from hrnet_jax.data.minicity.stage import SKY_DEPTH, Number, Stage, fractal

ROAD, SKY = 7, 23


@dataclass(frozen=True)
class Weather:
    """One kind of light; colours are factors or RGB values."""

    name: str
    zenith: tuple[Number, Number, Number]
    haze: tuple[Number, Number, Number]  # the sky's colour at the horizon, and that of the fog
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
    """Draw one kind of weather by its odds."""
    return WEATHERS[int(rng.choice(len(WEATHERS), p=ODDS))]


def paint_sky(stage: Stage, weather: Weather) -> None:
    """Fill the canvas with a sky: a gradient, a bright side, clouds which flatten far away."""
    cam, rng = stage.camera, stage.rng
    rows, width = (int(cam.horizon) + cam.height // 10) // 2, cam.width // 2
    lift = ((np.arange(rows, dtype=np.float32) + 0.5) * 2 / np.float32(cam.horizon))[:, None]
    lift = np.clip(lift, 0, 1)
    across = (np.arange(width, dtype=np.float32) + 0.5)[None, :] / np.float32(width)
    zenith, haze, cloud = (np.array(c, np.float32) for c in (weather.zenith, weather.haze,
                                                             weather.cloud))  # fmt: skip
    fade = (lift * (0.35 + 0.65 * lift))[..., None]
    sky = zenith + (haze - zenith) * np.broadcast_to(fade, (rows, width, 3))
    bright = across if stage.sun > 0 else 1 - across
    sky = sky + ((bright * lift * 22)[..., None] * np.array((1.0, 0.9, 0.7), np.float32))
    tile = (fractal(rng, size=512, cells=4, octaves=7) + 0.1) * 1.9
    # seen from below, a layer of clouds gets denser towards the horizon
    height = 1.0 / (1.25 - lift)
    iy = (height * 150).astype(np.int64) + int(rng.integers(512))
    ix = ((across - 0.5) * height * 320).astype(np.int64) + int(rng.integers(512, 1024))
    noise = tile[np.abs(511 - iy % 1022), np.abs(511 - ix % 1022)]
    cover = np.clip((noise + weather.clouds * 0.9 - 0.12) * 2.2, 0, 1)
    cover = cover * cover * (3 - 2 * cover) * 0.92
    body = cloud * (1.0 - 0.13 * np.clip(noise + weather.clouds - 0.5, 0, 1))[..., None]
    sky = sky + (body - sky) * cover[..., None]
    small = np.clip(sky, 0, 255).astype(np.uint8)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        stage.pixels[dy : 2 * rows : 2, dx : 2 * width : 2, :3] = small
    stage.pixels[2 * rows :, :, :3] = np.clip(haze, 0, 255).astype(np.uint8)
    stage.pixels[..., 3] = SKY


def _halved(a: np.ndarray, step: int) -> np.ndarray:
    """Average blocks of `step` pixels in whole numbers."""
    h, w = a.shape[0] // step * step, a.shape[1] // step * step
    wide = np.zeros((h // step, w, a.shape[2]), np.uint16)
    for i in range(step):
        wide += a[i:h:step, :w]
    total = np.full((h // step, w // step, a.shape[2]), step * step // 2, np.uint16)
    for i in range(step):
        total += wide[:, i::step]
    return (total // np.uint16(step * step)).astype(np.uint8)


def soften(image: np.ndarray) -> np.ndarray:
    """Blur by (1 2 1)/4 in both directions."""
    p = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    p = (p[:-2] + p[1:-1] + p[1:-1] + p[2:]) * np.float32(0.25)
    return (p[:, :-2] + p[:, 1:-1] + p[:, 1:-1] + p[:, 2:]) * np.float32(0.25)


def _bloom(light: np.ndarray) -> np.ndarray:
    """Spread what shines over its neighbourhood."""
    h, w = light.shape[:2]
    total = np.zeros(light.shape, np.float32)
    source = np.clip(light, 0, 255).astype(np.uint8)
    for step in (4, 12):
        small = _halved(source, step)
        for _ in range(2):
            small = np.clip(soften(small.astype(np.float32)), 0, 255).astype(np.uint8)
        total += cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR_EXACT)
    return total


def _reflect(image: np.ndarray, label: np.ndarray, horizon: Number, *, wet: Number) -> np.ndarray:
    """Mirror the scene in a wet road."""
    h = image.shape[0]
    rows = np.arange(h)
    mirror = np.clip(2 * int(horizon) - rows, 0, h - 1)
    mirror = np.where(rows > horizon, np.maximum(int(horizon) - (rows - int(horizon)), 0), rows)
    ghost = soften(soften(image[mirror]))
    share = (np.isin(label, (ROAD, 9, 10)) * np.float32(wet * 0.55))[..., None]
    return image + (ghost - image) * share


def develop(stage: Stage, weather: Weather) -> tuple[np.ndarray, np.ndarray]:
    """Turn the canvas into a picture of half its size: fog, light, glow, lens and sensor."""
    rng = stage.rng
    image = _halved(stage.pixels[..., :3], 2).astype(np.float32)
    label = np.ascontiguousarray(stage.pixels[::2, ::2, 3])
    extra = _halved(stage.extra, 2).astype(np.float32)
    far = extra[..., 0] * np.float32(0.5)
    ratio = far / np.float32(weather.sight * rng.uniform(0.8, 1.25))
    fog = (ratio / (1 + ratio))[..., None] * (extra[..., :1] < SKY_DEPTH - 1)
    shine = (extra[..., 1:] * np.float32(weather.glow / 255)).astype(np.float32)
    lit: np.ndarray = image * np.array(weather.light, np.float32)
    own = image * np.array((1.08, 0.98, 0.78), np.float32)
    lit = np.where((label == SKY)[..., None], image, lit + (own - lit) * shine)
    lit = lit + (np.array(weather.haze, np.float32) - lit) * fog * (1 - np.float32(0.6) * shine)
    if weather.wet:
        lit = _reflect(lit, label, stage.camera.horizon / 2, wet=weather.wet)
    if weather.glow:
        lit = lit + _bloom(lit * shine) * np.float32(0.32)
    return _expose(lit, rng), label


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply what the camera does: vignette, softness, exposure, contrast, cast and noise."""
    h, w = image.shape[:2]
    dx = ((np.arange(w, dtype=np.float32) + 0.5) / np.float32(w) - np.float32(0.5))[None, :]
    dy = ((np.arange(h, dtype=np.float32) + 0.5) / np.float32(h) - np.float32(0.5))[:, None]
    image = image * (1 - np.float32(0.5) * (dx * dx + dy * dy))[..., None]
    image = image + (soften(image) - image) * np.float32(rng.uniform(0.0, 0.7))
    cast = rng.uniform(0.91, 1.09, 3).astype(np.float32)
    image = image * (cast * np.float32(rng.uniform(0.84, 1.2)))
    image = (image - 118) * np.float32(rng.uniform(0.88, 1.14)) + 118
    noise = rng.integers(-64, 65, (2, h, w, 3), dtype=np.int8).astype(np.float32)
    image = image + (noise[0] + noise[1]) * np.float32(rng.uniform(0.02, 0.11))
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)
