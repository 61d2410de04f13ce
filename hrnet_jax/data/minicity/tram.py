"""The tram of minicity."""

import numpy as np

from hrnet_jax.data.minicity.paints import Number, mix, paint
from hrnet_jax.data.minicity.solids import Body, Pose, hull, plate, strip
from hrnet_jax.data.minicity.stage import Stage
from hrnet_jax.data.minicity.vehicles import GLASS

TRAIN = 31


def train(stage: Stage, pose: Pose, *, half_length: Number = 12.0) -> None:
    """Draw a tram: slanted ends, long windows, skirts down to the rails, a pantograph."""
    rng = stage.rng
    colour, second, half, end = paint(rng), paint(rng), 1.25, half_length
    nose = ((-end, 0.2), (-end, 1.2), (-end + 0.7, 3.1), (-end + 1.3, 3.35))
    outline = nose + tuple((-a, y) for a, y in reversed(nose))
    roof = mix(colour, (120, 122, 126), 0.6)
    tints = (second, GLASS * 1.2, colour, roof, colour, GLASS * 1.2, second, (20, 20, 22))
    _pantograph(stage, pose, end)
    body = Body(tuple((a, y, half) for a, y in outline), tints, colour)
    side = hull(stage, pose, body, label=TRAIN) * half
    for sign in (1, -1):
        if sign * pose.sees_front() > end:
            _tram_nose(stage, pose, sign * end, colour)
    if abs(pose.sees_right()) > half:
        _tram_flank(stage, pose, side, end, second)


def _tram_nose(stage: Stage, pose: Pose, end: Number, colour: np.ndarray) -> None:
    plate(stage, pose, end, (-1.25, 1.25, 0.2, 0.45), (40, 41, 44), label=TRAIN)
    plate(stage, pose, end, (-1.25, 1.25, 1.05, 1.2), colour, label=TRAIN)
    lit = end > 0
    tint, shine = ((248, 246, 232), 220) if lit else ((198, 30, 26), 120)
    for a in (-1.05, 0.7):
        plate(stage, pose, end, (a, a + 0.35, 0.62, 0.86), tint, label=TRAIN, shine=shine)
    plate(stage, pose, end, (-0.12, 0.12, 0.72, 0.96), (226, 226, 226), label=TRAIN)
    inner = end - 0.62 if end > 0 else end + 0.62
    plate(stage, pose, inner, (-0.8, 0.8, 2.75, 3.0), (250, 176, 60), label=TRAIN, shine=230)


def _tram_flank(stage: Stage, pose: Pose, side: Number, end: Number, second: np.ndarray) -> None:
    strip(stage, pose, side, (-end, end, 0.2, 1.0), second * np.float32(0.85), label=TRAIN)
    strip(stage, pose, side, (-end + 0.5, end - 0.5, 1.15, 2.6), (24, 26, 30), label=TRAIN)
    bays = int(end * 2 / 1.5)
    bay = (2 * end - 1.2) / bays
    for i in range(bays):
        rear = -end + 0.6 + i * bay
        if i % 5 == 2:  # a double door
            strip(stage, pose, side, (rear, rear + bay, 0.3, 2.65), second, label=TRAIN)
            for leaf in (0.08, 0.54):
                box = (rear + leaf * bay, rear + (leaf + 0.38) * bay, 0.6, 2.5)
                strip(stage, pose, side, box, GLASS * 1.5, label=TRAIN, shine=110)
        else:
            tint = GLASS * np.float32((1.2, 1.45, 1.3)[i % 3])
            box = (rear + 0.07, rear + bay - 0.07, 1.25, 2.5)
            strip(stage, pose, side, box, tint, label=TRAIN, shine=130)
    for joint in (-end / 3, end / 3):
        box = (joint - 0.3, joint + 0.3, 0.25, 3.25)
        strip(stage, pose, side, box, (52, 53, 57), label=TRAIN)


def _pantograph(stage: Stage, pose: Pose, end: Number) -> None:
    for base in (0.5 * end, -0.5 * end):
        elbow, bow = pose.at(base - 0.9, 4.1), pose.at(base, 4.9)
        for right in (-0.4, 0.4):
            stage.limb(pose.at(base, 3.3, right), elbow, 0.04, (44, 44, 48), label=TRAIN)
        stage.limb(elbow, bow, 0.04, (44, 44, 48), label=TRAIN)
        stage.limb(pose.at(base, 4.9, -0.8), pose.at(base, 4.9, 0.8), 0.05, (40, 40, 44),
                   label=TRAIN)  # fmt: skip
