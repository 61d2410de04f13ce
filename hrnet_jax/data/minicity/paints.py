"""Colours and textures of minicity.

For the same pixels on every machine, arithmetic uses integers, or the operations that IEEE 754
rounds exactly (+ - * / and comparisons): no `exp`, no `sin` and no float blurs.
"""

import sys
from collections.abc import Sequence
from typing import no_type_check

import cv2
import numpy as np

# The tests check types at run time, where an int is not a float.
Number = int | float
Colour = Sequence[Number] | np.ndarray

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
    """Choose one colour of the common palette at random, slightly varied."""
    base = np.array(PAINTS[int(rng.integers(len(PAINTS)))], np.float32)
    varied = base * np.float32(rng.uniform(0.8, 1.15)) + rng.integers(-12, 13, 3)
    return np.clip(varied, 8, 248).astype(np.float32)


@no_type_check  # at run time, in tests: called very often
def pick(rng: np.random.Generator, options: tuple) -> np.ndarray:
    """Choose one colour of a short list."""
    return np.array(options[int(rng.integers(len(options)))], np.float32)


@no_type_check  # at run time, in tests: called very often
def mix(first: Colour, second: Colour, share: Number) -> np.ndarray:
    """Blend two colours; `share` is the fraction of the second one."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + (b - a) * np.float32(share)


@no_type_check  # as above
def rgb(colour: Colour) -> tuple[int, int, int]:
    """Round a colour down to three bytes."""
    r, g, b = colour.tolist() if isinstance(colour, np.ndarray) else colour
    return (min(max(int(r), 0), 255), min(max(int(g), 0), 255), min(max(int(b), 0), 255))


@no_type_check  # as above
def packed(colour: Colour, last: int = 0) -> np.uint32:
    """Pack a colour and the byte that goes with it (shine or label) into one element."""
    return np.uint32(int.from_bytes(bytes((*rgb(colour), last)), sys.byteorder))


def modulated(ink: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Multiply uint8 colours [h w 4] by `grey` / 128 in whole numbers; the last byte stays."""
    factor = cv2.merge((grey, grey, grey, np.full_like(grey, 128)))
    product = np.multiply(ink, factor, dtype=np.uint16)
    product >>= np.uint16(7)
    return np.minimum(product, np.uint16(255), out=product).astype(np.uint8)


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
    """Extend a texture by its mirror images, so that it tiles without seams."""
    row = np.concatenate([tile, tile[:, ::-1]], axis=1)
    return np.concatenate([row, row[::-1]], axis=0)
