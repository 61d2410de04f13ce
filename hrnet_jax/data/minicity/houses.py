"""The sides of a minicity street: rows of houses, walls, fences and gardens."""

import numpy as np

from hrnet_jax.data.minicity import street, walls
from hrnet_jax.data.minicity.layout import FAR, Scene
from hrnet_jax.data.minicity.paints import Number, mix, paint

BUILDING, WALL, FENCE, VEGETATION = 11, 12, 13, 21


def build_backdrop(scene: Scene) -> None:
    """Close the street with far houses and trees."""
    rng, stage = scene.rng, scene.stage
    x = -90.0
    while x < 90:
        width, height = float(rng.uniform(8, 18)), float(rng.uniform(5, 17))
        if rng.random() < 0.6:
            front = walls.house(stage, height=height, light=0.95).front(width, fine=12)
            stage.panel((x, FAR), (x + width, FAR), texture=front, label=BUILDING)
        else:
            for _ in range(3):
                cx = x + float(rng.uniform(0, width))
                stage.foliage("clump", (cx, 3.5, FAR - 1), (7.8, 5.9), scene.leaves * 0.9,
                              label=VEGETATION)  # fmt: skip
        x += width


def build_side(scene: Scene, side: int) -> None:
    """Line one side of the street, from far to near, with houses, walls, fences and gardens."""
    rng, layout = scene.rng, scene.layout
    x = layout.left if side < 0 else layout.right
    segments, z = [], float(rng.uniform(1.5, 4))
    wanted = [k for k in ("wall", "fence") if rng.random() < 0.62]
    while z < FAR - 6:
        length = float(rng.uniform(7, 15))
        if layout.crossing and z < layout.crossing + 3.6 and z + length > layout.crossing - 3.6:
            if layout.crossing - 3.6 - z > 4:
                segments.append((z, layout.crossing - 3.6, "house"))
            z = layout.crossing + 3.6
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
        texture = walls.garden_wall(stage, far - near, light=light)
        stage.panel((x, near), (x, far), texture=texture, label=WALL)
        stage.panel((x, near), (x + side * 6, near), texture=texture.part(6), label=WALL)
    else:
        texture = walls.fence(stage, far - near, light=light)
        stage.panel((x, near), (x, far), texture=texture, label=FENCE)
        high = texture.height
        corners = [(x, 0.0, near), (x, 0.0, far), (x, high, far), (x, high, near)]
        stage.relabel(corners, label=FENCE)


def _house(scene: Scene, x: Number, side: int, near: Number, far: Number, light: Number) -> None:
    """Draw one house: the gable that faces the camera, the front along the street, the roof."""
    rng, stage = scene.rng, scene.stage
    height = 3.5 + float(rng.uniform(2.9, 3.5)) * int(rng.integers(1, 5)) + 0.7
    house = walls.house(stage, height=height, light=light)
    depth = 9.0
    if rng.random() < 0.55:
        tile = mix(paint(rng), (96, 66, 58), 0.6)
        ridge, top = x + side * depth / 2, height + float(rng.uniform(2, 3.4))
        slope = [(x - side * 0.35, height - 0.1, near), (x - side * 0.35, height - 0.1, far),
                 (ridge, top, far), (ridge, top, near)]  # fmt: skip
        stage.polygon(slope, tile * np.float32(light), label=BUILDING)
        gable = [(x, height, near), (x + side * depth, height, near), (ridge, top, near)]
        stage.polygon(gable, house.wall * np.float32(0.8), label=BUILDING)

    fine = stage.fineness((x, near), (x, far))
    stage.panel((x, near), (x + side * depth, near), texture=house.blank(depth, fine=fine),
                label=BUILDING)  # fmt: skip
    stage.panel((x, near), (x, far), texture=house.front(far - near, fine=fine), label=BUILDING)
