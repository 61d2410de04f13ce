"""The embedded dataset "minicity": drawn street scenes in the layout of Cityscapes.

The scenes are drawn by this package, so the whole dataset takes a minute and needs no licence. All
19 evaluation classes and many ignored ids occur, and classes share their colours, so a network has
to learn shapes and places (`benchmarks/colour_table.py` measures the score of colour alone).
"""

from hrnet_jax.data.minicity.scene import draw_scene
from hrnet_jax.data.minicity.writing import CITIES, VERSION, Entry, entries, write

__all__ = ["CITIES", "VERSION", "Entry", "draw_scene", "entries", "write"]
