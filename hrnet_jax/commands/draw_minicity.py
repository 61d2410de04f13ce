"""Draws minicity, the dataset that comes with this package, where a config looks for it."""

import time
from collections.abc import Iterable

from ml_collections import ConfigDict

from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data import minicity
from hrnet_jax.parallel import processes
from hrnet_jax.runs.paths import is_remote, to_path
from hrnet_jax.runs.terminal import Terminal


def draw_minicity(config: ConfigDict, *, terminal: Terminal) -> None:
    """Draw the scenes if a config uses minicity and its root does not exist."""
    root = to_path(config.data.root)
    if config.data.name != "minicity" or is_remote(root):
        return
    counts = dataset_of(config).counts
    total = sum(counts.values())

    def track(scenes: Iterable[None]) -> Iterable[None]:
        return terminal.track(scenes, "Drawing minicity", total=total)

    for first in (True, False):  # hosts may or may not share a disk
        if processes.is_first() == first and not root.exists():
            terminal.line_if_plain(f"Drawing {total} scenes into {root} ...")
            begin = time.perf_counter()
            minicity.write(root, **counts, track=track)
            seconds = time.perf_counter() - begin
            terminal.line(f"Drew {total} scenes into {root} in {seconds:.0f} s.")
        processes.wait_for_all(f"minicity {first}")
