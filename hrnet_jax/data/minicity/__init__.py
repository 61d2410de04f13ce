"""The embedded dataset "minicity": drawn street scenes in the layout of Cityscapes.

The scenes are drawn by this package's own code, so anybody can have the whole dataset within a
minute and without a licence. All 19 evaluation classes and many ignored ids occur, and colours are
shared between the classes, so that shapes and places have to be learned
(`benchmarks/colour_table.py` measures what colour alone can do).
"""

from hrnet_jax.data.minicity.scene import draw_scene
from hrnet_jax.data.minicity.writing import CITIES, VERSION, Entry, entries, write

__all__ = ["CITIES", "VERSION", "Entry", "draw_scene", "entries", "write"]
