"""Things next to the road in minicity: people, poles, lights, signs, trees."""

import numpy as np

from hrnet_jax.data.minicity.paints import Colour, Number, mix, paint, pick
from hrnet_jax.data.minicity.solids import CIRCLE, Pose, face, heading, plate
from hrnet_jax.data.minicity.stage import Stage

STATIC, DYNAMIC = 4, 5
POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, PERSON, RIDER = 17, 19, 20, 21, 24, 25
SKINS = ((236, 196, 168), (214, 164, 128), (166, 116, 84), (110, 74, 54))
HAIRS = ((40, 30, 24), (84, 58, 36), (168, 130, 78), (120, 116, 112), (26, 24, 24))
METALS = ((96, 100, 104), (132, 136, 138), (62, 66, 68), (70, 84, 74), (150, 140, 120))


def _head(stage: Stage, pose: Pose, ahead: Number, up: Number, *, label: int, helmet: bool) -> None:
    rng = stage.rng
    skin, hair = pick(rng, SKINS), paint(rng) if helmet else pick(rng, HAIRS)
    stage.ball(pose.at(ahead, up + 0.02), 0.125, hair, label=label)
    towards = pose.sees_front() > 0
    if towards or abs(pose.sees_right()) > abs(pose.sees_front()):
        stage.ball(pose.at(ahead + 0.03, up - 0.03), 0.1, skin, label=label)


def person(stage: Stage, pose: Pose) -> None:
    """Draw a person who walks or stands."""
    rng = stage.rng
    tall = float(rng.uniform(0.88, 1.06))
    stride = float(rng.uniform(-0.34, 0.34))
    coat, trousers, shoes = paint(rng), paint(rng) * np.float32(0.75), (34, 30, 28)
    long_coat = rng.random() < 0.3

    def at(a: Number, y: Number, w: Number):
        return pose.at(a * tall, y * tall, w * tall)

    for side, sign in ((-0.1, 1), (0.1, -1)):
        knee = at(sign * stride * 0.6 + 0.04, 0.48, side)
        foot = at(sign * stride, 0.07, side)
        stage.limb(at(0, 0.88, side), knee, 0.105, trousers, label=PERSON)
        stage.limb(knee, foot, 0.08, trousers * np.float32(0.92), label=PERSON)
        stage.limb(foot, at(sign * stride + 0.12, 0.05, side), 0.06, shoes, label=PERSON)
    arm = coat * np.float32(0.84)
    stage.limb(at(0, 1.36, -0.24), at(-stride * 0.7, 0.9, -0.3), 0.062, arm, label=PERSON)
    hem = 0.6 if long_coat else 0.86
    stage.limb(at(0, 1.34, 0), at(0, hem, 0), 0.16, coat, label=PERSON)
    for w in (-0.1, 0.1):
        stage.limb(at(0, 1.34, w), at(0, hem + 0.06, w * 1.05), 0.12, coat, label=PERSON)
    stage.limb(at(0, 1.36, 0.24), at(stride * 0.7, 0.9, 0.3), 0.062, arm, label=PERSON)
    stage.ball(at(stride * 0.7, 0.85, 0.3), 0.055, pick(rng, SKINS), label=PERSON)
    if rng.random() < 0.35:
        stage.limb(at(-0.16, 1.26, 0), at(-0.18, 1.0, 0), 0.15, paint(rng), label=PERSON)
    _head(stage, pose, 0, 1.6 * tall, label=PERSON, helmet=False)


