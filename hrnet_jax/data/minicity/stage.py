"""The stage on which a minicity scene is drawn: a camera, a canvas and a few primitives.

World coordinates are metres relative to the camera: x to the right, y up from the ground, z ahead.
Everything is drawn from far to near with hard edges on a canvas of twice the final size, so that
image and label always agree; the image is then averaged down, which is the only anti-aliasing.

To give the same pixels on every machine, arithmetic on pixels uses only operations which IEEE 754
rounds exactly (+ - * / and comparisons) or integers: no `exp`, no `sin` and no float blurs.
"""

import copy
import sys
from collections.abc import Sequence
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


@no_type_check  # at run time, in tests: called very often
def paint(rng: np.random.Generator) -> np.ndarray:
    """Draw one colour of the common palette, slightly varied."""
    base = np.array(PAINTS[int(rng.integers(len(PAINTS)))], np.float32)
    varied = base * np.float32(rng.uniform(0.8, 1.15)) + rng.integers(-12, 13, 3)
    return np.clip(varied, 8, 248).astype(np.float32)


@no_type_check  # at run time, in tests: called very often
def pick(rng: np.random.Generator, options: tuple) -> np.ndarray:
    """Choose one colour of a short list."""
    return np.array(options[int(rng.integers(len(options)))], np.float32)


@no_type_check  # at run time, in tests: called very often
def mix(first: Colour, second: Colour, share: Number) -> np.ndarray:
    """Blend two colours; `share` is the part of the second one."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + (b - a) * np.float32(share)


def fractal(rng: np.random.Generator, *, size: int, cells: int, octaves: int) -> np.ndarray:
    """Smooth random texture in [-1, 1], [size size]; each octave is half as strong."""
    total = np.zeros((size, size), np.uint16)
    for octave in range(octaves):
        n = min(cells << octave, size)
        grid = rng.integers(0, 256, (n, n), dtype=np.uint8)
        # the fixed-point variant of bilinear interpolation is the same on every processor
        smooth = cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR_EXACT)
        total += np.asarray(smooth, np.uint16) >> np.uint16(octave)
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


CLEAR = 255  # in the shine of a texture: nothing is there


@no_type_check  # as above
def packed(colour: Colour, last: int = 0) -> np.uint32:
    """Pack a colour and the byte that goes with it (shine or label) into one element."""
    r, g, b = colour.tolist() if isinstance(colour, np.ndarray) else colour
    r, g, b = (0 if c < 0 else 255 if c > 255 else int(c) for c in (r, g, b))
    return np.uint32(int.from_bytes(bytes((r, g, b, last)), sys.byteorder))


def modulated(ink: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Multiply uint8 colours [h w 4] by `grey` / 128 in whole numbers; the last byte stays."""
    factor = cv2.merge((grey, grey, grey, np.full_like(grey, 128)))
    product = np.multiply(ink, factor, dtype=np.uint16)
    product >>= np.uint16(7)
    return np.minimum(product, np.uint16(255), out=product).astype(np.uint8)


