"""The stage on which a minicity scene is drawn: a camera, a canvas and a few primitives.

World coordinates are metres relative to the camera: x to the right, y up from the ground, z ahead.
Everything is drawn from far to near with hard edges on a canvas of twice the final size, so that
image and label always agree; the image is then averaged down, which is the only anti-aliasing.

To give the same pixels on every machine, arithmetic on pixels uses only operations which IEEE 754
rounds exactly (+ - * / and comparisons) or integers: no `exp`, no `sin` and no float blurs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import no_type_check

import cv2
import numpy as np

# The tests check types at run time, where an int is no float.
Number = int | float
Colour = Sequence[Number] | np.ndarray
Point = tuple[Number, Number, Number]

SKY_DEPTH = 255
NEAR = 0.8  # metres; nothing is drawn nearer to the camera than this

# One palette for vehicles, clothes, houses, walls and signs: no colour belongs to one class.
PAINTS = (
    (236, 234, 228), (205, 206, 206), (158, 160, 162), (112, 115, 119), (66, 68, 72),
    (34, 35, 38), (164, 44, 38), (128, 52, 42), (178, 92, 62), (206, 160, 92),
    (226, 208, 168), (222, 184, 60), (150, 128, 100), (104, 82, 62), (92, 116, 74),
    (56, 92, 66), (128, 146, 110), (44, 74, 130), (82, 116, 156), (150, 174, 192),
    (52, 108, 116), (196, 152, 138), (118, 74, 96), (212, 112, 44),
)  # fmt: skip


def paint(rng: np.random.Generator) -> np.ndarray:
    """Draw one colour of the common palette, slightly varied."""
    base = np.array(PAINTS[int(rng.integers(len(PAINTS)))], np.float32)
    varied = base * np.float32(rng.uniform(0.8, 1.15)) + rng.integers(-12, 13, 3)
    return np.clip(varied, 8, 248).astype(np.float32)


def pick(rng: np.random.Generator, options: tuple) -> np.ndarray:
    """Choose one colour of a short list."""
    return np.array(options[int(rng.integers(len(options)))], np.float32)


def mix(first: Colour, second: Colour, share: Number) -> np.ndarray:
    """Blend two colours; `share` is the part of the second one."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + (b - a) * np.float32(share)


def fractal(rng: np.random.Generator, *, size: int, cells: int, octaves: int) -> np.ndarray:
    """Smooth random texture in [-1, 1], [size size]; each octave is half as strong."""
    total = np.zeros((size, size), np.int32)
    for octave in range(octaves):
        n = min(cells << octave, size)
        grid = rng.integers(0, 256, (n, n), dtype=np.uint8)
        # the fixed-point variant of bilinear interpolation is the same on every processor
        smooth = cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR_EXACT)
        total += np.asarray(smooth, np.int32) >> octave
    peak = sum(255 >> octave for octave in range(octaves))
    return (total.astype(np.float32) * np.float32(2 / peak) - 1).astype(np.float32)


def mirrored(tile: np.ndarray) -> np.ndarray:
    """Extend a texture by its mirror images, so that it can be repeated without seams."""
    row = np.concatenate([tile, tile[:, ::-1]], axis=1)
    return np.concatenate([row, row[::-1]], axis=0)