def rider(stage: Stage, pose: Pose, *, motor: bool) -> None:
    """Draw the rider of a motorcycle or bicycle of the same pose."""
    rng = stage.rng
    coat, trousers = paint(rng), paint(rng) * np.float32(0.7)
    seat, hips, shoulder = -0.25, 0.98, 1.5
    lean = 0.2 if motor else 0.28
    hands, pedals = (0.34, 1.12), (0.05, 0.3)
    for w, sign in ((-0.13, 1), (0.13, -1)):
        knee = pose.at(seat + 0.42, 0.72 + 0.12 * sign * (not motor), w * 1.3)
        foot = pose.at(pedals[0], pedals[1] + 0.12 * sign * (not motor), w * 1.2)
        stage.limb(pose.at(seat, hips, w * 0.8), knee, 0.1, trousers, label=RIDER)
        stage.limb(knee, foot, 0.08, trousers * np.float32(0.9), label=RIDER)
        stage.limb(foot, pose.at(pedals[0] + 0.15, pedals[1], w), 0.055, (30, 28, 28), label=RIDER)
    top = seat + lean
    for w in (-0.1, 0.0, 0.1):
        stage.limb(pose.at(seat, hips + 0.04, w), pose.at(top, shoulder - 0.06, w * 1.3), 0.14,
                   coat, label=RIDER)  # fmt: skip
    for w in (-0.24, 0.24):
        elbow = pose.at((top + hands[0]) / 2, 1.2, w * 1.35)
        stage.limb(pose.at(top, shoulder - 0.06, w), elbow, 0.07, coat * 0.88, label=RIDER)
        stage.limb(elbow, pose.at(*hands, w * 1.1), 0.06, coat * 0.84, label=RIDER)
    _head(stage, pose, top + 0.08, 1.74, label=RIDER, helmet=motor or rng.random() < 0.5)
    if motor:
        stage.ball(pose.at(top + 0.06, 1.74), 0.155, paint(rng), label=RIDER)
        if pose.sees_front() > 0:
            stage.limb(pose.at(top + 0.2, 1.74, -0.07), pose.at(top + 0.2, 1.74, 0.07), 0.05,
                       (30, 34, 40), label=RIDER)  # fmt: skip


def lamp_post(stage: Stage, x: Number, z: Number, *, reach: Number) -> None:
    """Draw a street lamp whose arm reaches over the road."""
    metal = pick(stage.rng, METALS)
    high = float(stage.rng.uniform(5.5, 7.5))
    stage.limb((x, 0, z), (x, 0.9, z), 0.15, metal * np.float32(0.9), label=POLE)
    stage.limb((x, 0, z), (x, high, z), 0.1, metal, label=POLE)
    glint = x + 0.04 * stage.sun
    stage.limb((glint, 0.9, z), (glint, high, z), 0.025, metal * np.float32(1.25), label=POLE)
    stage.limb((x, high, z), (x + reach, high + 0.35, z), 0.06, metal, label=POLE)
    stage.limb((x + reach, high + 0.33, z), (x + reach * 1.4, high + 0.38, z), 0.12,
               (236, 226, 190), label=POLE, shine=220)  # fmt: skip


def _light_box(stage: Stage, x: Number, y: Number, z: Number, *, lit: int) -> None:
    """Draw the dark box with three lamps, one of them on."""
    half, tall, at = 0.3, 1.25, Pose(x, z, 0, 1)
    plate(stage, at, 0, (-half - 0.07, half + 0.07, y - 0.07, y + tall + 0.07), (206, 206, 200),
          label=TRAFFIC_LIGHT)  # fmt: skip
    plate(stage, at, 0, (-half, half, y, y + tall), (24, 26, 26), label=TRAFFIC_LIGHT)
    tints = ((60, 230, 130), (255, 190, 50), (250, 50, 40))
    for i, tint in enumerate(tints):
        centre = (x, y + 0.22 + 0.405 * i, z)
        on = i == lit
        colour = np.array(tint, np.float32) * np.float32(1.0 if on else 0.27)
        stage.ball(centre, 0.185, (10, 10, 10), label=TRAFFIC_LIGHT)
        stage.ball(centre, 0.155, colour, label=TRAFFIC_LIGHT, shine=240 if on else 0)


def traffic_light(stage: Stage, x: Number, z: Number, *, reach: Number) -> None:
    """Draw a traffic light on its pole; with `reach`, another hangs above the road."""
    metal, lit = pick(stage.rng, METALS), int(stage.rng.integers(3))
    over = abs(reach) > 1
    stage.limb((x, 0, z), (x, 5.6 if over else 3.7, z), 0.1, metal, label=POLE)
    if over:
        stage.limb((x, 5.5, z), (x + reach, 5.6, z), 0.09, metal, label=POLE)
        _light_box(stage, x + reach, 4.3, z, lit=lit)
    _light_box(stage, x, 2.6, z, lit=lit)


