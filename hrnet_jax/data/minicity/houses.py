"""The sides of a minicity street: rows of houses, walls, fences and gardens."""

import numpy as np

from hrnet_jax.data.minicity import street, walls
from hrnet_jax.data.minicity.plan import FAR, Scene
from hrnet_jax.data.minicity.stage import Number, Surface, mix, paint

BUILDING, WALL, FENCE, VEGETATION = 11, 12, 13, 21


def build_backdrop(scene: Scene) -> None:
    """Close the street with far houses and trees."""
    rng, stage = scene.rng, scene.stage
    x = -90.0
    while x < 90:
        width, height = float(rng.uniform(8, 18)), float(rng.uniform(5, 17))
        if rng.random() < 0.6:
            front = walls.house_front(stage, height=height, light=0.95)
            stage.panel((x, FAR), (x + width, FAR), low=0, high=height, material=front,
                        label=BUILDING)  # fmt: skip
        else:
            for _ in range(3):
                cx = x + float(rng.uniform(0, width))
                stage.foliage((cx, 3.5, FAR - 1), (6, 4.5), scene.leaves * 0.9, label=VEGETATION)
        x += width


def build_side(scene: Scene, side: int) -> None:
    """Line one side of the street, from far to near, with houses, walls, fences and gardens."""
    rng, plan = scene.rng, scene.plan
    x = plan.left if side < 0 else plan.right
    segments, z = [], float(rng.uniform(1.5, 4))
    wanted = [k for k in ("wall", "fence") if rng.random() < 0.62]
    while z < FAR - 6:
        length = float(rng.uniform(7, 15))
        if plan.crossing and z < plan.crossing + 3.6 and z + length > plan.crossing - 3.6:
            if plan.crossing - 3.6 - z > 4:
                segments.append((z, plan.crossing - 3.6, "house"))
            z = plan.crossing + 3.6
            continue
        kind = str(rng.choice(("house", "wall", "fence", "garden"), p=(0.6, 0.14, 0.14, 0.12)))
        if z > 5 and z < 26 and wanted:
            kind = wanted.pop()
        segments.append((z, z + length, kind))
        z += length
    for near, far, kind in reversed(segments):
        _segment(scene, x, side, near, far, kind)


def _segment(scene: Scene, x: Number, side: int, near: Number, far: Number, kind: str) -> None:
    rng, stage = scene.rng, scene.stage
    light = 1.08 if stage.sun * side < 0 else 0.8
    if kind == "house":
        _house(scene, x, side, near, far, light)
        return
    if rng.random() < 0.65:
        _house(scene, x + side * float(rng.uniform(7, 11)), side, near, far, light)
    grow = (street.tree, street.conifer)[int(rng.random() < 0.3)]
    for z in np.linspace(far - 1, near + 1, int(rng.integers(2, 5))).tolist():
        grow(stage, x + side * float(rng.uniform(2, 4)), z, colour=scene.leaves)
    if kind == "garden":
        for z in np.arange(far - 0.4, near, -0.8).tolist():
            street.hedge(stage, x + side * 0.6, z, colour=scene.leaves)
    elif kind == "wall":
        height = float(rng.uniform(1.8, 3.4))
        material = walls.WallMaterial(paint(rng), int(rng.integers(3)), height, stage.grain,
                                       stage.stain, light)  # fmt: skip
        stage.panel((x, near), (x, far), low=0, high=height, material=material, label=WALL)
        stage.panel((x, near), (x + side * 6, near), low=0, high=height, material=material,
                    label=WALL)  # fmt: skip
    else:
        _fence(scene, x, near, far, light)


def _fence(scene: Scene, x: Number, near: Number, far: Number, light: Number) -> None:
    rng, stage = scene.rng, scene.stage
    height = float(rng.uniform(1.4, 2.3))
    material = walls.FenceMaterial(paint(rng), int(rng.integers(3)), height, light)
    stage.panel((x, near), (x, far), low=0, high=height, material=material, label=FENCE)
    corners = [(x, 0.0, near), (x, 0.0, far), (x, height, far), (x, height, near)]
    stage.relabel(corners, label=FENCE)


def _house(scene: Scene, x: Number, side: int, near: Number, far: Number, light: Number) -> None:
    """Draw one house: the end that faces the camera, the front along the street, the roof."""
    rng, stage = scene.rng, scene.stage
    height = 3.5 + float(rng.uniform(2.9, 3.5)) * int(rng.integers(1, 5)) + 0.7
    front = walls.house_front(stage, height=height, light=light)
    depth = 9.0
    if rng.random() < 0.55:
        tile = mix(paint(rng), (96, 66, 58), 0.6)
        ridge, top = x + side * depth / 2, height + float(rng.uniform(2, 3.4))
        slope = [(x - side * 0.35, height - 0.1, near), (x - side * 0.35, height - 0.1, far),
                 (ridge, top, far), (ridge, top, near)]  # fmt: skip
        stage.polygon(slope, tile * np.float32(light), label=BUILDING)
        gable = [(x, height, near), (x + side * depth, height, near), (ridge, top, near)]
        stage.polygon(gable, front.wall * np.float32(0.8), label=BUILDING)

    def blank(s: np.ndarray, y: np.ndarray) -> Surface:
        dirt = 1 + 0.09 * stage.stain[(y * 24).astype(int) % 512, (s * 24).astype(int) % 512]
        return Surface(front.wall * (0.82 * dirt)[..., None])

    stage.panel((x, near), (x + side * depth, near), low=0, high=height, material=blank,
                label=BUILDING)  # fmt: skip
    stage.panel((x, near), (x, far), low=0, high=height, material=front, label=BUILDING)
