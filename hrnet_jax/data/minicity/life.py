"""The things on a minicity street: traffic, parked vehicles, furniture, people."""

from functools import partial

import numpy as np

from hrnet_jax.data.minicity import street, tram, two_wheelers, vehicles
from hrnet_jax.data.minicity.layout import Scene, Strip
from hrnet_jax.data.minicity.solids import Pose, heading


def populate(scene: Scene) -> None:
    """Choose everything that stands or moves on the street."""
    _traffic(scene)
    _parked(scene)
    for side in (-1, 1):
        _furniture(scene, side)
        _people(scene, side)


def _traffic(scene: Scene) -> None:
    rng, stage, layout = scene.rng, scene.stage, scene.layout
    if layout.tram is not None:
        half = float(rng.uniform(8, 14))
        away = rng.random() < 0.5
        pose = Pose(layout.tram, float(rng.uniform(9, 17)) + half, 0, 1 if away else -1)
        scene.add_vehicle(pose, partial(tram.train, stage, pose, half_length=half),
                          size=(half, 1.3))  # fmt: skip
    big = [k for k in ("bus", "truck") if rng.random() < 0.77]
    rng.shuffle(big)
    lead = big.pop() if big and (rng.random() < 0.5 or not layout.parking) else "car"
    _drive(scene, lead, Pose(float(rng.uniform(-0.3, 0.3)), float(rng.uniform(15, 26)), 0, 1))
    oncoming = big.pop() if big and (rng.random() < 0.6 or not layout.parking) else "car"
    z = float(rng.uniform(11, 20))
    _drive(scene, oncoming, Pose(layout.oncoming, z, 0, -1))
    _drive(scene, "car", Pose(layout.oncoming, z + float(rng.uniform(14, 22)), 0, -1))
    if big:  # not yet drawn, because there is no parking lane
        side = int(rng.choice(sorted(layout.parking)))
        spot = layout.parking[side].middle
        _drive(scene, big.pop(), Pose(spot, float(rng.uniform(11, 18)), 0, side))
    if rng.random() < 0.8:
        _two_wheeler(scene, Pose(float(rng.uniform(0.7, 1.4)), float(rng.uniform(5.5, 9.5)),
                                 *heading(float(rng.uniform(-0.3, 0.3)))))  # fmt: skip
    if rng.random() < 0.55:
        _two_wheeler(scene, Pose(layout.oncoming + 1.2, float(rng.uniform(7, 10)), 0, -1))


def _drive(scene: Scene, kind: str, pose: Pose) -> None:
    stage = scene.stage
    draw = {"car": vehicles.car, "bus": vehicles.bus, "truck": vehicles.truck}[kind]
    size = {"car": (2.3, 0.95), "bus": (5.8, 1.3), "truck": (4.6, 1.3)}[kind]
    scene.add_vehicle(pose, partial(draw, stage, pose), size=size)


def _two_wheeler(
    scene: Scene, pose: Pose, *, ridden: bool = True, motor: bool | None = None
) -> None:
    stage = scene.stage
    if motor is None:
        motor = scene.rng.random() < 0.5

    def draw() -> None:
        (two_wheelers.motorcycle if motor else two_wheelers.bicycle)(stage, pose)
        if ridden:
            street.rider(stage, pose, motor=motor)

    scene.add_vehicle(pose, draw, size=(1.0, 0.3))


def _parked(scene: Scene) -> None:
    rng, layout = scene.rng, scene.layout
    taken = [(t.left, t.right, t.near, t.far) for t in scene.things]
    for side, strip in layout.parking.items():
        z = float(rng.uniform(6.5, 9))
        while z < 60:
            free = not any(
                left < strip.right and right > strip.left and near < z + 2.6 and far > z - 2.6
                for left, right, near, far in taken
            )
            if free and rng.random() < 0.3 and z < 25:
                turn = heading(float(rng.uniform(0.5, 1.0)) * -side)
                _two_wheeler(scene, Pose(strip.middle, z, *turn), ridden=False)
                z += 2.2
            elif free and rng.random() < 0.8:
                _drive(scene, "car", Pose(strip.middle, z, 0, side))
            z += float(rng.uniform(5.2, 7))


