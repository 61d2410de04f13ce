"""Solids of minicity: the pose of a thing, and how its faces are filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np

from hrnet_jax.data.minicity.paints import Colour, Number
from hrnet_jax.data.minicity.stage import Point, Stage

CIRCLE = tuple(
    (x * sx, y * sy)
    for sx, sy, part in ((1, 1, 1), (-1, 1, -1), (-1, -1, 1), (1, -1, -1))
    for x, y in ((1.0, 0.0), (0.924, 0.383), (0.707, 0.707), (0.383, 0.924), (0.0, 1.0))[::part]
)


@no_type_check  # at run time, in tests: its methods are called thousands of times per scene
@dataclass(frozen=True)
class Pose:
    """The place and heading of a thing: (`along_x`, `along_z`) is its unit heading."""

    x: Number
    z: Number
    along_x: Number = 0.0
    along_z: Number = 1.0

    def at(self, ahead: Number, up: Number, right: Number = 0.0) -> Point:
        """Return the world position of a point in the thing's own axes."""
        return (
            self.x + ahead * self.along_x + right * self.along_z,
            up,
            self.z + ahead * self.along_z - right * self.along_x,
        )

    def sees_right(self) -> Number:
        """Positive if the right flank faces the camera, negative if the left one does."""
        return -(self.x * self.along_z - self.z * self.along_x)

    def sees_front(self) -> Number:
        """Positive if the front faces the camera, in metres from the centre."""
        return -(self.x * self.along_x + self.z * self.along_z)


def heading(turn: Number) -> tuple[Number, Number]:
    """Unit vector for a turn: 0 ahead, 1 to the right, -1 to the left (rational, so exact)."""
    d = 1 + turn * turn
    return 2 * turn / d, (1 - turn * turn) / d


@dataclass(frozen=True)
class Body:
    """An outline (ahead, up, half width), almost convex, swept across a vehicle."""

    outline: tuple[tuple[Number, Number, Number], ...]
    colours: tuple[Colour, ...]  # one per edge
    flank: Colour


@no_type_check  # as above
def face(
    stage: Stage,
    pose: Pose,
    points: Sequence[tuple[Number, Number, Number]],
    colour: Colour,
    *,
    label: int,
    shine: int = 0,
) -> None:
    """Fill a polygon given in the axes of a vehicle."""
    stage.polygon([pose.at(*p) for p in points], colour, label=label, shine=shine)


def _tone(stage: Stage, pose: Pose, colour: Colour, normal: tuple[Number, Number]) -> np.ndarray:
    """Shade a face by its normal (ahead, up): bright above, dark away from the sun."""
    sideways = normal[0] * pose.along_x * stage.sun
    return np.asarray(colour, np.float32) * np.float32(0.84 + 0.26 * normal[1] + 0.12 * sideways)


def hull(stage: Stage, pose: Pose, body: Body, *, label: int) -> Number:
    """Draw a body and return the side (1 right, -1 left) of its visible flank."""
    edges = list(zip(body.outline, body.outline[1:] + body.outline[:1], body.colours, strict=True))
    eye_ahead, eye_up = pose.sees_front(), stage.camera.eye

    def distance(edge: tuple) -> Number:
        return -abs((edge[0][0] + edge[1][0]) / 2 - eye_ahead)

    for (a0, y0, w0), (a1, y1, w1), colour in sorted(edges, key=distance):
        normal = np.array((y0 - y1, a1 - a0)) / np.sqrt((y0 - y1) ** 2 + (a1 - a0) ** 2 + 1e-9)
        if (eye_ahead - a0) * normal[0] + (eye_up - y0) * normal[1] <= 0:
            continue
        quad = [(a0, y0, -w0), (a0, y0, w0), (a1, y1, w1), (a1, y1, -w1)]
        shaded = _tone(stage, pose, colour, (float(normal[0]), float(normal[1])))
        face(stage, pose, quad, shaded, label=label)
    right = pose.sees_right()
    side = 1.0 if right > 0 else -1.0
    if abs(right) > max(w for _, _, w in body.outline):
        lit = side * pose.along_z * stage.sun
        flank = np.asarray(body.flank, np.float32) * np.float32(0.86 + 0.12 * lit)
        face(stage, pose, [(a, y, side * w) for a, y, w in body.outline], flank, label=label)
    return side


@no_type_check  # as above
def plate(
    stage: Stage,
    pose: Pose,
    ahead: Number,
    box: tuple[Number, Number, Number, Number],
    colour: Colour,
    *,
    label: int,
    shine: int = 0,
) -> None:
    """Draw a rectangle (left, right, low, high) across the front or rear of a vehicle."""
    left, right, low, high = box
    quad = [(ahead, low, left), (ahead, low, right), (ahead, high, right), (ahead, high, left)]
    face(stage, pose, quad, colour, label=label, shine=shine)


@no_type_check  # as above
def strip(
    stage: Stage,
    pose: Pose,
    side: Number,
    box: tuple[Number, Number, Number, Number],
    colour: Colour,
    *,
    label: int,
    shine: int = 0,
) -> None:
    """Draw a rectangle (rear, front, low, high) on the flank at `side` metres."""
    rear, front, low, high = box
    quad = [(rear, low, side), (front, low, side), (front, high, side), (rear, high, side)]
    face(stage, pose, quad, colour, label=label, shine=shine)
