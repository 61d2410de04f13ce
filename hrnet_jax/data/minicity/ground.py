"""The ground of a minicity scene, painted pixel by pixel from its world coordinates."""

import cv2
import numpy as np

from hrnet_jax.data.minicity.plan import (
    FAR,
    PARKING,
    RAIL_TRACK,
    ROAD,
    SIDEWALK,
    TERRAIN,
    Scene,
)
from hrnet_jax.data.minicity.solids import CIRCLE
from hrnet_jax.data.minicity.stage import Number, mix, paint
from hrnet_jax.data.minicity.weather import soften

GROUND = 6


class Ground:
    """The ground, painted pixel by pixel from its world coordinates."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.rng = scene.rng
        cam = scene.stage.camera
        self.top = int(cam.horizon) + 2
        rows = np.arange(self.top, cam.height, dtype=np.float32)[:, None] + np.float32(0.5)
        z = np.float32(cam.focal * cam.eye) / (rows - np.float32(cam.horizon))
        # every second column only: the label has no more, and the rows suffice for soft edges
        columns = np.arange(1, cam.width, 2, dtype=np.float32)[None, :] - np.float32(cam.centre)
        self.x = columns * z / np.float32(cam.focal) - np.float32(cam.bend) * z * z
        self.z = np.broadcast_to(z, self.x.shape)
        # details finer than a few pixels would only flicker
        self.sharp = np.clip(1.6 - z / 22, 0, 1)

    def _noise(self, tile: np.ndarray, per_metre: Number) -> np.ndarray:
        # z is the same all along a row; & 511 wraps around the tile of 512 x 512
        iy = (self.z[:, :1] * np.float32(per_metre)).astype(np.int32) & 511
        ix = (self.x * np.float32(per_metre)).astype(np.int32) & 511
        return tile.ravel()[(iy << 9) + ix]

    def draw(self) -> None:
        """Paint strips, marks and shadows onto the stage."""
        stage = self.scene.stage
        kind = self._kinds()
        fine = self._noise(stage.grain, 28) * self.sharp
        soft = self._noise(stage.stain, 14)
        colour = self._colours(kind, fine, soft)
        self._marks(colour, kind, soft)
        self._joints(colour, kind)
        colour *= self._shadows()[..., None]
        ink = np.clip(colour, 0, 255).astype(np.uint8)
        for first in (0, 1):
            stage.pixels[self.top :, first::2, :3] = ink
            stage.pixels[self.top :, first::2, 3] = kind
        stage.extra[self.top :, :, 0] = np.clip(2 * self.z[:, :1], 0, 250).astype(np.uint8)

    def _kinds(self) -> np.ndarray:
        plan, rng = self.scene.plan, self.rng
        left, right = (int(v) for v in rng.choice((TERRAIN, TERRAIN, GROUND, SIDEWALK), 2))
        edges = [s.left for s in plan.strips] + [plan.strips[-1].right]
        table = np.array([left] + [s.kind for s in plan.strips] + [right], np.uint8)
        kind = table[np.searchsorted(np.array(edges, np.float32), self.x)]
        if plan.crossing:
            side_street = np.abs(self.z - np.float32(plan.crossing)) < 3.4
            inner = (self.x > plan.left - 40) & (self.x < plan.right + 40)
            kind[side_street & inner & (kind != RAIL_TRACK)] = ROAD
        kind[self.z > FAR] = TERRAIN
        return kind

    def _colours(self, kind: np.ndarray, fine: np.ndarray, soft: np.ndarray) -> np.ndarray:
        rng, scene = self.rng, self.scene
        asphalt = np.full(3, rng.uniform(78, 138), np.float32) + rng.integers(-7, 8, 3)
        grey = np.full(3, rng.uniform(104, 172), np.float32) + rng.integers(-9, 10, 3)
        paving = mix(grey, paint(rng), 0.16)
        tones = np.zeros((24, 3), np.float32)  # by label id
        tones[ROAD], tones[SIDEWALK], tones[TERRAIN] = asphalt, paving, scene.grass
        tones[PARKING] = mix(asphalt, paving, float(rng.uniform(0.1, 0.7)))
        tones[GROUND], tones[RAIL_TRACK] = mix(paving, (150, 130, 104), 0.5), (112, 102, 92)
        rough = np.full(24, 0.09, np.float32)
        rough[TERRAIN], rough[RAIL_TRACK], rough[SIDEWALK] = 0.34, 0.3, 0.06
        blotch = np.full(24, 0.1, np.float32)
        blotch[TERRAIN], blotch[SIDEWALK] = 0.26, 0.08
        factor = 1 + rough[kind] * fine + blotch[kind] * soft
        return tones[kind] * factor[..., None]

    def _marks(self, colour: np.ndarray, kind: np.ndarray, soft: np.ndarray) -> None:
        plan, x, z = self.scene.plan, self.x, self.z[:, :1]
        road = kind == ROAD
        white = np.zeros(x.shape, bool)
        between = (plan.oncoming - 0) / 2 if plan.tram is None else -1.75
        for line, dash in ((between, True), (1.62, False)):
            on = np.abs(x - np.float32(line)) < 0.075
            white |= on & (z % 6 < 3.2) if dash else on
        if plan.zebra:
            lane = (x > plan.left) & (x < plan.right)
            white |= lane & (np.abs(z - np.float32(plan.zebra)) < 1.5) & (x % 1.0 < 0.5)
            stop = np.abs(z - np.float32(plan.zebra - 2.4)) < 0.18
            white |= stop & (np.abs(x) < 1.6)
        if plan.crossing:
            white &= np.abs(z - np.float32(plan.crossing)) > 3.4
        worn = white & road & (soft < 0.42)
        colour[worn] = colour[worn] * 0.25 + np.array((172, 172, 168), np.float32)
        for s in plan.parking.values():
            bay = (x > s.left) & (x < s.right) & ((z % 5.5 < 0.12) | (x - s.left < 0.1))
            colour[bay] = colour[bay] * 0.5 + 96
        if plan.tram is not None:
            self._rails(colour, plan.tram)

    def _rails(self, colour: np.ndarray, middle: Number) -> None:
        off = np.abs(np.abs(self.x - np.float32(middle)) - np.float32(0.72))
        sleepers = (np.abs(self.x - np.float32(middle)) < 1.2) & (self.z[:, :1] % 0.7 < 0.24)
        bed = next(s for s in self.scene.plan.strips if s.left < middle < s.right)
        if bed.kind == RAIL_TRACK:
            colour[sleepers] *= 0.72
        colour[off < 0.13] *= 0.55
        colour[off < 0.05] = np.array((186, 188, 192), np.float32)

    def _joints(self, colour: np.ndarray, kind: np.ndarray) -> None:
        """Draw the joints of paving slabs, and kerbs where the pavement meets the road."""
        x, z, plan = self.x, self.z[:, :1], self.scene.plan
        joint = ((x % 0.75 < 0.05) | (z % 0.75 < 0.06)) & (kind == SIDEWALK)
        fade = (1 - 0.22 * self.sharp) * np.ones_like(x)
        colour[joint] *= fade[joint][:, None]
        sealed = (ROAD, PARKING, RAIL_TRACK)
        here = np.isin(kind, (SIDEWALK, TERRAIN, *sealed))
        if plan.crossing:
            here &= np.abs(z - np.float32(plan.crossing)) > 3.4
        for a, b in zip(plan.strips, plan.strips[1:], strict=False):
            if (a.kind in sealed) == (b.kind in sealed):
                continue
            to_road = 1 if b.kind in sealed else -1
            off = (x - np.float32(a.right)) * to_road
            kerb = here & (off > -0.2) & (off < 0)
            colour[kerb] = colour[kerb] * 0.4 + 100
            kind[kerb] = SIDEWALK
            colour[here & (off >= 0) & (off < 0.22)] *= 0.72

    def _shadows(self) -> np.ndarray:
        """Give the light on the ground [h w]: what stands on it or beside it darkens it."""
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
        small = soften(small[..., None].astype(np.float32))[..., 0].astype(np.uint8)
        soft = cv2.resize(small, (cam.width // 2, cam.height), interpolation=cv2.INTER_LINEAR_EXACT)
        light = 1 - np.asarray(soft[self.top :], np.float32) * np.float32(
            (0.3 + 0.7 * scene.weather.shadow) / 255
        )
        return light * self._house_shade()

    def _house_shade(self) -> np.ndarray:
        """Let the row of houses on the sunny side throw its shadow on the street."""
        scene, plan = self.scene, self.scene.plan
        if scene.weather.shadow < 0.3:
            return np.ones_like(self.x)
        sun = scene.stage.sun
        edge = plan.right if sun > 0 else plan.left
        reach = float(self.rng.uniform(-1, 6))
        steps = self.rng.uniform(-1.2, 1.2, 32).astype(np.float32)
        wavy = steps[(self.z[:, :1] / 8).astype(np.int64) % 32]
        inside = (self.x - np.float32(edge)) * np.float32(sun) + np.float32(reach) + wavy
        soft = np.clip(inside * 3, 0, 1)
        return 1 - np.float32(0.85 * scene.weather.shadow) * soft

    def _oval(self, x: Number, z: Number, rx: Number, rz: Number) -> np.ndarray:
        # between an oval and a rectangle: vehicles have square corners, people do not
        cam = self.scene.stage.camera
        points = [
            (x + rx * min(max(a * 1.25, -1), 1), 0.0, max(z + rz * min(max(b * 1.25, -1), 1), 1.2))
            for a, b in CIRCLE
        ]
        return np.clip(np.rint(cam.project(points)), -8000, 8000).astype(np.int32)
