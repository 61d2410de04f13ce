"""Upright surfaces of minicity as textures: house fronts, walls and open fences."""

from dataclasses import dataclass

import numpy as np

from hrnet_jax.data.minicity.paints import Number, mix, packed, paint
from hrnet_jax.data.minicity.stage import Stage
from hrnet_jax.data.minicity.texture import CLEAR, Texture

GLASS = np.array((52, 62, 74), np.float32)


@dataclass
class House:
    """The style of a house: plaster or brick, rows of windows, a shop or doors below."""

    stage: Stage
    wall: np.ndarray
    trim: np.ndarray
    shop: np.ndarray
    height: Number
    ground: Number
    storey: Number
    bay: Number
    window: tuple[Number, Number]
    style: int  # 0 plaster, 1 brick, 2 glass bands, 3 panels
    has_shop: bool
    light: Number

    def blank(self, length: Number, *, fine: int) -> Texture:
        """Draw a wall without windows."""
        texture = Texture(length, self.height, packed(self.wall * np.float32(0.82)), fine=fine)
        texture.shade(np.ones((1, 1), np.float32), self.stage.dirt)
        return texture

    def front(self, length: Number, *, fine: int) -> Texture:
        """Draw the side with the windows."""
        t = Texture(length, self.height, packed(self.wall), fine=fine)
        if self.style == 1:
            self._bricks(t)
        elif self.style == 3:
            joint = packed(self.wall * np.float32(0.86))
            t.texels[:: 3 * fine // 2] = t.texels[:, :: 3 * fine // 2] = joint
        self._windows(t, length)
        (self._shops if self.has_shop else self._doors)(t, length)
        trim, high = packed(self.trim), self.height
        t.fill(0, length, self.ground - 0.14, self.ground + 0.14, trim)
        t.fill(0, length, high - 0.4, high, trim)
        light = self.light * (0.86 + 0.14 * np.minimum(t.y / 3, 1))
        light[t.row(high - 0.4) : t.row(high - 0.55)] *= 0.7  # under the cornice
        t.shade(light, self.stage.dirt)
        return t

    def _bricks(self, t: Texture) -> None:
        joint, high = packed(self.wall * np.float32(0.84)), t.fine // 4
        t.texels[::high] = joint
        for k in range(1, high):
            t.texels[k :: 2 * high, :: 2 * high] = joint
            t.texels[k + high :: 2 * high, high :: 2 * high] = joint

    def _windows(self, t: Texture, length: Number) -> None:
        w, h = self.window[0] * self.bay, self.window[1] * self.storey
        frame, sill = packed(self.trim), packed(self.trim * np.float32(0.8))
        bars, blind = packed(self.trim * np.float32(0.9)), mix(self.trim, (214, 204, 184), 0.6)
        curtain, curtain_shade = packed(blind), packed(blind * np.float32(0.6))
        rows, columns = int((self.height - 0.5 - self.ground) / self.storey), int(length / self.bay)
        margin = (length - columns * self.bay) / 2
        luck = self.stage.rng.random((max(rows, 1), columns + 1), np.float32).tolist()
        panes = [(packed(tone, 200), packed(tone, 0), packed(tone * np.float32(0.6)))
                 for tone in (GLASS * np.float32(0.7 + 0.15 * i) for i in range(5))]  # fmt: skip
        for row in range(rows):
            y = self.ground + (row + 0.52) * self.storey
            for column in range(columns):
                s, chance = margin + (column + 0.5) * self.bay, luck[row][column]
                lit, dull, dark = panes[int(chance * 5)]
                t.fill(s - w - 0.12, s + w + 0.12, y - h - 0.12, y + h + 0.12, frame)
                t.fill(s - w - 0.22, s + w + 0.22, y - h - 0.24, y - h, sill)
                shown = lit if chance < 0.45 else dull
                blind_from = y + max((chance - 0.85) * 2 * self.storey, -h)
                if t.fine < 24:  # far away
                    t.fill(s - w, s + w, y - h, y + h, shown)
                    if 0.72 < chance < 0.85:
                        t.fill(s - w, s + w, blind_from, y + h, curtain)
                    continue
                # the wall's own shadow lies on the glass
                t.fill(s - w, s + w, y - h, y + h, dark)
                t.fill(s - w + 0.12, s + w, y - h, y + h - 0.16, shown)
                if chance > 0.72 and blind_from < y + h:
                    t.fill(s - w, s + w, blind_from, y + h, curtain_shade)
                    t.fill(s - w + 0.12, s + w, blind_from, y + h - 0.16, curtain)
                if self.style != 2:
                    t.fill(s - 0.045, s + 0.045, y - h, y + h, bars)
                    t.fill(s - w, s + w, y + 0.3, y + 0.385, bars)

    def _shops(self, t: Texture, length: Number) -> None:
        t.fill(0, length, 0, self.ground - 0.14, packed(self.wall * np.float32(0.9)))
        wide = length / max(round(length / 3.2), 1)
        goods = mix((44, 48, 54), (150, 130, 100), 0.6)
        awning, pale = packed(self.shop), packed(mix(self.shop, (240,) * 3, 0.75))
        door, ink = packed(self.shop * np.float32(0.6)), packed(mix(self.shop, (250,) * 3, 0.8))
        for i in range(round(length / wide)):
            s, luck = i * wide, float(self.stage.rng.random())
            glass = packed(goods * np.float32(luck) + 24, 210)
            t.fill(s + 0.2, s + wide - 0.2, 0.5, 2.5, glass)
            t.fill(s + wide - 1.2, s + wide - 0.2, 0, 2.5, door)
            t.fill(s + wide - 1.08, s + wide - 0.32, 0.3, 2.42, glass)
            t.fill(s, s + wide, 2.55, 3.15, awning)
            if luck > 0.5:  # letters
                for k in range(int((wide - 1.4) / 0.34)):
                    a = s + 0.6 + 0.34 * k
                    t.fill(a, a + 0.2, 2.71, 2.99, ink)
            else:  # stripes
                for k in range(int(wide / 0.8)):
                    t.fill(s + 0.8 * k, s + 0.8 * k + 0.4, 2.55, 3.15, pale)

    def _doors(self, t: Texture, length: Number) -> None:
        plinth = packed(self.wall * np.float32(0.78))
        t.fill(0, length, 0, 0.55, plinth)
        frame, leaf = packed(self.trim), packed(self.shop * np.float32(0.8))
        gap = packed(self.shop * np.float32(0.48))
        columns, w = int(length / self.bay), self.window[0] * self.bay
        margin = (length - columns * self.bay) / 2
        for column in range(columns):
            s, door = margin + (column + 0.5) * self.bay, column % 4 == 1
            low = 0.0 if door else 0.9
            shine = 190 if self.stage.rng.random() < 0.4 else 0
            t.fill(s - w - 0.14, s + w + 0.14, max(low - 0.12, 0), 2.54, frame)
            t.fill(s - w, s + w, low, 2.4, leaf if door else packed((56, 64, 74), shine))
            if door:
                t.fill(s - 0.05, s + 0.05, low, 2.4, gap)


def house(stage: Stage, *, height: Number, light: Number) -> House:
    """Choose the style of a house at random."""
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
    return House(
        stage, wall, trim, paint(rng), height, ground=3.5,
        storey=float(rng.uniform(2.9, 3.5)), bay=bay, window=window, style=style,
        has_shop=bool(rng.random() < 0.5), light=light,
    )  # fmt: skip


def garden_wall(stage: Stage, length: Number, *, light: Number) -> Texture:
    """Draw a garden or retaining wall: blocks, bricks or concrete under a coping."""
    rng, fine = stage.rng, 24
    height, style, colour = float(rng.uniform(1.8, 3.4)), int(rng.integers(3)), paint(rng)
    t = Texture(length, height, packed(colour), fine=fine)
    if style < 2:
        high, long = ((10, 22), (5, 12))[style]  # texels
        joint = packed(colour * np.float32(0.68))
        t.texels[::high] = joint
        for k in range(1, high):
            t.texels[k :: 2 * high, ::long] = joint
            t.texels[k + high :: 2 * high, long // 2 :: long] = joint
    else:
        joint = packed(colour * np.float32(0.6))
        for k in range(2):
            t.texels[:, k::68] = joint
    t.fill(0, length, height - 0.16, height, packed(colour * np.float32(1.18)))
    t.fill(0, length, height - 0.24, height - 0.16, packed(colour * np.float32(0.65)))
    t.shade(light * (0.8 + 0.2 * np.minimum(t.y, 1)), stage.rough)
    return t


def fence(stage: Stage, length: Number, *, light: Number) -> Texture:
    """Draw an open fence: pickets, iron rods or wire mesh between posts."""
    rng = stage.rng
    top, style, colour = float(rng.uniform(1.4, 2.3)), int(rng.integers(3)), paint(rng)
    t = Texture(length, top, packed(colour * np.float32(light)), fine=48)
    s, y = t.s, t.y
    if style == 0:
        f = np.abs(s % 0.26 - 0.13)
        solid = (f < 0.085) & (y + f < top) & (y > 0.08)
        solid |= (np.abs(y - 0.4) < 0.06) | (np.abs(y - top + 0.42) < 0.06)
    elif style == 1:
        solid = (s % 0.22 < 0.07) & (y < top - 0.02)
        solid |= (np.abs(y - 0.18) < 0.05) | (np.abs(y - top + 0.25) < 0.05)
    else:
        ix, iy = np.arange(s.size)[None, :], np.arange(y.size)[:, None]
        solid = ((ix + iy) % 16 < 3) | ((ix - iy) % 16 < 3)
        solid |= (y > top - 0.09) | (y < 0.09)
    t.texels[~solid] = packed((0, 0, 0), CLEAR)
    t.texels[:, (s % 2.5 < 0.14)[0]] = packed(colour * np.float32(0.82 * light))
    return t