def _furniture(scene: Scene, side: int) -> None:
    """Put poles, lights, signs, trees, bicycles and bins on the verge and along the kerb."""
    rng, stage, layout = scene.rng, scene.stage, scene.layout
    walk = layout.walk[side]
    kerb = walk.right - 0.45 if side < 0 else walk.left + 0.45
    z = float(rng.uniform(7, 12))
    reach = -side * 1.5
    for i in range(3):
        zz = z + 17 * i
        scene.add(kerb, zz, partial(street.lamp_post, stage, kerb, zz, reach=reach), half=0.2)
    if rng.random() < 0.68:
        zz = float(rng.uniform(7.5, 14))
        arm = -side * float(rng.uniform(2, 3.4)) if rng.random() < 0.4 else 0.0
        scene.add(kerb, zz, partial(street.traffic_light, stage, kerb, zz, reach=arm), half=0.25)
    for _ in range(int(rng.integers(0, 3))):
        zs = float(rng.uniform(7, 17))
        scene.add(kerb, zs, partial(street.sign, stage, kerb, zs), half=0.22)
    if side in layout.verge:
        verge = layout.verge[side]
        grow = (street.tree, street.conifer)[int(rng.random() < 0.2)]
        for zt in np.arange(float(rng.uniform(9, 15)), 55, float(rng.uniform(8, 13))).tolist():
            if rng.random() < 0.75:
                draw = partial(grow, stage, verge.middle, zt, colour=scene.leaves)
                scene.add(verge.middle, zt, draw, half=0.4)
        if rng.random() < 0.35:
            zb = float(rng.uniform(7, 20))
            draw = partial(street.bush, stage, verge.middle, zb, colour=scene.leaves)
            scene.add(verge.middle, zb, draw, half=0.5)
    _clutter(scene, walk, side)


def _clutter(scene: Scene, walk: Strip, side: int) -> None:
    rng, stage = scene.rng, scene.stage
    inner = walk.left + 0.5 if side < 0 else walk.right - 0.5
    if rng.random() < 0.65:  # one motorcycle, or one to three bicycles side by side
        z, turn = float(rng.uniform(6.5, 12)), heading(float(rng.uniform(0.4, 1.0)))
        motor = rng.random() < 0.4
        for i in range(1 if motor else int(rng.integers(1, 4))):
            pose = Pose(walk.middle, z + 0.8 * i, *turn)
            _two_wheeler(scene, pose, ridden=False, motor=motor)
    if rng.random() < 0.4:
        zb = float(rng.uniform(8, 18))
        scene.add(inner, zb, partial(street.bin_or_box, stage, inner, zb), half=0.4)
    if rng.random() < 0.2:
        zd = float(rng.uniform(7, 13))
        scene.add(walk.middle, zd, partial(street.dog, stage, walk.middle, zd), half=0.4)


def _people(scene: Scene, side: int) -> None:
    rng, stage, layout = scene.rng, scene.stage, scene.layout
    walk = layout.walk[side]
    spots = [(float(rng.uniform(walk.left + 0.4, walk.right - 0.4)), float(rng.uniform(7, 26)))
             for _ in range(int(rng.integers(3, 7)))]  # fmt: skip
    if layout.zebra and layout.zebra > 7 and side > 0:
        spots += [(float(rng.uniform(-5, 3)), layout.zebra + float(rng.uniform(-1, 1)))
                  for _ in range(int(rng.integers(1, 4)))]  # fmt: skip
    for x, z in spots:
        if scene.occupied(x, z):  # nobody walks through a tram
            continue
        on_walk = walk.left < x < walk.right
        turn = float(rng.uniform(-0.4, 0.4)) if on_walk else float(rng.choice((-1.0, 1.0)))
        ax, az = heading(turn)
        pose = Pose(x, z, ax, az * float(rng.choice((-1, 1))) if on_walk else az)
        scene.add(x, z, partial(street.person, stage, pose), half=0.3)
