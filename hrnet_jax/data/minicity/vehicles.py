"""Cars, buses and trucks of minicity: small solids drawn face by face, in any direction."""

from collections.abc import Sequence

import numpy as np

from hrnet_jax.data.minicity.paints import Colour, Number, mix, paint
from hrnet_jax.data.minicity.solids import CIRCLE, Body, Pose, face, hull, plate, strip
from hrnet_jax.data.minicity.stage import Stage

CAR, TRUCK, BUS = 26, 27, 28
GLASS = np.array((46, 56, 66), np.float32)
TYRE = np.array((26, 26, 28), np.float32)


def wheel(
    stage: Stage, pose: Pose, ahead: Number, side: Number, radius: Number, *, label: int
) -> None:
    """Draw one wheel in the plane of a flank."""
    for part, colour in ((1.0, TYRE), (0.62, (136, 138, 142)), (0.3, (70, 72, 76))):
        rim = [(ahead + x * radius * part, radius + y * radius * part, side) for x, y in CIRCLE]
        face(stage, pose, rim, colour, label=label)


def _tyres(
    stage: Stage, pose: Pose, half: Number, axles: Sequence[Number], radius: Number, label: int
) -> None:
    """Draw the tyres as seen from ahead or behind, under the body, and the dark underside."""
    for ahead in axles:
        for right in (-half + 0.02, half - 0.26):
            box = (right, right + 0.24, 0.0, 2 * radius)
            plate(stage, pose, ahead, box, TYRE, label=label)
        plate(stage, pose, ahead, (-half + 0.2, half - 0.2, 0.16, 0.5), (18, 18, 20), label=label)


SEDAN = ((-2.2, 0.28), (-2.25, 0.86), (-1.65, 0.98), (-1.0, 1.42), (0.3, 1.45), (1.05, 0.98),
         (2.05, 0.8), (2.2, 0.56), (2.18, 0.28))  # fmt: skip
HATCH = ((-1.9, 0.28), (-2.0, 0.82), (-1.9, 1.0), (-1.5, 1.46), (0.35, 1.5), (1.05, 1.0),
         (1.85, 0.82), (2.0, 0.58), (1.98, 0.28))  # fmt: skip
SUV = ((-2.2, 0.34), (-2.28, 0.98), (-2.2, 1.14), (-1.85, 1.72), (0.35, 1.76), (1.0, 1.16),
       (2.0, 1.02), (2.2, 0.72), (2.18, 0.34))  # fmt: skip
VAN = ((-2.4, 0.34), (-2.45, 1.0), (-2.44, 1.16), (-2.34, 1.98), (0.9, 1.98), (1.65, 1.14),
       (2.25, 0.98), (2.4, 0.66), (2.38, 0.34))  # fmt: skip


def car(stage: Stage, pose: Pose) -> None:
    """Draw a passenger car of one of four shapes."""
    rng = stage.rng
    shape = (SEDAN, HATCH, SUV, VAN)[int(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1]))]
    colour, half = paint(rng), float(rng.uniform(0.84, 0.95))
    belt, roof = shape[5][1], shape[4][1]

    def width(y: Number) -> Number:  # the greenhouse leans inwards
        return half - 0.24 * max(y - belt, 0) / (roof - belt)

    outline = tuple((a, y, width(y)) for a, y in shape)
    glass = mix(GLASS, (150, 170, 190), float(rng.uniform(0, 0.45)))
    dark = colour * np.float32(0.9)
    tints = (dark, colour, glass, colour * 1.05, glass, colour * 1.08, dark, dark, (20, 20, 22))
    _tyres(stage, pose, half, (shape[0][0] + 0.7, shape[-1][0] - 0.8), 0.32, CAR)
    side = hull(stage, pose, Body(outline, tints, colour), label=CAR)
    if pose.sees_front() > 0:
        _car_front(stage, pose, shape, half)
    else:
        _car_rear(stage, pose, shape, half)
    if abs(pose.sees_right()) > half:
        _car_flank(stage, pose, shape, [side * width(y) for _, y in shape], colour, glass)


def _car_flank(
    stage: Stage,
    pose: Pose,
    shape: tuple[tuple[Number, Number], ...],
    sides: list[Number],
    colour: np.ndarray,
    glass: np.ndarray,
) -> None:
    belt, roof, side = shape[5][1] + 0.02, shape[4][1] - 0.09, sides[5]
    a = [p[0] for p in shape]
    top = sides[4]
    middle = (a[2] + a[5]) / 2 - 0.05
    rear = [(a[2] + 0.22, belt, side), (middle - 0.05, belt, side), (middle - 0.05, roof, top),
            (a[3] + 0.12, roof, top)]  # fmt: skip
    front = [(middle + 0.05, belt, side), (a[5] - 0.2, belt, side), (a[4] - 0.02, roof, top),
             (middle + 0.05, roof, top)]  # fmt: skip
    for pane in (rear, front):
        face(stage, pose, pane, glass * np.float32(0.85), label=CAR)
    sill = (a[0] + 0.05, a[-1] - 0.05, 0.28, 0.38)
    strip(stage, pose, side, sill, colour * np.float32(0.45), label=CAR)
    strip(stage, pose, side, (middle - 0.02, middle + 0.02, 0.4, belt), colour * 0.6, label=CAR)
    for ahead in (a[0] + 0.7, a[-1] - 0.8):
        wheel(stage, pose, ahead, side * 1.01, 0.33, label=CAR)


