"""docs/parity.md, section by section: each is of one run, whose rows docs/parity.json keeps."""

import json
import platform
from pathlib import Path

from hrnet_jax.runs.paths import write_text

DOCS = Path(__file__).parents[2] / "docs"
BACKWARD = 6  # batches of the comparison in float32
TOTAL, SHORT, LONG = 20, 5, 20  # steps of the schedule, of the two comparisons
NUDGED = (  # tensors of which one element is moved by one ulp, to see how far the peer drifts
    "backbone.conv1.weight",
    "backbone.stage3.0.branches.1.0.conv2.weight",
    "decode_head.conv_seg.weight",
)

HEADS = {
    "logits": """\
## Logits

At stride 4, of standard normal images, in units of the largest logit. Demanded: the difference in
float32 at most 1e-5, or twice the peer's own float32 error where that is larger; in float64 1e-10.

| variant | classes | size | largest logit | float32: ours - peer | float32: ours - float64 peer \
| float32: peer - float64 peer | float64: ours - peer |
|--|--:|--|--:|--:|--:|--:|--:|""",
    "label maps": """\
## Label maps of photographs

Crops of odd sizes of two photographs, from the file to the label map on each side: resize,
normalise, whole image or windows, scales and mirror images, back to the original size. 21 classes.
Demanded: equal in 99.99 % of the pixels. The last column is the largest lead that the peer's best
class had over the second where the two differ: ties within float error.

| variant | protocol | pixels | different | equal | largest lead where different |
|--|--|--:|--:|--:|--:|""",
    "backward": f"""\
## One backward pass

Two crops of 128x192, a quarter of the pixels ignored, the peer's own random weights, 19 classes.
Relative differences; gradients by the L2 norm. Demanded in float64: loss 1e-10, every gradient
1e-8; in float32, of each of {BACKWARD} batches: loss 1e-5, all gradients as one vector at most
twice as far from the peer's float64 as the peer's float32 is. (Shown: medians, the worst ratio.)
The table is of a CPU with AVX2, where all held. On one with AVX-512 (2026-11-28) both sides have
other kernels, and two of eighteen batches did not: one of W18-Small with 2.44, one of W48 with
2.03. With a batch summed in another order (decision 51) they were one of W18-Small with 3.74 and
one of W18 with 2.19: a single rectifier, turned by a rounding, decides. Float64 and the loss held
for all. Weight gradients from upright matrices (decision 35) left W18-Small's at 2.44, and
W18 within.

| variant | float64 loss | float64 worst gradient | float32 worst loss | float32 gradients, ours \
| float32 gradients, peer | worst ratio |
|--|--:|--:|--:|--:|--:|--:|""",
    "training": f"""\
## Training

SGD in float64 on fixed batches of two crops of 64x96 with ignored pixels: momentum 0.9, decay
5e-4, the poly schedule of 1.x over {TOTAL} steps. Relative L2 distance of all parameters and of
all running statistics as one vector each; the largest relative difference of a loss. In brackets
what the peer's own result moves by when one weight moves by one ulp (the worst of {len(NUDGED)}).
Demanded: 1e-7 after {SHORT} steps, ten times the bracket after {LONG}; learning rates to 1e-12.

| variant | {SHORT} steps: parameters | statistics | losses | {LONG} steps: parameters \
| statistics | losses |
|--|--:|--:|--:|--:|--:|--:|""",
    "round trip": """\
## There and back

.pth of the peer -> checkpoint -> .pth, loaded by the peer with strict=True.

| variant | file | tensors + counters | bits that differ | bits of the peer's logits that differ \
| SHA-256 of its logits |
|--|--|--:|--:|--:|--|""",
    "learning": """\
## Learning

Real photographs (CamVid: 367 to learn from, 101 to be scored on, 360x480, 11 classes), W18-Small
from random weights, in each seed the same for both. The published recipe scaled down: SGD, momentum
0.9, decay 5e-4, the poly schedule of 1.x from 0.01 to 1e-4, random scale 0.5 to 2, crop, mirror
image, photometric distortion. Each side with its own pipeline, training loop and evaluation: ours
is `hrnet_jax.main`, the peer's its `Runner`, `BaseSegDataset` and `IoUMetric`; each draws order and
augmentation for itself. mIoU in percent: mean ± standard deviation over the seeds. Demanded: at the
end the means differ by at most twice the pooled standard deviation.

| step | ours | peer |
|--:|--:|--:|""",
}


def store(name: str, *, rows: list[str], run: str, docs: Path = DOCS) -> None:
    """Put a section in the place of its former self; `run` says when, with what, how it went."""
    path = docs / "parity.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    stored[name] = {"run": run, "rows": rows}
    write_text(path, json.dumps(stored, indent=1) + "\n")
    write_text(docs / "parity.md", document(stored))


def document(stored: dict[str, dict]) -> str:
    """The page of the sections that are there."""
    parts = [
        "# Parity with mmsegmentation\n\nWritten by `make parity` (Learning: by `make learning`), "
        f"side by side on the same\nmachine ({platform.machine()}, CPU).\nThe peer runs its "
        "released configs (BN instead "
        "of SyncBN). Weights: of every published name,\ndrawn by `tests/published.py`, saved by "
        "the peer, converted by us. Each table is of one run, whose\nday and versions stand under "
        "it."
    ]
    for name, head in HEADS.items():
        if name in stored:
            rows = "\n".join(stored[name]["rows"])
            parts.append(f"{head}\n{rows}\n\n{stored[name]['run']}")
    return "\n\n".join(parts) + "\n"
