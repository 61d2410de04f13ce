"""Upright surfaces of minicity as materials: house fronts, walls and see-through fences."""

from dataclasses import dataclass

import numpy as np

from hrnet_jax.data.minicity.stage import Number, Stage, Surface, mix, paint


@dataclass
class Facade:
    """A house front as a material: plaster or brick, rows of windows, a shop or doors below."""

    wall: np.ndarray
    trim: np.ndarray
    shop: np.ndarray
    table: np.ndarray  # float32 [64], one random number per window
    stain: np.ndarray
    height: Number
    ground: Number
    storey: Number
    bay: Number
    window: tuple[Number, Number]
    style: int  # 0 plaster, 1 brick, 2 glass bands, 3 panels
    has_shop: bool
    light: Number

    def __call__(self, s: np.ndarray, y: np.ndarray) -> Surface:
        dirt = self.stain[(y * 24).astype(int) % 512, (s * 24).astype(int) % 512]
        colour = self.wall * (1 + 0.07 * dirt[..., None])
        if self.style == 1:
            self._bricks(colour, s, y)
        elif self.style == 3:
            joint = (s % 1.5 < 0.05) | (y % 1.5 < 0.05)
            colour[joint] *= 0.86
        shine = np.zeros(y.shape, np.uint8)
        self._windows(colour, shine, s, y)
        band = (np.abs(y - self.ground) < 0.14) | (y > self.height - 0.4)
        colour[band] = self.trim
        colour[(y > self.height - 0.55) & (y <= self.height - 0.4)] *= 0.7  # under the cornice
        (self._shops if self.has_shop else self._doors)(colour, shine, s, y)
        colour *= self.light * (0.86 + 0.14 * np.clip(y / 3, 0, 1))[..., None]
        return Surface(colour, shine=shine)

    def _bricks(self, colour: np.ndarray, s: np.ndarray, y: np.ndarray) -> None:
        row = np.floor(y / 0.24)
        colour[(y % 0.24 < 0.05) | ((s + row % 2 * 0.3) % 0.6 < 0.05)] *= 0.84

    def _windows(self, colour: np.ndarray, shine: np.ndarray, s: np.ndarray, y: np.ndarray) -> None:
        column, row = np.floor(s / self.bay), np.floor((y - self.ground) / self.storey)
        fx = s / self.bay - column - 0.5
        fy = (y - self.ground) / self.storey - row - 0.52
        w, h = self.window
        inside = (y > self.ground + 0.2) & (y < self.height - 0.6)
        frame = inside & (np.abs(fx) < w + 0.05) & (np.abs(fy) < h + 0.05)
        pane = inside & (np.abs(fx) < w) & (np.abs(fy) < h)
        sill = inside & (np.abs(fx) < w + 0.09) & (fy < -h) & (fy > -h - 0.07)
        luck = self.table[((column * 7 + row * 13) % 64).astype(int)]
        glass = np.array((52, 62, 74), np.float32) * (0.7 + 0.6 * luck + 0.5 * fy)[..., None]
        blind = pane & (luck > 0.72) & (fy > (luck - 0.85) * 2)
        reveal = pane & ((fy > h - 0.05) | (fx < -w + 0.05))  # the wall's own shadow on the glass
        bars = pane & ((np.abs(fx) < 0.018) | (np.abs(fy - 0.12) < 0.014))
        colour[frame] = self.trim
        colour[sill] = self.trim * 0.8
        colour[pane] = glass[pane]
        colour[blind] = mix(self.trim, (214, 204, 184), 0.6)
        colour[reveal] *= 0.6
        if self.style != 2:
            colour[bars] = self.trim * 0.9
        shine[pane & (luck < 0.45)] = 200

    def _shops(self, colour: np.ndarray, shine: np.ndarray, s: np.ndarray, y: np.ndarray) -> None:
        column = np.floor(s / 3.2)
        f = s - column * 3.2
        luck = self.table[((column * 11) % 64).astype(int)]
        glass = (y > 0.5) & (y < 2.5) & (f > 0.2) & (f < 3.0)
        colour[(y < self.ground - 0.14) & ~glass] *= 0.9
        colour[glass] = (mix((44, 48, 54), (150, 130, 100), 0.6) * luck[..., None])[glass] + 24
        door = (f > 2.0) & (f < 3.0) & (y < 2.5)
        colour[door & ((f < 2.08) | (f > 2.92) | (y < 0.3))] = self.shop * 0.6
        shine[glass] = 210
        awning = (y > 2.55) & (y < 3.15)
        stripes = np.where((s % 0.8 < 0.4)[..., None], self.shop, mix(self.shop, (240,) * 3, 0.75))
        plain = luck > 0.5
        colour[awning & ~plain] = stripes[awning & ~plain]
        colour[awning & plain] = self.shop
        letters = (
            awning & plain & (np.abs(y - 2.85) < 0.14) & (s % 0.34 < 0.2) & (f > 0.6) & (f < 2.4)
        )
        colour[letters] = mix(self.shop, (250,) * 3, 0.8)

    def _doors(self, colour: np.ndarray, shine: np.ndarray, s: np.ndarray, y: np.ndarray) -> None:
        column = np.floor(s / self.bay)
        f = s / self.bay - column - 0.5
        w = self.window[0]
        is_door = column % 4 == 1
        low = 0.0 + 0.9 * ~is_door
        pane = (np.abs(f) < w) & (y > low) & (y < 2.4)
        frame = (np.abs(f) < w + 0.06) & (y > low - 0.1) & (y < 2.52) & ~pane
        colour[frame] = self.trim
        colour[pane & ~is_door] = np.array((56, 64, 74), np.float32)
        colour[pane & is_door] = self.shop * 0.8
        colour[pane & is_door & (np.abs(f) < 0.02)] *= 0.6
        colour[(y < 0.55) & ~(pane & is_door)] *= 0.78  # plinth
        shine[pane & ~is_door & (self.table[(column * 5 % 64).astype(int)] < 0.4)] = 190