@no_type_check  # at run time, in tests: its methods are called thousands of times per scene
@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along a street; `bend` curves the street sideways."""

    width: int
    height: int
    focal: Number
    centre: Number
    horizon: Number
    eye: Number
    bend: Number

    def project(self, points: Sequence[Point]) -> np.ndarray:
        """Give the canvas position of world points [n 3], as float64 [n 2]."""
        flat = []
        for x, y, ahead in points:  # few points: faster than arrays
            z = max(ahead, NEAR)
            u = self.centre + self.focal * (x + self.bend * z * z) / z
            flat.append((u, self.horizon + self.focal * (self.eye - y) / z))
        return np.array(flat)

    def scale(self, z: Number) -> Number:
        """Canvas pixels per metre at distance `z`."""
        return self.focal / max(z, NEAR)


@dataclass
class Surface:
    """What a material gives for a patch of wall: colours, and where it exists and shines."""

    colour: np.ndarray  # float32 [h w 3]
    solid: np.ndarray | None = None  # bool [h w]; None: everywhere
    shine: np.ndarray | None = None  # uint8 [h w]


Material = Callable[[np.ndarray, np.ndarray], Surface]


@no_type_check  # as above
class Stage:
    """Canvas, camera and textures of one scene."""

    def __init__(self, rng: np.random.Generator, camera: Camera, *, sun: Number):
        self.rng = rng
        self.camera = camera
        self.sun = sun  # -1: light from the left, 1: from the right
        self.pixels = np.zeros((camera.height, camera.width, 4), np.uint8)  # RGB and label id
        self.extra = np.zeros((camera.height, camera.width, 2), np.uint8)  # half metres, shine
        self.extra[..., 0] = SKY_DEPTH
        self.grain = mirrored(fractal(rng, size=256, cells=64, octaves=3))
        self.stain = mirrored(fractal(rng, size=256, cells=8, octaves=5))
        self._inks: dict[tuple[int, ...], np.ndarray] = {}
        self.leaves = self.grain * np.float32(0.72) + self.stain * np.float32(0.42)

    def _ink(self, colour: Colour, label: int) -> tuple[int, ...]:
        r, g, b = (min(max(int(c), 0), 255) for c in colour)
        return (r, g, b, label)

    @staticmethod
    def _depth(z: Number, shine: int) -> tuple[int, int]:
        return (min(max(int(2 * z), 0), SKY_DEPTH - 1), shine)

    def polygon(
        self, points: Sequence[Point], colour: Colour, *, label: int, shine: int = 0
    ) -> None:
        """Fill a polygon in the world."""
        flat = np.rint(self.camera.project(points)).astype(np.int32)
        flat = np.clip(flat, -8000, 8000)
        z = sum(p[2] for p in points) / len(points)
        cv2.fillPoly(self.pixels, [flat], self._ink(colour, label))
        cv2.fillPoly(self.extra, [flat], self._depth(z, shine))

    def relabel(self, points: Sequence[Point], *, label: int) -> None:
        """Give a region to a class without painting it, as annotators do with nets."""
        flat = np.rint(self.camera.project(points)).astype(np.int32)
        u0, v0 = np.maximum(flat.min(0), 0)
        u1, v1 = np.minimum(flat.max(0) + 1, [self.camera.width, self.camera.height])
        if u1 <= u0 or v1 <= v0:
            return
        mask = np.zeros((v1 - v0, u1 - u0), np.uint8)
        cv2.fillPoly(mask, [flat - [u0, v0]], 1)
        self.pixels[v0:v1, u0:u1, 3][mask > 0] = label

    def limb(
        self, a: Point, b: Point, radius: Number, colour: Colour, *, label: int, shine: int = 0
    ) -> None:
        """Draw a round bar between two points: an arm, a pole, a tube."""
        z = (a[2] + b[2]) / 2
        ends = np.clip(np.rint(self.camera.project([a, b])), -8000, 8000).astype(int)
        thick = max(int(2 * radius * self.camera.scale(z) + 0.5), 1)
        first, last = tuple(ends[0].tolist()), tuple(ends[1].tolist())
        cv2.line(self.pixels, first, last, self._ink(colour, label), thick)
        cv2.line(self.extra, first, last, self._depth(z, shine), thick)

    def ball(
        self, centre: Point, radius: Number, colour: Colour, *, label: int, shine: int = 0
    ) -> None:
        """Draw a disc that faces the camera."""
        u, v = np.clip(np.rint(self.camera.project([centre])[0]), -8000, 8000).astype(int).tolist()
        r = max(int(radius * self.camera.scale(centre[2]) + 0.5), 1)
        cv2.circle(self.pixels, (u, v), r, self._ink(colour, label), -1)
        cv2.circle(self.extra, (u, v), r, self._depth(centre[2], shine), -1)

    def panel(
        self,
        start: tuple[Number, Number],
        end: tuple[Number, Number],
        *,
        low: Number,
        high: Number,
        material: Material,
        label: int,
    ) -> None:
        """Draw an upright wall from `start` to `end` (x, z), coloured by `material`.

        The material sees metres along the wall and metres above the ground, both [h w].
        """
        cam = self.camera
        length = float(np.sqrt((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2))
        (u0, _), (u1, _) = cam.project([(start[0], 0, start[1]), (end[0], 0, end[1])])
        z0, z1 = max(start[1], NEAR), max(end[1], NEAR)
        coarse = 2 if min(z0, z1) < 17 else 1  # what is near has no fine detail
        first = max(int(min(u0, u1)), 0) // 2 * 2
        last = min(int(max(u0, u1)) // 2 * 2 + 2, cam.width)
        if last <= first or abs(u1 - u0) < 1:
            return
        along = (np.arange(first, last, coarse) + 0.5 * coarse - u0) / (u1 - u0)
        along = np.clip(along, 0, 1)
        inverse = (1 - along) / z0 + along / z1  # 1/z, not z, is linear on the screen
        z = 1 / inverse
        s = along / z1 / inverse * length
        top = max(int((cam.horizon + cam.focal * (cam.eye - high) * inverse).min()), 0) // 2 * 2
        bottom = float((cam.horizon + cam.focal * (cam.eye - low) * inverse).max())
        bottom = min(int(bottom) // 2 * 2 + 2, cam.height)
        if bottom <= top:
            return
        rows = np.arange(top, bottom, coarse, dtype=np.float32)[:, None] + np.float32(0.5 * coarse)
        drop = (z / cam.focal).astype(np.float32)
        y = np.float32(cam.eye) - (rows - np.float32(cam.horizon)) * drop
        surface = material(np.broadcast_to(s.astype(np.float32), y.shape), y)
        solid = (y >= low) & (y <= high)
        if surface.solid is not None:
            solid &= surface.solid
        self._stamp((top, bottom), (first, last), solid=solid, surface=surface, label=label, z=z)

    def _stamp(
        self,
        rows: tuple[int, int],
        columns: tuple[int, int],
        *,
        solid: np.ndarray,
        surface: Surface,
        label: int,
        z: np.ndarray,
    ) -> None:
        mask = np.ascontiguousarray(solid, np.bool_).view(np.uint8)
        ink = np.empty((*mask.shape, 4), np.uint8)
        ink[..., :3] = np.clip(surface.colour, 0, 255)
        ink[..., 3] = label
        extra = np.empty((*mask.shape, 2), np.uint8)
        extra[..., 0] = np.clip(2 * z, 0, SKY_DEPTH - 1)
        extra[..., 1] = 0 if surface.shine is None else surface.shine
        window = (slice(*rows), slice(*columns))
        size = (columns[1] - columns[0], rows[1] - rows[0])
        # copyTo is several times faster than numpy's assignment through a mask
        cover = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        for source, target in ((ink, self.pixels), (extra, self.extra)):
            large = cv2.resize(source, size, interpolation=cv2.INTER_NEAREST)
            cv2.copyTo(large, cover, target[window])

    def foliage(
        self, centre: Point, size: tuple[Number, Number], colour: Colour, *, label: int
    ) -> None:
        """Draw one fluffy clump of leaves with half-axes `size` metres, lit from the sun's side."""
        cam = self.camera
        scale = cam.scale(centre[2])
        (u, v), rx, ry = cam.project([centre])[0], size[0] * scale, size[1] * scale
        # computed for every second pixel and doubled: leaves need no anti-aliasing
        left, right = max(int(u - 1.3 * rx), 0) & ~1, min(int(u + 1.3 * rx) + 2, cam.width) & ~1
        top, bottom = max(int(v - 1.3 * ry), 0) & ~1, min(int(v + 1.3 * ry) + 2, cam.height) & ~1
        if right - left < 2 or bottom - top < 2:
            return
        dx = ((np.arange(left, right, 2) + 1 - u) / rx).astype(np.float32)[None, :]
        dy = ((np.arange(top, bottom, 2) + 1 - v) / ry).astype(np.float32)[:, None]
        step = 3.2 * 30 / scale  # texture cells per pixel: leaves have a size in the world
        ox, oy = self.rng.integers(0, 512, 2)
        ix = ((np.arange(0, right - left, 2) * step).astype(np.int64) + ox) & 511
        iy = ((np.arange(0, bottom - top, 2) * step).astype(np.int64) + oy) & 511
        leaf = self.leaves[iy][:, ix]
        solid = leaf > dx * dx + dy * dy - np.float32(0.95)
        light = leaf + (np.float32(0.16 * self.sun) * dx + np.float32(0.82) - np.float32(0.3) * dy)
        grade = np.clip(light * 150, 42, 250).astype(np.uint8)
        ink = self._leaf_inks(colour, label)[grade]
        doubled = (right - left, bottom - top)
        ink = cv2.resize(ink, doubled, interpolation=cv2.INTER_NEAREST)
        mask = cv2.resize(solid.view(np.uint8), doubled, interpolation=cv2.INTER_NEAREST)
        window = (slice(top, bottom), slice(left, right))
        cv2.copyTo(ink, mask, self.pixels[window])
        depth = np.full((*mask.shape, 2), self._depth(centre[2], 0), np.uint8)
        cv2.copyTo(depth, mask, self.extra[window])

    def _leaf_inks(self, colour: Colour, label: int) -> np.ndarray:
        """Tabulate the inks of leaves from shade to sun, uint8 [256 4]."""
        key = (*(int(c) for c in colour), label)
        if key not in self._inks:
            light = np.arange(256, dtype=np.float32)[:, None] / 150
            inks = np.empty((256, 4), np.float32)
            inks[:, :3] = light * np.asarray(colour, np.float32)
            # sunlit leaves are yellower
            inks[:, :1] += 14 * np.clip(light - 0.9, 0, 1)
            inks[:, 3] = label
            self._inks[key] = np.clip(inks, 0, 255).astype(np.uint8)
        return self._inks[key]
