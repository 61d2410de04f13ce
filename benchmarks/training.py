"""One training step (forward, backward, SGD with momentum), compared with mmsegmentation.

    python -m benchmarks.training [--variants hr18s hr18] [--json FILE]

Batches of 2 crops of 256x512 in float32. mmsegmentation runs in the Python that
HRNET_PARITY_PYTHON names (see `make parity`). It uses its released loss and BatchNorm in training
mode, and PyTorch's optimiser.
"""

from typing import Any

from benchmarks.paired_timing import compare, conditions, options_of, show, write
from hrnet_jax.runs.terminal import Terminal

CASES = (("hr18s", (256, 512)), ("hr18", (256, 512)), ("hr18s", (512, 1024)))


def main() -> None:
    """Measure, print, write."""
    options, terminal = options_of(__doc__, rounds=7), Terminal()
    report: dict[str, Any] = {"conditions": conditions(options)}
    for name, value in report["conditions"].items():
        terminal.line(f"{name}: {value}")
    for variant, size in CASES:
        if options.variants and variant not in options.variants:
            continue
        title = f"{variant} {size[0]}x{size[1]} batch 2"
        report[title] = compare(variant, size, 2, training=True, options=options, terminal=terminal)
        show(title, report[title], terminal)
    write(report, options)


if __name__ == "__main__":
    main()