@no_type_check  # at run time, in tests: its methods are called thousands of times per scene
class Texture:
    """The picture of an upright surface, in metres from its lower left corner."""

    def __init__(self, length: Number, height: Number, ink: np.uint32, *, fine: int):
        self.height, self.fine = height, fine  # fine: texels per metre
        shape = (max(int(height * fine), 1), max(int(length * fine), 1))
        self.texels = np.full(shape, ink, np.uint32)  # bytes R G B and shine
        rows, columns = shape
        self.s = (np.arange(columns, dtype=np.float32)[None, :] + np.float32(0.5)) / fine
        self.y = height - (np.arange(rows, dtype=np.float32)[:, None] + np.float32(0.5)) / fine

    def row(self, y: Number) -> int:
        """Give the texel row at a height."""
        return max(int((self.height - y) * self.fine), 0)

    def fill(self, left: Number, right: Number, low: Number, high: Number, ink: np.uint32) -> None:
        """Fill a rectangle given in metres."""
        columns = slice(max(int(left * self.fine), 0), max(int(right * self.fine), 0))
        self.texels[self.row(high) : self.row(low), columns] = ink

    def part(self, length: Number) -> "Texture":
        """Give the first `length` metres."""
        part = copy.copy(self)
        part.texels = self.texels[:, : max(int(length * self.fine), 1)]
        return part

    def shade(self, light: np.ndarray, dirt: np.ndarray) -> None:
        """Multiply by the light at each height [h 1] and by a tile of dirt (1 is 128)."""
        step = max(24 // self.fine, 1)
        rows, columns = self.texels.shape
        part = dirt[::step, ::step]
        tall, wide = -(-rows // len(part)), -(-columns // len(part))
        if tall * wide > 1:
            part = np.tile(part, (tall, wide))
        grey = (part[:rows, :columns] * light.astype(np.float32)).astype(np.uint8)
        shaded = modulated(self.texels.view(np.uint8).reshape(rows, columns, 4), grey)
        self.texels = shaded.view(np.uint32)[..., 0]


@no_type_check  # as above
class Stage:
    """Canvas, camera and textures of one scene."""

    def __init__(self, rng: np.random.Generator, camera: Camera, *, sun: Number):
        self.rng = rng
        self.camera = camera
        self.sun = sun  # -1: light from the left, 1: from the right
        self.pixels = np.zeros((camera.height, camera.width, 4), np.uint8)  # RGB and shine
        self.tags = np.zeros((camera.height, camera.width, 2), np.uint8)  # label id, half metres
        self.tags[..., 1] = SKY_DEPTH
        grain = fractal(rng, size=256, cells=64, octaves=3)
        stain = fractal(rng, size=256, cells=8, octaves=5)
        self.grain, self.stain = mirrored(grain), mirrored(stain)
        self.dirt = mirrored(128 + np.float32(128 * 0.08) * stain)
        self.rough = mirrored(128 + 128 * (np.float32(0.16) * stain + np.float32(0.12) * grain))
        leaves = grain[::2, ::2] * np.float32(0.72) + stain[::2, ::2] * np.float32(0.42)
        self.leaves = np.tile(mirrored(leaves), (2, 2))  # in texels of the sprites of plants
        self._sprites: dict[tuple[str, int], np.ndarray] = {}
        self._inks: dict[tuple[int, ...], np.ndarray] = {}

    @staticmethod
    def _ink(colour: Colour, shine: int) -> tuple[int, ...]:
        r, g, b = colour.tolist() if isinstance(colour, np.ndarray) else colour
        return (min(max(int(r), 0), 255), min(max(int(g), 0), 255), min(max(int(b), 0), 255), shine)

    @staticmethod
    def _tag(z: Number, label: int) -> tuple[int, int]:
        return (label, min(max(int(2 * z), 0), SKY_DEPTH - 1))

    def spot(self, point: Point) -> tuple[int, int]:
        """Give the canvas pixel of one point in the world."""
        cam = self.camera
        x, y, z = point
        if z < NEAR:
            z = NEAR
        u = cam.centre + cam.focal * (x + cam.bend * z * z) / z
        v = cam.horizon + cam.focal * (cam.eye - y) / z
        if -8000 < u < 8000 and -8000 < v < 8000:
            return round(u), round(v)
        return round(min(max(u, -8000), 8000)), round(min(max(v, -8000), 8000))

    def polygon(
        self, points: Sequence[Point], colour: Colour, *, label: int, shine: int = 0
    ) -> None:
        """Fill a polygon in the world."""
        flat = np.array([self.spot(p) for p in points], np.int32)
        z = sum(p[2] for p in points) / len(points)
        cv2.fillPoly(self.pixels, [flat], self._ink(colour, shine))
        cv2.fillPoly(self.tags, [flat], self._tag(z, label))

    def relabel(self, points: Sequence[Point], *, label: int) -> None:
        """Give a region to a class without painting it, as annotators do with nets."""
        flat = np.array([self.spot(p) for p in points], np.int32)
        u0, v0 = np.maximum(flat.min(0), 0)
        u1, v1 = np.minimum(flat.max(0) + 1, [self.camera.width, self.camera.height])
        if u1 <= u0 or v1 <= v0:
            return
        mask = np.zeros((v1 - v0, u1 - u0), np.uint8)
        cv2.fillPoly(mask, [flat - [u0, v0]], 1)
        self.tags[v0:v1, u0:u1, 0][mask > 0] = label

    def limb(
        self, a: Point, b: Point, radius: Number, colour: Colour, *, label: int, shine: int = 0
    ) -> None:
        """Draw a round bar between two points: an arm, a pole, a tube."""
        z = (a[2] + b[2]) / 2
        first, last = self.spot(a), self.spot(b)
        thick = max(int(2 * radius * self.camera.scale(z) + 0.5), 1)
        cv2.line(self.pixels, first, last, self._ink(colour, shine), thick)
        cv2.line(self.tags, first, last, self._tag(z, label), thick)

    def ball(
        self, centre: Point, radius: Number, colour: Colour, *, label: int, shine: int = 0
    ) -> None:
        """Draw a disc that faces the camera."""
        spot = self.spot(centre)
        r = max(int(radius * self.camera.scale(centre[2]) + 0.5), 1)
        cv2.circle(self.pixels, spot, r, self._ink(colour, shine), -1)
        cv2.circle(self.tags, spot, r, self._tag(centre[2], label), -1)

    def fineness(self, start: tuple[Number, Number], end: tuple[Number, Number]) -> int:
        """Give the texels per metre which a wall from `start` to `end` (x, z) deserves."""
        return 24 if self.camera.scale(min(start[1], end[1])) > 30 else 12

    def panel(
        self,
        start: tuple[Number, Number],
        end: tuple[Number, Number],
        *,
        texture: Texture,
        label: int,
    ) -> None:
        """Draw an upright wall from `start` to `end` (x, z) on the ground."""
        cam, high = self.camera, texture.height
        (u0, _), (u1, _) = cam.project([(start[0], 0, start[1]), (end[0], 0, end[1])])
        z0, z1 = max(start[1], NEAR), max(end[1], NEAR)
        coarse = 2 if min(z0, z1) < 17 else 1  # what is near has no fine detail
        first = max(int(min(u0, u1)), 0) // 2 * 2
        last = min(int(max(u0, u1)) // 2 * 2 + 2, cam.width)
        if last <= first or abs(u1 - u0) < 1:
            return
        along = (np.arange(first, last, coarse) + 0.5 * coarse - u0) / (u1 - u0)
        along = np.minimum(np.maximum(along, 0), 1)
        inverse = (1 - along) / z0 + along / z1  # 1/z, not z, is linear on the screen
        z = 1 / inverse
        tall, wide = texture.texels.shape
        ix = np.minimum((along / z1 / inverse * wide).astype(np.int32), wide - 1)
        top = max(int((cam.horizon + cam.focal * (cam.eye - high) * inverse).min()), 0) // 2 * 2
        bottom = float((cam.horizon + cam.focal * cam.eye * inverse).max())
        bottom = min(int(bottom) // 2 * 2 + 2, cam.height)
        if bottom <= top:
            return
        rows = np.arange(top, bottom, coarse, dtype=np.float32)[:, None] + np.float32(0.5 * coarse)
        drop = (z * (texture.fine / cam.focal)).astype(np.float32)
        # + 1 for the clear row above; negative numbers are rounded towards 0 as well
        iy = (rows - np.float32(cam.horizon)) * drop
        iy += np.float32((high - cam.eye) * texture.fine + 1)
        where = iy.astype(np.int32)
        np.maximum(where, 0, out=where)
        np.minimum(where, tall + 1, out=where)
        where *= wide
        where += ix
        clear = np.full((1, wide), packed((0, 0, 0), CLEAR))
        seen = np.concatenate([clear, texture.texels, clear]).take(where)
        depth = np.minimum((2 * z).astype(np.uint8), SKY_DEPTH - 1)
        self._stamp((top, bottom), (first, last), seen=seen, label=label, depth=depth)

    def _stamp(
        self,
        rows: tuple[int, int],
        columns: tuple[int, int],
        *,
        seen: np.ndarray,
        label: int,
        depth: np.ndarray,
    ) -> None:
        ink = seen.view(np.uint8).reshape(*seen.shape, 4)
        size = (columns[1] - columns[0], rows[1] - rows[0])
        window = (slice(*rows), slice(*columns))
        tags = np.empty((size[1], len(depth), 2), np.uint8)
        tags[..., 0] = label
        tags[..., 1] = depth
        mask = (ink[..., 3] != CLEAR).view(np.uint8)
        if len(depth) != size[0]:
            ink, mask, tags = (
                np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_NEAREST), np.uint8)
                for part in (ink, mask, tags)
            )
        # copyTo is several times faster than numpy's assignment through a mask
        cv2.copyTo(ink, mask, self.pixels[window])
        cv2.copyTo(tags, mask, self.tags[window])

    def foliage(
        self,
        kind: str,
        centre: Point,
        size: tuple[Number, Number],
        colour: Colour,
        *,
        label: int,
    ) -> None:
        """Stamp one of the scene's plants of a kind, with half-axes `size` metres."""
        cam = self.camera
        scale = cam.scale(centre[2])
        u, v = self.spot(centre)
        rx, ry = size[0] * scale, size[1] * scale
        sprite = self._sprite(kind)
        tall, wide = sprite.shape
        left, right = max(int(u - rx), 0), min(int(u + rx) + 1, cam.width)
        top, bottom = max(int(v - ry), 0), min(int(v + ry) + 1, cam.height)
        if right <= left or bottom <= top:
            return
        x0, x1 = int((left - u + rx) / (2 * rx) * wide), int((right - u + rx) / (2 * rx) * wide)
        y0, y1 = int((top - v + ry) / (2 * ry) * tall), int((bottom - v + ry) / (2 * ry) * tall)
        part = sprite[max(y0, 0) : max(y1, y0 + 1), max(x0, 0) : max(x1, x0 + 1)]
        if not part.size:
            return
        shape = (right - left, bottom - top)
        grade = np.asarray(cv2.resize(part, shape, interpolation=cv2.INTER_NEAREST), np.uint8)
        ink = self._leaf_inks(colour).take(grade).view(np.uint8).reshape(*grade.shape, 4)
        tag = np.array(self._tag(centre[2], label), np.uint8).view(np.uint16)[0]
        tags = np.full(grade.shape, tag, np.uint16).view(np.uint8).reshape(*grade.shape, 2)
        window = (slice(top, bottom), slice(left, right))
        cv2.copyTo(ink, grade, self.pixels[window])
        cv2.copyTo(tags, grade, self.tags[window])

    def _sprite(self, kind: str) -> np.ndarray:
        key = kind, int(self.rng.integers(3))
        if key not in self._sprites:
            draw = {"tree": _tree_sprite, "conifer": _conifer_sprite, "clump": _clump_sprite}[kind]
            self._sprites[key] = draw(self)
        return self._sprites[key]

    def _leaf_inks(self, colour: Colour) -> np.ndarray:
        """Tabulate the inks of leaves from shade to sun, uint32 [256]."""
        r, g, b, _ = key = self._ink(colour, 0)
        if key not in self._inks:
            light = np.arange(256, dtype=np.float32) / 150
            inks = np.zeros((256, 4), np.float32)
            # sunlit leaves are yellower
            inks[:, 0] = light * r + 14 * np.minimum(np.maximum(light - np.float32(0.9), 0), 1)
            inks[:, 1] = light * g
            inks[:, 2] = light * b
            self._inks[key] = np.minimum(inks, 255).astype(np.uint8).view(np.uint32)[:, 0]
        return self._inks[key]


def _clump(
    stage: Stage,
    sprite: np.ndarray,
    centre: tuple[Number, Number],
    size: tuple[Number, Number],
    tone: Number = 1.0,
) -> None:
    """Add one fluffy clump of leaves, lit from the sun's side, to a sprite [h w] of grades."""
    (u, v), (rx, ry) = centre, size
    tall, wide = sprite.shape
    left, right = max(int(u - 1.3 * rx), 0), min(int(u + 1.3 * rx) + 1, wide)
    top, bottom = max(int(v - 1.3 * ry), 0), min(int(v + 1.3 * ry) + 1, tall)
    dx = ((np.arange(left, right) - u) / rx).astype(np.float32)[None, :]
    dy = ((np.arange(top, bottom) - v) / ry).astype(np.float32)[:, None]
    ox, oy = stage.rng.integers(0, 256, 2).tolist()
    leaf = stage.leaves[oy:, ox:][: bottom - top, : right - left]
    solid = leaf > dx * dx + (dy * dy - np.float32(0.95))
    light = np.float32(0.16 * stage.sun) * dx + (np.float32(0.82) - np.float32(0.3) * dy)
    light += leaf
    light *= np.float32(150 * tone)
    grade = np.minimum(np.maximum(light, 42), 250).astype(np.uint8)
    np.copyto(sprite[top:bottom, left:right], grade, where=solid)


def _sprite_unit(stage: Stage) -> Number:
    """Give the size of sprites: 1 unless the canvas is small."""
    return min(max(stage.camera.height / 512, 0.25), 1.0)


def _tree_sprite(stage: Stage) -> np.ndarray:
    """Draw the crown of a broad-leaved tree, clump by clump from back to front."""
    rng, unit = stage.rng, 80 * _sprite_unit(stage)
    middle = int(1.75 * unit)
    sprite = np.zeros((2 * middle, 2 * middle), np.uint8)
    for i in range(9):
        far = 1 - i / 9
        u = middle + unit * float(rng.uniform(-0.75, 0.75))
        v = middle - unit * float(rng.uniform(-0.75, 0.75)) * (0.5 + 0.5 * far)
        r = unit * float(rng.uniform(0.45, 0.7))
        _clump(stage, sprite, (u, v), (r, r * 0.85), 0.72 + 0.3 * i / 9)
    return sprite


def _conifer_sprite(stage: Stage) -> np.ndarray:
    unit = _sprite_unit(stage)
    sprite = np.zeros((int(280 * unit), int(144 * unit)), np.uint8)
    for i in range(7):
        centre = (72 * unit, (236 - 34 * i) * unit)
        _clump(stage, sprite, centre, (52 * unit * (1 - 0.137 * i), 38 * unit))
    return sprite


def _clump_sprite(stage: Stage) -> np.ndarray:
    unit = _sprite_unit(stage)
    sprite = np.zeros((int(104 * unit), int(104 * unit)), np.uint8)
    _clump(stage, sprite, (52 * unit, 52 * unit), (40 * unit, 40 * unit))
    return sprite
