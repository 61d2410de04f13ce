"""The ground of a minicity scene, painted pixel by pixel from its world coordinates."""

from itertools import pairwise

import cv2
import numpy as np

from hrnet_jax.data.minicity.layout import (
    FAR,
    PARKING,
    RAIL_TRACK,
    ROAD,
    SIDEWALK,
    TERRAIN,
    Scene,
)
from hrnet_jax.data.minicity.paints import Number, mix, modulated, paint
from hrnet_jax.data.minicity.solids import CIRCLE
from hrnet_jax.data.minicity.weather import soften

GROUND = 6
MARK = 24  # white paint on the road; no label, but treated like one until the end
SEALED = (ROAD, PARKING, RAIL_TRACK)
REACH, CELLS = 60.0, 25  # the ground is known for so many metres, in so many cells per metre


class Ground:
    """The ground, looked up pixel by pixel from its world coordinates.

    Each row of the image shows a cross-section of the street. Few of them differ (with and without
    a dash, a joint, a zebra crossing), and each is drawn once.
    """

    def __init__(self, scene: Scene):
        self.scene = scene
        self.rng = scene.rng
        cam = scene.stage.camera
        self.top = int(cam.horizon) + 2
        rows = np.arange(self.top, cam.height, dtype=np.float32)[:, None] + np.float32(0.5)
        self.z = np.float32(cam.focal * cam.eye) / (rows - np.float32(cam.horizon))
        # every second column only: the label has no more, and the rows suffice for soft edges
        columns = np.arange(1, cam.width, 2, dtype=np.float32)[None, :] - np.float32(cam.centre)
        self.x = columns * (self.z / np.float32(cam.focal))
        self.x -= np.float32(cam.bend) * self.z * self.z
        # details finer than a few pixels would only flicker
        self.sharp = np.clip(1.6 - self.z / 22, 0, 1)
        self._choose_tones()

    def _choose_tones(self) -> None:
        rng, scene = self.rng, self.scene
        left, right = (int(v) for v in rng.choice((TERRAIN, TERRAIN, GROUND, SIDEWALK), 2))
        self.outside = left, right
        asphalt = np.full(3, rng.uniform(78, 138), np.float32) + rng.integers(-7, 8, 3)
        grey = np.full(3, rng.uniform(104, 172), np.float32) + rng.integers(-9, 10, 3)
        paving = mix(grey, paint(rng), 0.16)
        tones = np.zeros((25, 3), np.float32)  # by label id
        tones[ROAD], tones[SIDEWALK], tones[TERRAIN] = asphalt, paving, scene.grass
        tones[PARKING] = mix(asphalt, paving, float(rng.uniform(0.1, 0.7)))
        tones[GROUND], tones[RAIL_TRACK] = mix(paving, (150, 130, 104), 0.5), (112, 102, 92)
        tones[0] = mix(paving, (96, 84, 70), 0.6)
        tones[MARK] = asphalt * 0.25 + np.array((172, 172, 168), np.float32)
        self.tones = tones
        self.rough = np.full(25, 0.09, np.float32)
        self.rough[[0, TERRAIN, RAIL_TRACK, SIDEWALK]] = 0.3, 0.34, 0.3, 0.06
        self.blotch = np.full(25, 0.1, np.float32)
        self.blotch[[0, TERRAIN, SIDEWALK, MARK]] = 0.3, 0.26, 0.08, 0.16

    def _noise(self, tile: np.ndarray, per_metre: Number) -> np.ndarray:
        # z is the same all along a row; & 511 wraps around the tile of 512 x 512
        iy = (self.z * np.float32(per_metre)).astype(np.int32) & 511
        ix = (self.x * np.float32(per_metre)).astype(np.int32) & 511
        ix += iy << 9
        return tile.take(ix)

    def draw(self) -> None:
        """Paint strips, marks and shadows onto the stage."""
        stage = self.scene.stage
        ink = self._strips()
        kind = ink[..., 3]
        factor = self.rough[kind] * (self._noise(stage.grain, 28) * self.sharp)
        factor += self.blotch[kind] * self._noise(stage.stain, 14)
        factor += 1
        factor *= self._shadows()
        factor *= 128
        label = np.arange(25, dtype=np.uint8)
        label[MARK] = ROAD
        tags = np.empty((*kind.shape, 2), np.uint8)
        tags[..., 0] = label[kind]
        tags[..., 1] = np.minimum(2 * self.z, 250).astype(np.uint8)
        ink = modulated(ink, np.maximum(factor, 0).astype(np.uint8))
        ink[..., 3] = 0
        size = (stage.camera.width, len(ink))
        for part, canvas in ((ink, stage.pixels), (tags, stage.tags)):
            canvas[self.top :] = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST)

    def _strips(self) -> np.ndarray:
        """Give colours and kinds [h w 4]."""
        layout, z = self.scene.layout, self.z[:, 0]
        crossing = layout.crossing or -99.0
        zebra = layout.zebra or -99.0
        traits = (
            np.abs(z - np.float32(crossing)) < 3.4,
            z % 6 < 3.2,
            np.abs(z - np.float32(zebra)) < 1.5,
            np.abs(z - np.float32(zebra - 2.4)) < 0.18,
            z % 5.5 < 0.12,
            z % 0.7 < 0.24,
            (z % 0.75 < 0.06) & (z < 24),
            z > 24,
            z > FAR,
        )
        code = sum(trait.astype(np.int64) << i for i, trait in enumerate(traits))
        codes, which = np.unique(code, return_inverse=True)
        count = int(2 * REACH) * CELLS
        x = (np.arange(count, dtype=np.float32) + np.float32(0.5)) / CELLS - np.float32(REACH)
        sections = np.empty((len(codes), count, 4), np.uint8)
        for section, c in zip(sections, codes.tolist(), strict=True):
            self._section(section, x, *(bool(c >> i & 1) for i in range(len(traits))))
        where = ((self.x + np.float32(REACH)) * CELLS).astype(np.int32)
        np.minimum(np.maximum(where, 0, out=where), count - 1, out=where)
        where += (which.reshape(-1, 1) * count).astype(np.int32)
        return sections.view(np.uint32).take(where).view(np.uint8).reshape(*where.shape, 4)

    def _section(
        self,
        section: np.ndarray,
        x: np.ndarray,
        crossing: bool,
        dash: bool,
        zebra: bool,
        stop: bool,
        bay: bool,
        sleeper: bool,
        joint: bool,
        coarse: bool,
        far: bool,
    ) -> None:
        layout = self.scene.layout
        kind = self._kinds(x)
        if crossing:
            kind[(x > layout.left - 40) & (x < layout.right + 40) & (kind != RAIL_TRACK)] = ROAD
        if far:
            kind[:] = TERRAIN
        if not crossing:
            kind[self._white(x, dash, zebra, stop) & (kind == ROAD)] = MARK
        colour = self.tones[kind]
        for s in layout.parking.values():
            here = (x > s.left) & (x < s.right)
            if not bay:
                here &= x - np.float32(s.left) < 0.1
            colour[here] = colour[here] * 0.5 + 96
        if layout.tram is not None:
            self._rails(colour, x, layout.tram, sleeper=sleeper)
        if not coarse:
            gap = kind == SIDEWALK
            if not joint:
                gap &= x % 0.75 < 0.05
            colour[gap] *= 0.8
        if not (crossing or far):
            self._kerbs(colour, kind, x)
        section[:, :3] = np.clip(colour, 0, 255)
        section[:, 3] = kind

    def _kinds(self, x: np.ndarray) -> np.ndarray:
        layout = self.scene.layout
        edges = [s.left for s in layout.strips] + [layout.strips[-1].right]
        table = np.array([self.outside[0]] + [s.kind for s in layout.strips] + [self.outside[1]])
        kind = table[np.searchsorted(np.array(edges, np.float32), x)].astype(np.uint8)
        if layout.waste is not None:
            kind[(x > layout.waste.left) & (x < layout.waste.right)] = 0
        return kind

    def _white(self, x: np.ndarray, dash: bool, zebra: bool, stop: bool) -> np.ndarray:
        layout = self.scene.layout
        white = np.abs(x - np.float32(1.62)) < 0.075
        if dash:
            white |= (
                np.abs(x - np.float32(layout.oncoming / 2 if layout.tram is None else -1.75))
                < 0.075
            )
        if zebra:
            white |= (x > layout.left) & (x < layout.right) & (x % 1.0 < 0.5)
        if stop:
            white |= np.abs(x) < 1.6
        return white

    def _rails(self, colour: np.ndarray, x: np.ndarray, middle: Number, *, sleeper: bool) -> None:
        off = np.abs(x - np.float32(middle))
        bed = next(s for s in self.scene.layout.strips if s.left < middle < s.right)
        if sleeper and bed.kind == RAIL_TRACK:
            colour[off < 1.2] *= 0.72
        off = np.abs(off - np.float32(0.72))
        colour[off < 0.13] *= 0.55
        colour[off < 0.05] = np.array((186, 188, 192), np.float32)

    def _kerbs(self, colour: np.ndarray, kind: np.ndarray, x: np.ndarray) -> None:
        """Draw the kerb and the gutter where the pavement meets the road."""
        strips = self.scene.layout.strips
        for a, b in pairwise(strips):
            if (a.kind in SEALED) == (b.kind in SEALED):
                continue
            off = (x - np.float32(a.right)) * (1 if b.kind in SEALED else -1)
            kerb = (off > -0.2) & (off < 0)
            colour[kerb] = colour[kerb] * 0.4 + 100
            kind[kerb] = SIDEWALK
            colour[(off >= 0) & (off < 0.22)] *= 0.72

    def _shadows(self) -> np.ndarray:
        """Give the light on the ground [h w]: what stands on it or next to it darkens it."""
        scene, cam = self.scene, self.scene.stage.camera
        dark = np.zeros((cam.height, cam.width), np.uint8)
        sun = scene.stage.sun
        for t in scene.things:
            mx, mz = (t.left + t.right) / 2, (t.near + t.far) / 2
            rx, rz = (t.right - t.left) / 2 * 1.06, (t.far - t.near) / 2 * 1.04
            contact = self._oval(mx, mz, rx, rz)
            if scene.weather.shadow > 0.3:  # the sun is out
                reach = -sun * (1.3 if rx < 0.7 else 1.0)
                cast = self._oval(mx + reach, mz + 0.3, 0.6 * rx, 0.8 * rz)
                cv2.fillPoly(dark, [cv2.convexHull(np.concatenate([contact, cast]))], 205)
            cv2.fillPoly(dark, [contact], 250)
        small = cv2.resize(dark[::2, ::2], (cam.width // 4, cam.height // 4),
                           interpolation=cv2.INTER_LINEAR_EXACT)  # fmt: skip
        small = soften(np.asarray(small))
        soft = cv2.resize(small, (cam.width // 2, cam.height), interpolation=cv2.INTER_LINEAR_EXACT)
        light = 1 - np.asarray(soft[self.top :], np.float32) * np.float32(
            (0.3 + 0.7 * scene.weather.shadow) / 255
        )
        return light * self._house_shade()

    def _house_shade(self) -> np.ndarray:
        """Let the row of houses on the sunny side throw its shadow on the street."""
        scene, layout = self.scene, self.scene.layout
        if scene.weather.shadow < 0.3:
            return np.ones_like(self.x)
        sun = scene.stage.sun
        edge = layout.right if sun > 0 else layout.left
        reach = float(self.rng.uniform(-1, 6))
        steps = self.rng.uniform(-1.2, 1.2, 32).astype(np.float32)
        wavy = steps[(self.z / 8).astype(np.int64) % 32]
        inside = self.x * np.float32(sun) + (wavy + np.float32(reach - edge * sun))
        soft = np.minimum(np.maximum(inside * 3, 0), 1)
        return 1 - np.float32(0.85 * scene.weather.shadow) * soft

    def _oval(self, x: Number, z: Number, rx: Number, rz: Number) -> np.ndarray:
        # between an oval and a rectangle: vehicles have square corners, people do not
        spot = self.scene.stage.spot
        points = [
            spot((x + rx * min(max(a * 1.25, -1), 1), 0.0,
                  max(z + rz * min(max(b * 1.25, -1), 1), 1.2)))
            for a, b in CIRCLE
        ]  # fmt: skip
        return np.array(points, np.int32)
