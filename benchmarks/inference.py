"""Logits of one image of 512x1024 in float32, compared with mmsegmentation.

    python -m benchmarks.inference [--variants hr18s hr18 hr48] [--compile] [--json FILE]

mmsegmentation runs in the Python that HRNET_PARITY_PYTHON names (see `make parity`): in PyTorch's
eager mode, with channels last, and compiled with --compile. Ratios are its time over ours within a
round. The row "again" is a second process of ours, which shows the noise.
"""

from typing import Any

from benchmarks.paired_timing import compare, conditions, options_of, show, write
from hrnet_jax.runs.terminal import Terminal

SIZE = (512, 1024)


def main() -> None:
    """Measure, print, write."""
    options, terminal = options_of(__doc__, rounds=7), Terminal()
    report: dict[str, Any] = {"conditions": conditions(options)}
    for name, value in report["conditions"].items():
        terminal.line(f"{name}: {value}")
    for variant in options.variants or ("hr18s", "hr18", "hr48"):
        title = f"{variant} {SIZE[0]}x{SIZE[1]} batch 1"
        report[title] = compare(
            variant, SIZE, 1, training=False, options=options, terminal=terminal
        )
        show(title, report[title], terminal)
    write(report, options)


if __name__ == "__main__":
    main()
