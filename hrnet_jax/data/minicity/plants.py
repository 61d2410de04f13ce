"""The plants of a minicity scene: sprites of leaves, drawn once and stamped many times."""

from typing import no_type_check

import numpy as np

from hrnet_jax.data.minicity.paints import Colour, Number, rgb


@no_type_check  # at run time, in tests: called very often
class Plants:
    """The sprites of one scene: grades of light from shade to sun [h w], 0 where nothing is."""

    def __init__(self, rng: np.random.Generator, leaves: np.ndarray, *, sun: Number, unit: Number):
        self._rng, self._leaves, self._sun = rng, leaves, sun
        self._unit = unit  # the size of sprites: 1 unless the canvas is small
        self._sprites: dict[tuple[str, int], np.ndarray] = {}
        self._inks: dict[tuple[int, ...], np.ndarray] = {}

    def sprite(self, kind: str) -> np.ndarray:
        """Return one of the scene's three plants of a kind."""
        key = kind, int(self._rng.integers(3))
        if key not in self._sprites:
            draw = {"tree": self._tree, "conifer": self._conifer, "clump": self._single_clump}
            self._sprites[key] = draw[kind]()
        return self._sprites[key]

    def inks(self, colour: Colour) -> np.ndarray:
        """Tabulate the inks of leaves from shade to sun, uint32 [256]."""
        r, g, b = key = rgb(colour)
        if key not in self._inks:
            light = np.arange(256, dtype=np.float32) / 150
            inks = np.zeros((256, 4), np.float32)
            # sunlit leaves are yellower
            inks[:, 0] = light * r + 14 * np.minimum(np.maximum(light - np.float32(0.9), 0), 1)
            inks[:, 1] = light * g
            inks[:, 2] = light * b
            self._inks[key] = np.minimum(inks, 255).astype(np.uint8).view(np.uint32)[:, 0]
        return self._inks[key]

    def _tree(self) -> np.ndarray:
        """Draw the crown of a broad-leaved tree, clump by clump from back to front."""
        rng, unit = self._rng, 80 * self._unit
        middle = int(1.75 * unit)
        sprite = np.zeros((2 * middle, 2 * middle), np.uint8)
        for i in range(9):
            far = 1 - i / 9
            u = middle + unit * float(rng.uniform(-0.75, 0.75))
            v = middle - unit * float(rng.uniform(-0.75, 0.75)) * (0.5 + 0.5 * far)
            r = unit * float(rng.uniform(0.45, 0.7))
            self._clump(sprite, (u, v), (r, r * 0.85), 0.72 + 0.3 * i / 9)
        return sprite

    def _conifer(self) -> np.ndarray:
        unit = self._unit
        sprite = np.zeros((int(280 * unit), int(144 * unit)), np.uint8)
        for i in range(7):
            centre = (72 * unit, (236 - 34 * i) * unit)
            self._clump(sprite, centre, (52 * unit * (1 - 0.137 * i), 38 * unit))
        return sprite

    def _single_clump(self) -> np.ndarray:
        unit = self._unit
        sprite = np.zeros((int(104 * unit), int(104 * unit)), np.uint8)
        self._clump(sprite, (52 * unit, 52 * unit), (40 * unit, 40 * unit))
        return sprite

    def _clump(
        self,
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
        ox, oy = self._rng.integers(0, 256, 2).tolist()
        leaf = self._leaves[oy:, ox:][: bottom - top, : right - left]
        solid = leaf > dx * dx + (dy * dy - np.float32(0.95))
        light = np.float32(0.16 * self._sun) * dx + (np.float32(0.82) - np.float32(0.3) * dy)
        light += leaf
        light *= np.float32(150 * tone)
        grade = np.minimum(np.maximum(light, 42), 250).astype(np.uint8)
        np.copyto(sprite[top:bottom, left:right], grade, where=solid)