def _disc(
    stage: Stage, x: Number, y: Number, z: Number, *, radius: Number, rings: tuple[Colour, ...]
) -> None:
    for i, colour in enumerate(rings):
        stage.ball((x, y, z), radius * (1 - 0.24 * i), colour, label=TRAFFIC_SIGN)


def sign(stage: Stage, x: Number, z: Number) -> None:
    """Draw a sign on its pole: ban, warning, give way, duty, parking or a direction board."""
    rng = stage.rng
    kind, size = int(rng.integers(6)), float(rng.uniform(0.5, 0.68))
    top = 2.9
    stage.limb((x, 0, z), (x, top + 0.4, z), 0.065, pick(rng, METALS), label=POLE)
    red, white, blue = (196, 32, 36), (238, 238, 234), (30, 78, 160)
    at = Pose(x, z, 0, 1)
    if kind == 0:
        _disc(stage, x, top, z, radius=size, rings=(red, white))
        stage.limb((x - 0.18, top, z), (x + 0.18, top, z), 0.05, (30, 30, 30), label=TRAFFIC_SIGN)
    elif kind in (1, 2):
        flip = 1 if kind == 1 else -1
        for part, colour in ((1.15, red), (0.72, (240, 214, 90) if rng.random() < 0.4 else white)):
            corners = ((-0.9, -0.55), (0.9, -0.55), (0.0, 1.0))
            points = [(0.0, top + flip * part * size * b, part * size * a) for a, b in corners]
            face(stage, at, points, colour, label=TRAFFIC_SIGN)
        stage.limb((x, top - 0.08, z), (x, top + 0.1, z), 0.05, (30, 30, 30), label=TRAFFIC_SIGN)
    elif kind == 3:
        _disc(stage, x, top, z, radius=size, rings=(white, blue))
        stage.limb((x, top - 0.2, z), (x, top + 0.18, z), 0.06, white, label=TRAFFIC_SIGN)
    elif kind == 4:
        for grow, colour in ((0.06, white), (0.0, blue)):
            box = (-size - grow, size + grow, top - size - grow, top + size + grow)
            plate(stage, at, 0, box, colour, label=TRAFFIC_SIGN)
        stage.limb((x - 0.14, top - 0.32, z), (x - 0.14, top + 0.3, z), 0.05, white,
                   label=TRAFFIC_SIGN)  # fmt: skip
        _letter = [(x + 0.02 + 0.18 * a, top + 0.14 + 0.18 * b, z) for a, b in CIRCLE]
        for a, b in zip(_letter, _letter[1:] + _letter[:1], strict=True):
            stage.limb(a, b, 0.045, white, label=TRAFFIC_SIGN)
    else:
        _board(stage, at, top)


def _board(stage: Stage, at: Pose, top: Number) -> None:
    ground = paint(stage.rng)
    ink: Colour = (240, 240, 236) if float(ground.mean()) < 140 else (34, 36, 40)
    for grow, colour in ((0.08, ink), (0.0, ground)):
        box = (-1.15 - grow, 1.15 + grow, top - 0.5 - grow, top + 0.6 + grow)
        plate(stage, at, 0, box, colour, label=TRAFFIC_SIGN)
    for y in (-0.25, 0.2):
        end = float(stage.rng.uniform(0.1, 0.6))
        plate(stage, at, 0, (-0.9, end, top + y, top + y + 0.15), ink, label=TRAFFIC_SIGN)
        arrow = [
            (0.0, top + y - 0.06, 0.75),
            (0.0, top + y + 0.08, 1.0),
            (0.0, top + y + 0.22, 0.75),
        ]
        face(stage, at, arrow, ink, label=TRAFFIC_SIGN)