def _car_rear(stage: Stage, pose: Pose, shape: tuple, half: Number) -> None:
    end, belt = shape[0][0] - 0.03, shape[1][1]
    for a, b in ((-half + 0.04, -half + 0.36), (half - 0.36, half - 0.04)):
        plate(stage, pose, end, (a, b, belt - 0.2, belt - 0.02), (196, 26, 22), label=CAR, shine=90)
    plate(stage, pose, end, (-0.27, 0.27, belt - 0.3, belt - 0.18), (228, 228, 222), label=CAR)
    plate(stage, pose, end, (-half, half, 0.28, 0.42), (40, 40, 43), label=CAR)


def _car_front(stage: Stage, pose: Pose, shape: tuple, half: Number) -> None:
    end, nose = shape[7][0] + 0.02, shape[7][1]
    plate(stage, pose, end, (-0.5, 0.5, nose - 0.14, nose + 0.08), (26, 27, 30), label=CAR)
    for a, b in ((-half + 0.04, -half + 0.36), (half - 0.36, half - 0.04)):
        lamp = (a, b, nose - 0.04, nose + 0.14)
        plate(stage, pose, end, lamp, (244, 244, 232), label=CAR, shine=200)
    plate(stage, pose, end, (-0.26, 0.26, 0.36, 0.46), (228, 228, 222), label=CAR)
    plate(stage, pose, end, (-half, half, 0.28, 0.34), (40, 40, 43), label=CAR)


def _box(
    rear: Number,
    front: Number,
    low: Number,
    high: Number,
    half: Number,
    *,
    colours: tuple,
    flank: Colour,
) -> Body:
    """Make a box; `colours` are those of rear, top, front and underside."""
    corners = ((rear, low), (rear, high), (front, high), (front, low))
    return Body(tuple((a, y, half) for a, y in corners), colours, flank)


def bus(stage: Stage, pose: Pose) -> None:
    """Draw a city bus: long rows of windows, doors, a display above the windscreen."""
    rng = stage.rng
    colour, half, end = paint(rng), 1.25, float(rng.uniform(4.8, 5.8))
    stripe = paint(rng)
    tints = (colour, mix(colour, (235, 235, 235), 0.5), colour, (24, 24, 26))
    _tyres(stage, pose, half, (-end + 2.4, end - 2.4), 0.46, BUS)
    body = _box(-end, end, 0.32, 3.05, half, colours=tints, flank=colour)
    side = hull(stage, pose, body, label=BUS) * half
    if pose.sees_front() > end:
        plate(stage, pose, end, (-1.15, 1.15, 1.05, 2.45), GLASS * 1.1, label=BUS)
        face(stage, pose, [(end, 1.05, -1.15), (end, 1.05, -0.3), (end, 2.45, 0.2),
             (end, 2.45, -0.6)], GLASS * 1.5, label=BUS)  # fmt: skip
        plate(stage, pose, end, (-1.1, 1.1, 2.52, 2.95), (18, 18, 18), label=BUS)
        plate(stage, pose, end, (-0.85, 0.6, 2.6, 2.86), (250, 180, 60), label=BUS, shine=230)
        plate(stage, pose, end, (-half, half, 0.32, 0.6), stripe, label=BUS)
        for a in (-1.1, 0.75):
            lamp = (a, a + 0.35, 0.62, 0.84)
            plate(stage, pose, end, lamp, (246, 244, 230), label=BUS, shine=200)
    elif pose.sees_front() < -end:
        plate(stage, pose, -end, (-1.05, 1.05, 1.6, 2.55), GLASS, label=BUS)
        plate(stage, pose, -end, (-half, half, 0.32, 0.55), stripe, label=BUS)
        plate(stage, pose, -end, (-0.8, 0.8, 0.75, 1.35), colour * np.float32(0.62), label=BUS)
        for a in (-1.18, 0.98):
            plate(stage, pose, -end, (a, a + 0.2, 0.7, 1.4), (196, 28, 24), label=BUS, shine=90)
    if abs(pose.sees_right()) > half:
        _bus_flank(stage, pose, side, end, stripe)


def _bus_flank(stage: Stage, pose: Pose, side: Number, end: Number, stripe: np.ndarray) -> None:
    strip(stage, pose, side, (-end, end, 0.42, 0.95), stripe * np.float32(0.9), label=BUS)
    strip(stage, pose, side, (-end + 0.15, end - 0.1, 1.3, 2.55), (22, 24, 28), label=BUS)
    bay = (2 * end - 0.25) / 8
    for i in range(8):
        rear = -end + 0.15 + i * bay
        tint = GLASS * np.float32((1.05, 1.3, 1.15)[i % 3])
        box = (rear + 0.06, rear + bay - 0.06, 1.38, 2.48)
        strip(stage, pose, side, box, tint, label=BUS, shine=110)
    for rear in (-0.4, end - 1.5):
        strip(stage, pose, side, (rear, rear + 1.15, 0.42, 2.5), (30, 32, 36), label=BUS)
        for leaf in (0.07, 0.62):
            box = (rear + leaf, rear + leaf + 0.46, 0.6, 2.4)
            strip(stage, pose, side, box, GLASS * 1.4, label=BUS, shine=90)
    for ahead in (-end + 2.4, end - 2.4):
        wheel(stage, pose, ahead, side * 1.01, 0.48, label=BUS)


