"""The layout of a minicity street, chosen before anything is drawn."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import no_type_check

import numpy as np

from hrnet_jax.data.minicity.paints import Number, pick
from hrnet_jax.data.minicity.solids import Pose
from hrnet_jax.data.minicity.stage import Camera, Stage
from hrnet_jax.data.minicity.weather import Weather, choose_weather

ROAD, SIDEWALK, PARKING, RAIL_TRACK, TERRAIN = 7, 8, 9, 10, 22
FAR = 95.0  # metres: where the street ends
LEAVES = ((72, 104, 48), (92, 120, 56), (56, 92, 52), (122, 128, 58), (150, 118, 52),
          (128, 84, 44), (84, 100, 66))  # fmt: skip
GRASS = ((98, 122, 58), (122, 128, 72), (132, 116, 76), (84, 112, 56))


@dataclass
class Strip:
    """A lengthwise band of the ground from `left` to `right` metres."""

    left: Number
    right: Number
    kind: int

    @property
    def middle(self) -> Number:
        """Return the line in the middle of the band."""
        return (self.left + self.right) / 2


@dataclass
class Layout:
    """The cross-section of the street and other choices for the scene."""

    strips: list[Strip]
    oncoming: Number
    tram: Number | None
    left: Number  # where houses begin
    right: Number
    crossing: Number | None  # distance of a side street
    zebra: Number | None
    waste: Strip | None = None  # ground without a label next to a house wall
    parking: dict[int, Strip] = field(default_factory=dict)
    walk: dict[int, Strip] = field(default_factory=dict)
    verge: dict[int, Strip] = field(default_factory=dict)


def make_layout(rng: np.random.Generator) -> Layout:
    """Choose the cross-section of a street at random; the camera drives in the lane at 0."""
    strips = [Strip(-1.75, 1.75, ROAD)]
    layout = Layout(strips, 0, None, 0, 0, None, None)
    edge = -1.75
    order = ["tram", "lane"] if rng.random() < 0.5 else ["lane", "tram"]
    if rng.random() < 0.3:
        order.remove("tram")
    for part in order:
        width = 3.3
        bed = part == "tram" and order[-1] == "tram" and rng.random() < 0.6
        strips.append(Strip(edge - width, edge, RAIL_TRACK if bed else ROAD))
        if part == "tram":
            layout.tram = edge - width / 2
        else:
            layout.oncoming = edge - width / 2
        edge -= width
    for side, start in ((-1, edge), (1, 1.75)):
        end = _roadside(rng, layout, side=side, edge=start)
        if side < 0:
            layout.left = end
        else:
            layout.right = end
    strips.sort(key=lambda s: s.left)
    if rng.random() < 0.3:
        width = float(rng.uniform(0.4, 0.9))
        layout.waste = Strip(layout.right - width, layout.right, 0)
        if rng.random() < 0.5:
            layout.waste = Strip(layout.left, layout.left + width, 0)
    if rng.random() < 0.4:
        layout.crossing = float(rng.uniform(22, 40))
    if rng.random() < 0.35:
        layout.zebra = layout.crossing - 4.5 if layout.crossing else float(rng.uniform(9, 24))
    return layout


def _roadside(rng: np.random.Generator, layout: Layout, *, side: int, edge: Number) -> Number:
    """Add parking bays, kerb, verge and pavement outwards; return where the houses begin."""
    parts: list[tuple[int, Number]] = []
    if rng.random() < 0.55:
        parts.append((PARKING if rng.random() < 0.6 else ROAD, 2.15))
    walk = [(SIDEWALK, float(rng.uniform(2.2, 3.4)))]
    if rng.random() < 0.85:
        walk.insert(int(rng.random() < 0.45), (TERRAIN, float(rng.uniform(1.2, 2.6))))
    for kind, width in parts + walk:
        inner, outer = edge, edge + side * width
        strip = Strip(min(inner, outer), max(inner, outer), kind)
        layout.strips.append(strip)
        if (kind, width) in parts:
            layout.parking[side] = strip
        elif kind == SIDEWALK:
            layout.walk[side] = strip
        else:
            layout.verge[side] = strip
        edge = outer
    return edge


@no_type_check  # at run time, in tests: compared thousands of times per scene
@dataclass
class Thing:
    """Something upright on the street with the ground it covers, so that it can be sorted."""

    left: Number
    right: Number
    near: Number
    far: Number
    draw: Callable[[], None]
    overhang: Number = 0.0  # metres by which it is wider above the ground

    def __post_init__(self):
        near, far = max(self.near, 1), max(self.far, 1)
        left, right = self.left - self.overhang, self.right + self.overhang
        self.seen = min(left / near, left / far), max(right / near, right / far)

    def behind(self, other: "Thing") -> bool:
        """Whether this must be drawn before the other."""
        if self.seen[0] >= other.seen[1] or other.seen[0] >= self.seen[1]:
            return False  # no overlap; needless conditions would lead to cycles
        if self.near >= other.far:
            return True
        if other.near >= self.far:
            return False
        # side by side: the one farther from the camera's axis may be covered
        if self.right <= other.left:
            return other.left <= 0
        if other.right <= self.left:
            return other.right >= 0
        return self.near + self.far > other.near + other.far


def back_to_front(things: list[Thing]) -> list[Thing]:
    """Order things so that nearer ones are drawn over farther ones."""
    things = sorted(things, key=lambda t: -(t.near + t.far))
    first = [{i for i, o in enumerate(things) if o is not t and o.behind(t)} for t in things]
    rest, ordered = list(range(len(things))), []
    while rest:
        left = set(rest)
        free = (i for i in rest if not first[i] & left)
        chosen = next(free, -1)
        if chosen < 0:  # a cycle
            chosen = max(rest, key=lambda i: things[i].near)
        rest.remove(chosen)
        ordered.append(things[chosen])
    return ordered


class Scene:
    """One street scene in the making: its stage, its light, and the places of all things."""

    def __init__(self, rng: np.random.Generator, *, height: int, width: int):
        self.rng = rng
        camera = Camera(
            2 * width, 2 * height, focal=1.45 * width,
            centre=width * float(rng.uniform(0.86, 1.14)),
            horizon=2 * height * float(rng.uniform(0.38, 0.46)),
            eye=float(rng.uniform(1.5, 2.1)), bend=float(rng.uniform(-0.0012, 0.0012)),
        )  # fmt: skip
        self.stage = Stage(rng, camera, sun=float(rng.choice((-1, 1))))
        self.weather: Weather = choose_weather(rng)
        self.layout = make_layout(rng)
        self.leaves = pick(rng, LEAVES)
        self.grass = pick(rng, GRASS)
        self.things: list[Thing] = []

    def add(self, x: Number, z: Number, draw: Callable[[], None], *, half: Number = 0.3) -> None:
        """Put something small at a place."""
        self.things.append(Thing(x - half, x + half, z - half, z + half, draw, overhang=1.2))

    def occupied(self, x: Number, z: Number) -> bool:
        """Whether something already stands at a place."""
        return any(t.left - 0.3 < x < t.right + 0.3 and t.near - 0.4 < z < t.far + 0.4
                   for t in self.things)  # fmt: skip

    def add_vehicle(
        self, pose: Pose, draw: Callable[[], None], *, size: tuple[Number, Number]
    ) -> None:
        """Put a vehicle of `size` (half length, half width) at a pose."""
        hx = abs(pose.along_x) * size[0] + abs(pose.along_z) * size[1]
        hz = abs(pose.along_z) * size[0] + abs(pose.along_x) * size[1]
        self.things.append(Thing(pose.x - hx, pose.x + hx, pose.z - hz, pose.z + hz, draw))
