"""Bicycles and motorcycles of minicity."""

from hrnet_jax.data.minicity.paints import paint
from hrnet_jax.data.minicity.solids import CIRCLE, Pose, face
from hrnet_jax.data.minicity.stage import Stage
from hrnet_jax.data.minicity.vehicles import TYRE

MOTORCYCLE, BICYCLE = 32, 33


def bicycle(stage: Stage, pose: Pose) -> None:
    """Draw a bicycle; its label covers the whole wheels, with the gaps between the spokes."""
    colour = paint(stage.rng)
    for ahead in (-0.53, 0.53):
        rim = [pose.at(ahead + 0.36 * x, 0.36 + 0.36 * y) for x, y in CIRCLE]
        stage.relabel(rim, label=BICYCLE)
        for x, y in CIRCLE[::5]:
            spoke = pose.at(ahead + 0.34 * x, 0.36 + 0.34 * y)
            stage.limb(pose.at(ahead, 0.36), spoke, 0.008, (130, 130, 134), label=BICYCLE)
        for a, b in zip(rim, rim[1:] + rim[:1], strict=True):
            stage.limb(a, b, 0.032, TYRE, label=BICYCLE)
    rear, front, crank = pose.at(-0.53, 0.36), pose.at(0.53, 0.36), pose.at(-0.06, 0.34)
    saddle, head = pose.at(-0.2, 0.86), pose.at(0.4, 0.86)
    for a, b in ((rear, crank), (rear, saddle), (crank, saddle), (crank, head), (saddle, head),
                 (head, front)):  # fmt: skip
        stage.limb(a, b, 0.03, colour, label=BICYCLE)
    stage.limb(head, pose.at(0.36, 1.04), 0.025, (60, 60, 64), label=BICYCLE)
    stage.limb(pose.at(0.36, 1.04, -0.28), pose.at(0.36, 1.04, 0.28), 0.03, TYRE, label=BICYCLE)
    stage.limb(pose.at(-0.32, 0.93), pose.at(-0.08, 0.92), 0.05, TYRE, label=BICYCLE)


def motorcycle(stage: Stage, pose: Pose) -> None:
    """Draw a motorcycle: fat wheels, tank, seat, exhaust and a round lamp."""
    colour, label = paint(stage.rng), MOTORCYCLE
    for ahead in (-0.68, 0.7):
        rim = [(ahead + 0.33 * x, 0.33 + 0.33 * y, 0.0) for x, y in CIRCLE]
        face(stage, pose, rim, (52, 52, 56), label=label)
        for a, b in zip(rim, rim[1:] + rim[:1], strict=True):
            stage.limb(pose.at(*a), pose.at(*b), 0.07, TYRE, label=label)
        stage.ball(pose.at(ahead, 0.33), 0.09, (150, 150, 154), label=label)
    stage.limb(pose.at(-0.35, 0.45), pose.at(0.3, 0.45), 0.2, (58, 58, 62), label=label)
    stage.limb(pose.at(-0.85, 0.34, 0.2), pose.at(-0.1, 0.36, 0.2), 0.07, (176, 178, 182),
               label=label)  # fmt: skip
    stage.limb(pose.at(0.7, 0.36), pose.at(0.42, 0.98), 0.06, (128, 130, 134), label=label)
    stage.limb(pose.at(-0.75, 0.84), pose.at(-0.1, 0.74), 0.12, (30, 30, 33), label=label)
    stage.limb(pose.at(-0.02, 0.8), pose.at(0.36, 0.88), 0.19, colour, label=label)
    stage.limb(pose.at(-0.8, 0.7), pose.at(-0.5, 0.66), 0.14, colour * 0.9, label=label)
    stage.limb(pose.at(0.36, 1.1, -0.38), pose.at(0.36, 1.1, 0.38), 0.035, (36, 36, 40),
               label=label)  # fmt: skip
    for right in (-0.4, 0.4):
        stage.ball(pose.at(0.36, 1.2, right), 0.07, (60, 62, 66), label=label)
    if pose.sees_front() > 0:
        stage.ball(pose.at(0.6, 0.92), 0.15, (248, 246, 230), label=label, shine=210)
    else:
        stage.ball(pose.at(-0.92, 0.74), 0.09, (200, 28, 24), label=label, shine=110)