def truck(stage: Stage, pose: Pose) -> None:
    """Draw a lorry: a cab and, behind a gap, a higher cargo box."""
    rng = stage.rng
    cab, cargo, half = paint(rng), paint(rng), 1.25
    end, high = float(rng.uniform(3.6, 4.6)), float(rng.uniform(3.2, 3.8))
    _tyres(stage, pose, half, (-end + 1.6, end - 1.0), 0.48, TRUCK)
    load = (-end, end - 2.2, 0.95, high)
    front_first = pose.sees_front() < 0  # the farther of the two boxes is drawn first
    for part in ("cab", "load") if front_first else ("load", "cab"):
        if part == "cab":
            _cab(stage, pose, end, cab)
        else:
            _cargo(stage, pose, load, cargo)
    if abs(pose.sees_right()) > half:
        side = half if pose.sees_right() > 0 else -half
        strip(stage, pose, side, (-end, end - 2.0, 0.5, 0.95), (44, 45, 48), label=TRUCK)
        for ahead in (-end + 0.8, -end + 1.9, end - 1.0):
            wheel(stage, pose, ahead, side * 1.01, 0.5, label=TRUCK)


def _cargo(
    stage: Stage, pose: Pose, load: tuple[Number, Number, Number, Number], colour: np.ndarray
):
    rear, front, low, high = load
    tints = (colour, mix(colour, (220, 220, 220), 0.4), colour * 0.8, (20, 20, 22))
    side = hull(stage, pose, _box(rear, front, low, high, 1.27, colours=tints, flank=colour),
                label=TRUCK) * 1.27  # fmt: skip
    trim = mix(colour, (60, 60, 62), 0.55)
    if abs(pose.sees_right()) > 1.27:
        logo = paint(stage.rng)
        box = (rear + 0.8, front - 0.8, low + 0.9, high - 0.7)
        strip(stage, pose, side, box, logo, label=TRUCK)
        for y in (low, high - 0.12):
            strip(stage, pose, side, (rear, front, y, y + 0.12), trim, label=TRUCK)
    if pose.sees_front() < rear:
        for a in (-1.27, -0.06, 1.15):
            plate(stage, pose, rear, (a, a + 0.12, low, high), trim, label=TRUCK)
        for a in (-0.8, -0.4, 0.35, 0.75):
            plate(stage, pose, rear, (a, a + 0.06, low, high), (198, 198, 200), label=TRUCK)
        for y in (low, high - 0.14):
            plate(stage, pose, rear, (-1.27, 1.27, y, y + 0.14), trim, label=TRUCK)
        plate(stage, pose, rear, (-1.2, 1.2, 0.5, 0.72), (36, 36, 38), label=TRUCK)
        for a in (-1.2, 0.8):
            box = (a, a + 0.4, 0.74, 0.92)
            plate(stage, pose, rear, box, (200, 30, 26), label=TRUCK, shine=90)


def _cab(stage: Stage, pose: Pose, end: Number, colour: np.ndarray) -> None:
    rear = end - 2.0
    outline = ((rear, 0.45), (rear, 2.75), (end - 0.25, 2.8), (end, 1.6), (end, 0.45))
    tints = (colour * 0.7, colour, GLASS * 1.1, colour, (20, 20, 22))
    body = Body(tuple((a, y, 1.2) for a, y in outline), tints, colour)
    side = hull(stage, pose, body, label=TRUCK) * 1.2
    if abs(pose.sees_right()) > 1.2:
        pane = [(end - 1.3, 1.65, side), (end - 0.15, 1.65, side), (end - 0.32, 2.5, side),
                (end - 1.3, 2.5, side)]  # fmt: skip
        face(stage, pose, pane, GLASS, label=TRUCK)
        strip(stage, pose, side, (end - 1.35, end - 1.3, 0.6, 2.6), colour * 0.55, label=TRUCK)
    if pose.sees_front() > end:
        plate(stage, pose, end, (-0.8, 0.8, 0.85, 1.4), (30, 31, 34), label=TRUCK)
        for y in (0.95, 1.1, 1.25):
            plate(stage, pose, end, (-0.78, 0.78, y, y + 0.05), (150, 150, 152), label=TRUCK)
        for a in (-1.15, 0.82):
            box = (a, a + 0.33, 0.6, 0.8)
            plate(stage, pose, end, box, (246, 244, 230), label=TRUCK, shine=200)
        plate(stage, pose, end - 0.2, (-1.0, 1.0, 2.62, 2.78), colour * 0.6, label=TRUCK)
