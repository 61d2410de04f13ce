"""Write docs/parity.md by sections: each is from one run, whose rows are in docs/parity.json."""

import json
import platform
from pathlib import Path

from hrnet_jax.runs.paths import write_text

DOCS = Path(__file__).parents[2] / "docs"
BACKWARD = 6  # batches of the comparison in float32
TOTAL, SHORT, LONG = 20, 5, 20  # steps of the schedule, of the two comparisons
NUDGED = (  # tensors of which one element moves by one ulp, to see how far mmsegmentation drifts
    "backbone.conv1.weight",
    "backbone.stage3.0.branches.1.0.conv2.weight",
    "decode_head.conv_seg.weight",
)

HEADS = {
    "logits": """\
## Logits

At stride 4, of standard normal images, in units of the largest logit. Required: the difference in
float32 is at most 1e-5, or twice mmsegmentation's own float32 error where that is larger; in
float64 at most 1e-10.

| variant | classes | size | largest logit | float32: ours - mmseg | float32: ours - float64 mmseg \
| float32: mmseg - float64 mmseg | float64: ours - mmseg |
|--|--:|--|--:|--:|--:|--:|--:|""",
    "label maps": """\
## Label maps of photographs

Crops of odd sizes of two photographs, from the file to the label map on each side: resize,
normalise, whole image or windows, scales and mirror images, back to the original size. 21 classes.
Required: equal in 99.99 % of the pixels. The last column is the largest margin between the two best
classes of mmsegmentation where the two sides differ: ties within float error.

| variant | protocol | pixels | different | equal | largest margin where different |
|--|--|--:|--:|--:|--:|""",
    "backward": f"""\
## One backward pass

Two crops of 128x192, a quarter of the pixels ignored, mmsegmentation's own random weights, 19
classes. Relative differences; gradients by the L2 norm. Required in float64: loss 1e-10, every
gradient 1e-8. Required in float32, for each of {BACKWARD} batches: loss 1e-5, and all gradients as
one vector at most twice as far from mmsegmentation's float64 as its own float32 is. The table shows
medians and the worst ratio.

The table is from a CPU with AVX2, where all of this held. On a CPU with AVX-512 (2026-11-28) both
sides use other kernels, and two of eighteen batches exceeded the bound: one of W18-Small with 2.44,
one of W48 with 2.03. With batches summed in another order ([cpu.md](cpu.md)) it was one of
W18-Small with 3.74 and one of W18 with 2.19: a single ReLU that a rounding flips decides. Float64
and the loss held for all. Weight gradients from upright matrices ([cpu.md](cpu.md)) left
W18-Small's at 2.44, and W18 within the bound. With operations behind one seam (2026-11-29, AVX-512)
it is one batch of W18-Small with 2.73; W18 and W48 are within the bound.

| variant | float64 loss | float64 worst gradient | float32 worst loss | float32 gradients, ours \
| float32 gradients, mmseg | worst ratio |
|--|--:|--:|--:|--:|--:|--:|""",
    "training": f"""\
## Training

SGD in float64 on fixed batches of two crops of 64x96 with ignored pixels: momentum 0.9, decay
5e-4, the poly schedule of 1.x over {TOTAL} steps. Relative L2 distance of all parameters and of
all running statistics, as one vector each, and the largest relative difference of a loss. In
brackets: how far mmsegmentation's own result moves when one weight moves by one ulp (the worst of
{len(NUDGED)}). Required: 1e-7 after {SHORT} steps, ten times the bracket after {LONG}; learning
rates to 1e-12.

| variant | {SHORT} steps: parameters | statistics | losses | {LONG} steps: parameters \
| statistics | losses |
|--|--:|--:|--:|--:|--:|--:|""",
    "round trip": """\
## Round trip

A .pth of mmsegmentation becomes a checkpoint and a .pth again, which mmsegmentation loads with
strict=True.

| variant | file | tensors + counters | bits that differ | bits that differ in mmseg's logits \
| SHA-256 of its logits |
|--|--|--:|--:|--:|--|""",
    "learning": """\
## Learning

Real photographs (CamVid: 367 for training, 101 for validation, 360x480, 11 classes), W18-Small from
random weights, the same for both sides in each seed. The published recipe scaled down: SGD,
momentum 0.9, decay 5e-4, the poly schedule of 1.x from 0.01 to 1e-4, random scale 0.5 to 2, crop,
mirror image, photometric distortion. Each side uses its own pipeline, training loop and evaluation:
ours is `hrnet_jax.main`, mmsegmentation's are its `Runner`, `BaseSegDataset` and `IoUMetric`. Each
draws order and augmentation for itself. mIoU in percent: mean ± standard deviation over the seeds.
Required: at the end the means differ by at most twice the pooled standard deviation.

| step | ours | mmseg |
|--:|--:|--:|""",
}


def store(name: str, *, rows: list[str], run: str, docs: Path = DOCS) -> None:
    """Replace one section; `run` says when and with which versions it ran, and how it went."""
    path = docs / "parity.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[name] = {"run": run, "rows": rows}
    write_text(path, json.dumps(stored, indent=1) + "\n")
    write_text(docs / "parity.md", document(stored))


def document(stored: dict[str, dict]) -> str:
    """Return the page with all stored sections."""
    parts = [
        "# Parity with mmsegmentation\n\nWritten by `make parity` (Learning: by `make learning`)."
        f" Both sides ran on the same machine\n({platform.machine()}, CPU). mmsegmentation (mmseg"
        " in the tables) runs its released configs, with BN\ninstead of SyncBN. The weights carry"
        " every published name; they are drawn by `tests/published.py`,\nsaved by mmsegmentation"
        " and converted by us. Each table is from one run, whose day and versions are\nbelow it."
    ]
    for name, head in HEADS.items():
        if name in stored:
            rows = "\n".join(stored[name]["rows"])
            parts.append(f"{head}\n{rows}\n\n{stored[name]['run']}")
    return "\n\n".join(parts) + "\n"
