"""Our network in its own process, for `paired_timing.py`: one job per line of stdin, as JSON.

Wall time, CPU time and peak memory are those of this process; mmsegmentation has its own.
"""

import functools
import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from hrnet_jax import ops
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import (
    enable_compilation_cache,
    inference_options,
    prepare_process,
    set_precision,
)
from hrnet_jax.parallel.mesh import make_mesh, replicate, to_global
from hrnet_jax.parallel.process_settings import gc_disabled
from hrnet_jax.training.losses import cross_entropy
from hrnet_jax.training.optim import sgd
from hrnet_jax.training.state import initial_state
from hrnet_jax.training.step import make_train_step
from tests.parity import jobs
from tests.published import published_model

LOSS = functools.partial(cross_entropy, ignore_label=255)


def load_program(variant: str, batch: str, training: bool, cache: str) -> dict[str, float]:
    """Compile and run once.

    Args:
        variant: of the network.
        batch: .npz with "image" (NCHW) and "label".
        training: a step of SGD with momentum; else logits at stride 4.
        cache: folder of compiled programs; empty: none.

    Returns:
        Seconds of tracing, lowering, compiling, and the loss of the step or the largest logit.
    """
    set_precision("float32")
    if cache:
        enable_compilation_cache(Path(cache))
    arrays = np.load(batch)
    image = np.ascontiguousarray(np.moveaxis(arrays["image"], 1, -1))
    begin = time.perf_counter()
    structure, *weights = split(published_model(variant))
    made = time.perf_counter()
    if training:
        times, compiled, program = _training(structure, weights, image, arrays["label"])
    else:
        times, compiled, program = _inference(structure, weights, image)
    traced, lower, compile_ = times
    jobs.timed["program"], jobs.timed["text"] = program, compiled.compiled.as_text
    return {
        "building the model": made - begin,
        "tracing": traced,
        "lowering": lower,
        "compiling": compile_,
        "result": program(),
    }


def _staged(function: Any, *arguments: Any) -> tuple[tuple[float, float, float], Any]:
    """Trace, lower and compile; return the seconds of each, and the program."""
    with gc_disabled():  # as `compile_program` does, whose parts these are
        marks, stage = [time.perf_counter()], function.trace(*arguments)
        marks.append(time.perf_counter())
        stage = stage.lower()
        marks.append(time.perf_counter())
        program = stage.compile()
    marks.append(time.perf_counter())
    first, second, third = np.diff(marks).tolist()
    return (first, second, third), program


def loops() -> dict[str, int]:
    """Count the fused loops of the program, and the distinct ones: XLA compiles only these.

    Call it after measuring, since the text of a program takes memory.
    """
    text = jobs.timed["text"]()
    used = re.findall(r" fusion\(.*kind=kLoop, calls=%([\w.-]+)", text)
    bodies = dict(re.findall(r"^%([\w.-]+) \(.*?\n(.*?)^}", text, re.DOTALL | re.MULTILINE))
    nameless = {re.sub(r"%[\w.-]+|, metadata={.*?}", "", bodies[name]) for name in used}
    return {"loops": len(used), "distinct loops": len(nameless)}


def _inference(structure: Any, weights: list[dict], image: np.ndarray):
    def forward(params: dict, batch_stats: dict, image: jax.Array) -> jax.Array:
        model = nnx.merge(structure, params, batch_stats)
        with ops.use(ops.CPU):
            return model(image)

    arguments = jax.device_put((*weights, image))
    weights.clear()  # as a program that runs the network keeps no second copy
    options = inference_options(image.shape[1:3])
    times, program = _staged(jax.jit(forward, compiler_options=options), *arguments)
    return times, program, lambda: float(np.abs(program(*arguments)).max())


def _training(structure: Any, weights: list[dict], image: np.ndarray, label: np.ndarray):
    mesh, optimizer = (
        make_mesh(),
        sgd(optax.constant_schedule(1e-3), momentum=0.9, weight_decay=5e-4),
    )
    step = make_train_step(structure, optimizer, mesh=mesh, dtype=jnp.float32, loss=LOSS)
    state = replicate(initial_state(*weights, optimizer=optimizer), mesh=mesh)
    weights.clear()
    batch = to_global({"image": image, "label": label}, mesh=mesh)
    times, program = _staged(step, state, batch)
    kept = {"state": state}

    def run() -> float:
        kept["state"], metrics = program(kept["state"], batch)
        return float(metrics.loss)

    return times, program, run


def main() -> None:
    """Do the jobs."""
    prepare_process()  # as hrnet_jax.main does
    jobs.serve(globals(), jobs.take_stdout())


if __name__ == "__main__":
    main()
