"""A whole minicity scene, drawn from far to near."""

import cv2
import numpy as np

from hrnet_jax.data.minicity.ground import Ground
from hrnet_jax.data.minicity.houses import build_backdrop, build_side
from hrnet_jax.data.minicity.layout import Scene, back_to_front
from hrnet_jax.data.minicity.life import populate
from hrnet_jax.data.minicity.paints import paint
from hrnet_jax.data.minicity.weather import develop, paint_sky
from hrnet_jax.data.types import Image, Label

EGO, RECTIFICATION, OUT_OF_ROI = 1, 2, 3


def draw_scene(
    rng: np.random.Generator, *, height: int = 256, width: int = 512
) -> tuple[Image, Label]:
    """Draw one street scene: an RGB picture and its Cityscapes label ids."""
    scene = Scene(rng, height=height, width=width)
    paint_sky(scene.stage, scene.weather)
    populate(scene)  # before the ground, for the shadows on it
    Ground(scene).draw()
    build_backdrop(scene)
    for side in (-1, 1):
        build_side(scene, side)
    for thing in back_to_front(scene.things):
        thing.draw()
    if rng.random() < 0.45:
        _bonnet(scene)
    image, label = develop(scene.stage, scene.weather)
    if rng.random() < 0.3:
        _borders(image, label)
    return image, label


def _bonnet(scene: Scene) -> None:
    """Draw the bonnet of the car that carries the camera."""
    stage, rng = scene.stage, scene.rng
    h, w = stage.pixels.shape[:2]
    colour = paint(rng) * np.float32(0.7)
    top = int(h * rng.uniform(0.9, 0.96))
    middle = (w // 2 + int(rng.integers(-w // 20, w // 20)), h + h // 30)
    for shrink, tone in ((0, 0.6), (0.004, 1.0), (0.01, 1.12), (0.022, 1.03), (0.04, 0.95)):
        axes = (int(w * (0.46 - 3 * shrink)), max(middle[1] - top - int(w * shrink / 2), 1))
        r, g, b = np.clip(colour * np.float32(tone), 0, 255).astype(int).tolist()
        cv2.ellipse(stage.pixels, middle, axes, 0, 180, 360, (r, g, b, 0), -1)
        cv2.ellipse(stage.tags, middle, axes, 0, 180, 360, (EGO, 2), -1)


def _borders(image: np.ndarray, label: np.ndarray) -> None:
    """Blacken the rim, as rectified camera images have it."""
    h, w = label.shape
    rim = max(h // 100, 1)
    for part, kind in (((slice(None), slice(0, rim)), RECTIFICATION),
                       ((slice(None), slice(w - rim, w)), RECTIFICATION),
                       ((slice(h - rim, h), slice(None)), OUT_OF_ROI)):  # fmt: skip
        image[part] = 0
        label[part] = kind
