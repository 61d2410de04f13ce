"""Arithmetic and bytes on paper, against what can be counted by hand."""

import functools
from collections import defaultdict

import jax
import jax.numpy as jnp
import pytest

from benchmarks import roofline
from benchmarks.layers import Kernel, group_of, kernels_of
from hrnet_jax.commands.step_costs import Chip

BYTES = 4


@functools.cache
def tiny(mode: str) -> tuple[Kernel, ...]:
    """Width 4, one block per branch, one module per stage; 2 images of 64x128."""
    return tuple(kernels_of(roofline.traced("tiny", mode, (2, 64, 128), dtype="float32")))


def of(kernels: tuple[Kernel, ...], group: str) -> tuple[float, int]:
    mine = [kernel for kernel in kernels if kernel.group == group]
    return sum(kernel.flops for kernel in mine), sum(kernel.bytes for kernel in mine)


def test_a_branch_is_its_convolutions():
    """Each reads the array before it and writes its own; the second also reads the residual."""
    flops, size = of(tiny("inference"), "stage 3, stride 4")
    pixels, channels = 2 * 16 * 32, 4
    assert flops == 2 * 2 * pixels * 9 * channels * channels
    weights = 2 * (9 * channels * channels + 4 * channels)  # and scale, bias, mean, variance
    assert size == BYTES * (5 * pixels * channels + weights)


def test_the_stem_counts_strides():
    flops, size = of(tiny("inference"), "stem")
    first, second = 2 * 32 * 64, 2 * 16 * 32
    assert flops == 2 * 9 * (first * 3 * 64 + second * 64 * 64)
    weights = 9 * 3 * 64 + 9 * 64 * 64 + 8 * 64
    assert size == BYTES * (2 * 64 * 128 * 3 + 2 * first * 64 + second * 64 + weights)


def test_the_head_is_mixed_before_it_is_upsampled():
    """Four parts of a 60-channel convolution at their own strides, added once."""
    flops, size = of(tiny("inference"), "head")
    pixels = 2 * 16 * 32
    smaller = [pixels // 4**branch for branch in range(4)]
    mixing = sum(count * 4 * 2**branch * 60 for branch, count in enumerate(smaller))
    assert flops == 2 * (mixing + pixels * 60 * 19)
    features = sum(count * 4 * 2**branch for branch, count in enumerate(smaller))
    mixed = 2 * 60 * sum(smaller[:3]) + 2 * 60 * pixels  # the last part stays where the sum is
    weights = 60 * 60 + 4 * 60 + 60 * 19 + 19
    assert size == BYTES * (features + mixed + pixels * 19 + weights)


def test_training_multiplies_three_times():
    """Forward, by input and by weight; the image itself needs no gradient."""
    forward = defaultdict[str, float](float)
    step = defaultdict[str, float](float)
    for found, mode in ((forward, "inference"), (step, "training")):
        for kernel in tiny(mode):
            found[kernel.group] += kernel.flops
    assert step.keys() == forward.keys() | {"loss", "update"}
    image = 2 * 9 * 2 * 32 * 64 * 3 * 64
    for group, flops in forward.items():
        assert step[group] == 3 * flops - image * (group == "stem"), group
    assert step["loss"] == step["update"] == 0


def test_full_size_logits_are_never_stored():
    """The loss needs logits at stride 4 and labels, but no full-size array of all classes."""
    _, size = of(tiny("training"), "loss")
    assert size < BYTES * 2 * 64 * 128 * 19 / 2


@pytest.mark.parametrize(
    ("scope", "group"),
    [
        ("jvp(@)/@backbone/@backbone.layer1.0.conv1", "stage 1"),
        ("transpose(jvp(@))/@backbone/@backbone.transition2.2.0.bn", "stage 3, stride 16"),
        ("/@/@backbone/@backbone.stage4.1/@backbone.stage4.1.branches.3.0.conv1/dot",
         "stage 4, stride 32"),
        ("/@/@backbone/@backbone.stage4.1", "stage 4, fusion"),
        ("/@/@backbone/@backbone.stage4.1/@backbone.stage4.1.fuse_layers.0.1.bn",
         "stage 4, fusion"),
        ("/@/@backbone", ""),
        ("transpose(jvp())/mul", "loss"),
        ("/mul", "update"),
    ],
)  # fmt: skip
def test_names_tell_the_group(scope, group):
    assert group_of(scope) == group


def test_a_chip_is_as_fast_as_what_binds():
    chip = Chip("abacus", {"float32": 10.0}, memory=0, bandwidth=2.0, link=0, latency=0)
    kernel = Kernel("stem", flops=100.0, bytes=10, padded_flops=200.0, padded_bytes=80)
    assert kernel.seconds(chip, dtype="float32") == (10, 5)
    assert kernel.seconds(chip, dtype="float32", padded=True) == (20, 40)
    peak = {"GFLOP/s of matrix products, NumPy": 1e-9, "GFLOP/s of matrix products, XLA": 1e-8,
            "GB/s read and written": 2e-9}  # fmt: skip
    row = roofline.against_peaks([kernel, kernel._replace(flops=1.0)], [20.0], peak)
    assert row["least seconds"] == pytest.approx(10 + 5)
    assert row["bytes"] == 20


def test_loops_are_refused():
    def trace():
        return jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 2, x)).trace(jnp.ones(3))

    with pytest.raises(ValueError, match=r"A loop's body would be counted once"):
        kernels_of(trace)
