"""The stage on which a minicity scene is drawn: a camera, a canvas and a few primitives.

World coordinates are metres relative to the camera: x to the right, y up from the ground, z ahead.
Everything is drawn from far to near with hard edges on a canvas of twice the final size, so that
image and label always agree; the image is then averaged down, which is the only anti-aliasing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import cv2
import numpy as np

from hrnet_jax.data.minicity.paints import Colour, Number, fractal, mirrored, rgb
from hrnet_jax.data.minicity.plants import Plants
from hrnet_jax.data.minicity.texture import CLEAR, Texture

Point = tuple[Number, Number, Number]

SKY_DEPTH = 255
NEAR = 0.8  # metres; nothing is drawn nearer to the camera than this


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
        """Return the canvas positions of world points [n 3], as float64 [n 2]."""
        flat = []
        for x, y, ahead in points:  # few points: faster than arrays
            z = max(ahead, NEAR)
            u = self.centre + self.focal * (x + self.bend * z * z) / z
            flat.append((u, self.horizon + self.focal * (self.eye - y) / z))
        return np.array(flat)

    def scale(self, z: Number) -> Number:
        """Canvas pixels per metre at distance `z`."""
        return self.focal / max(z, NEAR)


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
        leaves = np.tile(mirrored(leaves), (2, 2))  # in texels of the sprites of plants
        unit = min(max(camera.height / 512, 0.25), 1.0)
        self._plants = Plants(rng, leaves, sun=sun, unit=unit)

    @staticmethod
    def _tag(z: Number, label: int) -> tuple[int, int]:
        return (label, min(max(int(2 * z), 0), SKY_DEPTH - 1))

    def spot(self, point: Point) -> tuple[int, int]:
        """Return the canvas pixel of one point in the world."""
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
        cv2.fillPoly(self.pixels, [flat], (*rgb(colour), shine))
        cv2.fillPoly(self.tags, [flat], self._tag(z, label))

    def relabel(self, points: Sequence[Point], *, label: int) -> None:
        """Assign a region to a class without painting it, as annotators do with nets."""
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
        cv2.line(self.pixels, first, last, (*rgb(colour), shine), thick)
        cv2.line(self.tags, first, last, self._tag(z, label), thick)

    def ball(
        self, centre: Point, radius: Number, colour: Colour, *, label: int, shine: int = 0
    ) -> None:
        """Draw a disc that faces the camera."""
        spot = self.spot(centre)
        r = max(int(radius * self.camera.scale(centre[2]) + 0.5), 1)
        cv2.circle(self.pixels, spot, r, (*rgb(colour), shine), -1)
        cv2.circle(self.tags, spot, r, self._tag(centre[2], label), -1)

    def fineness(self, start: tuple[Number, Number], end: tuple[Number, Number]) -> int:
        """Return the texels per metre for a wall from `start` to `end` (x, z)."""
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
        coarse = 2 if min(z0, z1) < 17 else 1  # near surfaces have no fine detail
        first = max(int(min(u0, u1)), 0) // 2 * 2
        last = min(int(max(u0, u1)) // 2 * 2 + 2, cam.width)
        if last <= first or abs(u1 - u0) < 1:
            return
        along = (np.arange(first, last, coarse) + 0.5 * coarse - u0) / (u1 - u0)
        along = np.minimum(np.maximum(along, 0), 1)
        inverse = (1 - along) / z0 + along / z1  # 1/z, not z, is linear on the screen
        z = 1 / inverse
        wide = texture.texels.shape[1]
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
        seen = texture.take(iy.astype(np.int32), ix)
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
        sprite = self._plants.sprite(kind)
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
        ink = self._plants.inks(colour).take(grade).view(np.uint8).reshape(*grade.shape, 4)
        tag = np.array(self._tag(centre[2], label), np.uint8).view(np.uint16)[0]
        tags = np.full(grade.shape, tag, np.uint16).view(np.uint8).reshape(*grade.shape, 2)
        window = (slice(top, bottom), slice(left, right))
        cv2.copyTo(ink, grade, self.pixels[window])
        cv2.copyTo(tags, grade, self.tags[window])
