"""What every evaluation is held to: image by image, window by window, as the reference."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hrnet_jax.data.transforms import ResizeViews, normalize
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.ops import resize
from hrnet_jax.parallel.compiling import inference_options

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 55.0)
WHOLE = Protocol(image_size=(32, 64))
SLIDE = Protocol(image_size=(48, 80), mode="slide", crop_size=(32, 32), stride=(20, 24))


def example(name, size=(32, 64), *, protocol=WHOLE, seed=0):
    rng = np.random.default_rng(seed)
    plain = {
        "id": name,
        "image": rng.integers(0, 256, (*size, 3), np.uint8),
        "label": rng.choice([0, 1, 2, 255], size).astype(np.uint8),
    }
    return ResizeViews(sizes=protocol.view_sizes).map(plain)


def by_definition(model, example, protocol):
    """Return the logits of one view, or the mean probabilities of several: [h w k]."""
    network = nnx.merge(*model)
    network.eval()
    size, total = example["label"].shape, 0.0
    options = inference_options(protocol.image_size)
    run = jax.jit(lambda image: network(image), compiler_options=options)
    for view, flip in itertools.product(example["views"], (False, True)[: 1 + protocol.flip]):
        image = normalize(view, mean=MEAN, std=STD)[None, :, :: -1 if flip else 1]
        canvas, count = 0.0, 0.0
        for (top, bottom), (left, right) in itertools.product(*protocol.windows(view.shape[:2])):
            logits = run(jnp.asarray(image[:, top:bottom, left:right]))
            logits = resize(logits, (bottom - top, right - left))
            around = ((0, 0), (top, view.shape[0] - bottom), (left, view.shape[1] - right), (0, 0))
            canvas += np.pad(np.asarray(logits), around)
            count += np.pad(np.ones(logits.shape), around)
        logits = resize(jnp.asarray(canvas / count, jnp.float32), size)
        logits = logits[:, :, ::-1] if flip else logits
        total += jax.nn.softmax(logits) if protocol.averages else logits
    return np.asarray(total)[0] / (len(example["views"]) * (1 + protocol.flip))


PROTOCOLS = {
    "whole": Protocol(image_size=(48, 80)),
    "slide": SLIDE,
    "scales and flip": Protocol(image_size=(48, 80), ratios=(0.5, 1.25), flip=True),
    "slide, scales and flip": dataclasses.replace(SLIDE, ratios=(0.75, 1.0), flip=True),
    "1.x": Protocol(image_size=(48, 80), ratios=(0.5, 1.25), flip=True, reference="v1"),
}