def house_front(stage: Stage, *, height: Number, light: Number) -> Facade:
    """Draw by lot how a house looks."""
    rng = stage.rng
    style = int(rng.choice(4, p=[0.42, 0.26, 0.16, 0.16]))
    wall = paint(rng)
    if style == 1:
        wall = mix(wall, (150, 84, 66), 0.55)
    elif style == 0:
        wall = mix(wall, (222, 212, 192), 0.5)
    bay = float(rng.uniform(1.9, 3.0))
    window = (0.47, 0.26) if style == 2 else (float(rng.uniform(0.22, 0.3)), 0.29)
    trim = mix(wall, (238, 236, 230), 0.75) if rng.random() < 0.7 else wall * np.float32(0.6)
    return Facade(
        wall, trim, paint(rng), rng.random(64, np.float32), stage.stain, height,
        ground=3.5, storey=float(rng.uniform(2.9, 3.5)), bay=bay, window=window, style=style,
        has_shop=bool(rng.random() < 0.5), light=light,
    )  # fmt: skip


@dataclass
class WallMaterial:
    """A garden or retaining wall: blocks, bricks or concrete under a coping."""

    colour: np.ndarray
    style: int
    height: Number
    grain: np.ndarray
    stain: np.ndarray
    light: Number

    def __call__(self, s: np.ndarray, y: np.ndarray) -> Surface:
        iy, ix = (y * 30).astype(int) % 512, (s * 30).astype(int) % 512
        texture = 1 + 0.16 * self.stain[iy, ix] + 0.12 * self.grain[iy, ix]
        colour = self.colour * texture[..., None]
        if self.style < 2:
            high, long = ((0.42, 0.9), (0.18, 0.42))[self.style]
            row = np.floor(y / high)
            joint = (y % high < 0.045) | ((s + row % 2 * long / 2) % long < 0.045)
            colour[joint] *= 0.68
        else:
            colour[s % 2.8 < 0.07] *= 0.6
        colour[y > self.height - 0.16] = self.colour * 1.18
        colour[(y > self.height - 0.24) & (y <= self.height - 0.16)] *= 0.65
        colour *= self.light * (0.8 + 0.2 * np.clip(y, 0, 1))[..., None]
        return Surface(colour)


@dataclass
class FenceMaterial:
    """A see-through fence: pickets, iron rods or wire mesh between posts."""

    colour: np.ndarray
    style: int
    height: Number
    light: Number

    def __call__(self, s: np.ndarray, y: np.ndarray) -> Surface:
        top = self.height
        post = s % 2.5 < 0.14
        if self.style == 0:
            f = np.abs(s % 0.26 - 0.13)
            solid = (f < 0.085) & (y < top - f) & (y > 0.08)
            solid |= (np.abs(y - 0.4) < 0.06) | (np.abs(y - top + 0.42) < 0.06)
        elif self.style == 1:
            solid = (s % 0.22 < 0.07) & (y < top - 0.02)
            solid |= (np.abs(y - 0.18) < 0.05) | (np.abs(y - top + 0.25) < 0.05)
        else:
            solid = ((s + y) % 0.34 < 0.06) | ((s - y) % 0.34 < 0.06)
            solid |= (y > top - 0.09) | (y < 0.09)
        solid |= post
        shade = np.where(post, 0.82, 1.0) * self.light
        return Surface(self.colour * shade[..., None].astype(np.float32), solid=solid)
