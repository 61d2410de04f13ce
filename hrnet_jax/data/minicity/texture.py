"""The texture of an upright surface of minicity: a house front, a wall, a fence."""

import copy
from typing import no_type_check

import numpy as np

from hrnet_jax.data.minicity.paints import Number, modulated, packed

CLEAR = 255  # as the shine of a texel: transparent


@no_type_check  # at run time, in tests: its methods are called thousands of times per scene
class Texture:
    """The texture of an upright surface, in metres from its lower left corner."""

    def __init__(self, length: Number, height: Number, ink: np.uint32, *, fine: int):
        self.height, self.fine = height, fine  # fine: texels per metre
        shape = (max(int(height * fine), 1), max(int(length * fine), 1))
        self.texels = np.full(shape, ink, np.uint32)  # bytes R G B and shine
        rows, columns = shape
        self.s = (np.arange(columns, dtype=np.float32)[None, :] + np.float32(0.5)) / fine
        self.y = height - (np.arange(rows, dtype=np.float32)[:, None] + np.float32(0.5)) / fine

    def row(self, y: Number) -> int:
        """Return the texel row at a height."""
        return max(int((self.height - y) * self.fine), 0)

    def fill(self, left: Number, right: Number, low: Number, high: Number, ink: np.uint32) -> None:
        """Fill a rectangle given in metres."""
        columns = slice(max(int(left * self.fine), 0), max(int(right * self.fine), 0))
        self.texels[self.row(high) : self.row(low), columns] = ink

    def part(self, length: Number) -> "Texture":
        """Return the first `length` metres."""
        part = copy.copy(self)
        part.texels = self.texels[:, : max(int(length * self.fine), 1)]
        return part

    def take(self, iy: np.ndarray, ix: np.ndarray) -> np.ndarray:
        """Look up texels; row 0 and rows below the last one are clear. Overwrites `iy`."""
        tall, wide = self.texels.shape
        np.maximum(iy, 0, out=iy)
        np.minimum(iy, tall + 1, out=iy)
        iy *= wide
        iy += ix
        clear = np.full((1, wide), packed((0, 0, 0), CLEAR))
        return np.concatenate([clear, self.texels, clear]).take(iy)

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
