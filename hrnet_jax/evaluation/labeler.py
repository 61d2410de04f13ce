"""The compiled programs from batches of images to label maps and probabilities.

One kind runs the network, from the windows of a view to logits at stride 4. The other kind turns
the logits of all views into pixels. Prediction and scoring both use them.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float16, Int32, Integer

from hrnet_jax.evaluation.batching import Batch, Geometry, Windows
from hrnet_jax.evaluation.pixels import TILE, bucket_logits, class_probabilities, label_pixels
from hrnet_jax.ops import form_for
from hrnet_jax.parallel.compiling import compile_program, inference_options, pixel_options
from hrnet_jax.parallel.mesh import put_sharded, whole_images
from hrnet_jax.runs.terminal import Terminal


class Labeler:
    """Labels batches of images in compiled programs, one for each combination of shapes.

    A batch is sharded over all devices of the mesh. The memory of a program is logged before it
    runs.
    """

    def __init__(
        self, structure: nnx.GraphDef, *, mesh: Mesh, dtype: DTypeLike, terminal: Terminal
    ):
        self._mesh, self._terminal = mesh, terminal
        self._platform = mesh.devices.flat[0].platform
        self._programs: dict[Hashable, jax.stages.Compiled] = {}
        form = form_for(self._platform)

        def network(params: dict, batch_stats: dict, windows: Windows) -> Array:
            model = nnx.merge(structure, params, batch_stats)
            model.eval()
            count, per_image, *shape = windows.images.shape
            images = windows.images.reshape(count * per_image, *shape).astype(dtype)
            sizes = windows.sizes
            sizes = None if sizes is None else jnp.repeat(sizes, per_image, 0)
            logits = bucket_logits(model, images, sizes, form=form)
            return logits.reshape(count, per_image, *logits.shape[1:])

        def labels(
            logits: list[Array], geometry: Geometry, label: Array | None
        ) -> tuple[Array, Array | None]:
            maps, counts = jax.lax.map(lambda x: label_pixels(*x), (logits, geometry, label))
            return maps, None if counts is None else jax.lax.psum(counts.sum(0), mesh.axis_names)

        def probabilities(logits: list[Array], geometry: Geometry, top: Array) -> Array:
            return jax.lax.map(lambda x: class_probabilities(*x, top=top), (logits, geometry))

        same, split = P(), whole_images(mesh)
        self._network = self._on_every_device(network, (same, same, split), split)
        self._labels = self._on_every_device(labels, split, (split, same))
        self._probabilities = self._on_every_device(probabilities, (split, split, same), split)

    def _on_every_device(self, function: Callable, specs_in: Any, specs_out: Any) -> Callable:
        mapped = jax.shard_map(
            function, mesh=self._mesh, in_specs=specs_in, out_specs=specs_out, check_vma=False
        )
        return jax.jit(mapped)

    def label_maps(
        self, params: dict, batch_stats: dict, batch: Batch
    ) -> tuple[Integer[Array, "b side side"], Int32[Array, "k k"] | None]:
        """Label every pixel of a batch; if it has labels, count its confusion matrix, too.

        Returns:
            Label maps, each in the top left corner of a square, and the confusion matrix or None.
        """
        logits = self._logits(params, batch_stats, batch)
        geometry, label = self._place((batch.geometry, batch.label))
        options = pixel_options(self._platform)
        return self._run(self._labels, logits, geometry, label, of="label maps", options=options)

    def probabilities(
        self, params: dict, batch_stats: dict, batch: Batch
    ) -> list[Float16[np.ndarray, "k _h _w"]]:
        """Return the probability of every class at every pixel of each image, over all views.

        The device computes a band of rows at a time, to save memory.
        """
        logits = self._logits(params, batch_stats, batch)
        geometry, sizes = self._place(batch.geometry), batch.geometry.true_size
        results = [np.empty((logits[0].shape[-1], h, w), np.float16) for h, w in sizes]
        options = pixel_options(self._platform)
        for top in range(0, sizes[:, 0].max(), TILE[0]):
            arrays = logits, geometry, np.int32(top)
            bands = self._run(self._probabilities, *arrays, of="probabilities", options=options)
            for result, band in zip(results, np.asarray(bands), strict=True):
                rows = result[:, top : top + TILE[0]]
                rows[:] = band[:, : rows.shape[1], : rows.shape[2]]
        return results

    def _logits(self, params: dict, batch_stats: dict, batch: Batch) -> list[Array]:
        """Run the network on each view."""
        logits = []
        for windows in map(self._place, batch.windows):
            size = windows.images.shape[2:4]
            result = self._run(
                self._network,
                windows,
                weights=(params, batch_stats),
                of=f"images of {size[0]}x{size[1]}",
                options=inference_options(size, self._platform),
            )
            logits.append(result)
        return logits

    def _place(self, tree: Any) -> Any:
        return put_sharded(tree, sharding=NamedSharding(self._mesh, whole_images(self._mesh)))

    def _run(
        self,
        function: Any,
        *arrays: Any,
        of: str,
        options: dict[str, str],
        weights: tuple[dict, ...] = (),
    ) -> Any:
        """Run the program for arrays of these shapes; compile it at its first use."""
        leaves, structure = jax.tree.flatten(arrays)
        key = (of, structure, *(leaf.shape for leaf in leaves))
        if key not in self._programs:
            with self._terminal.announced(f"Compiling the evaluation of {of}"):
                program = compile_program(function, *weights, *arrays, options=options)
            self._terminal.line(f"It needs at most {_memory(program) / 1e6:,.0f} MB.")
            self._programs[key] = program
        return self._programs[key](*weights, *arrays)

    @property
    def num_programs(self) -> int:
        """Number of programs compiled so far."""
        return len(self._programs)

    @property
    def memory(self) -> int:
        """Bytes that the largest program needs on each device."""
        return max(map(_memory, self._programs.values()), default=0)


def _memory(program: jax.stages.Compiled) -> int:
    """Bytes per device, including weights and images."""
    need: Any = program.memory_analysis()
    return need.temp_size_in_bytes + need.output_size_in_bytes + need.argument_size_in_bytes