def tree(stage: Stage, x: Number, z: Number, *, colour: Colour) -> None:
    """Draw a broad-leaved tree: trunk, boughs and clumps of leaves from back to front."""
    rng = stage.rng
    high, spread = float(rng.uniform(4.8, 8.5)), float(rng.uniform(1.4, 2.4))
    bark = mix((86, 66, 50), (112, 104, 94), float(rng.random()))
    fork = high * 0.45
    stage.limb((x, 0, z), (x, fork, z), 0.19, bark, label=VEGETATION)
    shade = x - 0.09 * stage.sun
    stage.limb((shade, 0, z), (shade, fork, z), 0.07, bark * np.float32(0.7), label=VEGETATION)
    for side in (-0.5, 0.4):
        stage.limb((x, fork - 0.4, z), (x + side * spread, fork + 1.1, z), 0.1, bark,
                   label=VEGETATION)  # fmt: skip
    tint = np.asarray(colour, np.float32) * np.float32(rng.choice((0.86, 1.0, 1.12)))
    tall = 0.5 * spread + 0.28 * (high - fork)
    stage.foliage("tree", (x, (fork + high) / 2 + 0.3, z), (1.75 * spread, 1.75 * tall), tint,
                  label=VEGETATION)  # fmt: skip


def conifer(stage: Stage, x: Number, z: Number, *, colour: Colour) -> None:
    """Draw a cypress or spruce."""
    high = float(stage.rng.uniform(4.5, 8))
    stage.limb((x, 0, z), (x, 1.2, z), 0.15, (78, 62, 48), label=VEGETATION)
    tint = np.asarray(colour, np.float32) * np.array((0.62, 0.75, 0.72), np.float32)
    half = (high + 0.4) / 2
    stage.foliage("conifer", (x, half - 0.1, z), (1.75, half), tint, label=VEGETATION)


def hedge(stage: Stage, x: Number, z: Number, *, colour: Colour) -> None:
    """Draw one metre of a hedge."""
    stage.foliage("clump", (x, 0.62, z), (1.04, 1.1), colour, label=VEGETATION)


def bush(stage: Stage, x: Number, z: Number, *, colour: Colour, size: Number = 0.8) -> None:
    """Draw a bush of three clumps."""
    for side, up in ((-0.5, 0.45), (0.5, 0.5), (0.0, 0.62)):
        centre = (x + side * size, up * size, z)
        stage.foliage("clump", centre, (0.98 * size, 0.86 * size), colour, label=VEGETATION)


def bin_or_box(stage: Stage, x: Number, z: Number) -> None:
    """Draw a litter bin or a grey cabinet, which the evaluation ignores as `static`."""
    colour = paint(stage.rng)
    if stage.rng.random() < 0.5:
        stage.limb((x, 0.25, z), (x, 0.8, z), 0.24, colour, label=STATIC)
        stage.limb((x - 0.14, 0.86, z), (x + 0.14, 0.86, z), 0.09, colour * 0.6, label=STATIC)
    else:
        at = Pose(x, z, 0, 1)
        plate(stage, at, 0, (-0.45, 0.45, 0, 1.15), colour, label=STATIC)
        plate(stage, at, 0, (-0.01, 0.01, 0.05, 1.1), colour * 0.6, label=STATIC)
        plate(stage, at, 0, (-0.48, 0.48, 1.1, 1.2), colour * 0.8, label=STATIC)


def dog(stage: Stage, x: Number, z: Number) -> None:
    """Draw a dog, which the evaluation ignores as `dynamic`."""
    fur, at = pick(stage.rng, HAIRS), Pose(x, z, *heading(0.8))
    for a in (-0.28, 0.26):
        for w in (-0.07, 0.07):
            stage.limb(at.at(a, 0.35, w), at.at(a + 0.03, 0.03, w), 0.04, fur * 0.8, label=DYNAMIC)
    stage.limb(at.at(-0.28, 0.42), at.at(0.28, 0.44), 0.13, fur, label=DYNAMIC)
    stage.ball(at.at(0.44, 0.6), 0.12, fur, label=DYNAMIC)
    stage.limb(at.at(-0.36, 0.46), at.at(-0.55, 0.66), 0.03, fur, label=DYNAMIC)
