"""Convert a checkpoint to a file that mmsegmentation loads with strict=True.

    python -m convert.to_pytorch DIR --output FILE.pth

A .safetensors file holds the same tensors under the same names.
"""

import argparse
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed

from absl import logging

from hrnet_jax import zoo
from hrnet_jax.commands.convert import report_table, to_file
from hrnet_jax.runs.terminal import Terminal


def main(arguments: list[str] | None = None) -> None:
    """Convert; a user error ends in one message and exit code 1."""
    command = f"{zoo.CONVERT}.to_pytorch"
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=str(__doc__).replace("convert.to_pytorch", command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        metavar="DIR",
        help="a workdir (its best checkpoint by mIoU, or else the newest), or a checkpoint",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="file to write, .pth or .safetensors"
    )
    given = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    terminal = Terminal()
    try:
        report = to_file(given.checkpoint, given.output)
    except KeyboardInterrupt:
        terminal.line("Stopped.")
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    terminal.table(report_table(report, title="Converted"))


if __name__ == "__main__":
    main()
