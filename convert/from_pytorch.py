"""Convert published PyTorch weights into a checkpoint, without PyTorch and without running code.

    python -m convert.from_pytorch FILE.pth --output DIR

DIR is then what --checkpoint and --config.init_from of hrnet_jax.main take.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed

from absl import logging
from rich.console import Console

from hrnet_jax.interop.convert import report_table, to_checkpoint
from hrnet_jax.interop.weights import HEAD_POLICIES


def main(arguments: list[str] | None = None) -> None:
    """Convert; a user's mistake ends in one message and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m convert.from_pytorch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        help="a .pth or .safetensors file: FCN-HRNet of mmsegmentation 0.x "
        "or 1.x, official HRNet, ImageNet backbone (also timm's), our export",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the checkpoint")
    parser.add_argument(
        "--config",
        metavar="FILE[:SCHEDULE]",
        help="check that the file is what this recipe describes",
    )
    parser.add_argument(
        "--head",
        choices=HEAD_POLICIES,
        default="strict",
        help="if the recipe's classes are others: refuse (strict), keep those of "
        "equal names (match), or keep the backbone only (new)",
    )
    parser.add_argument(
        "--any-hash",
        action="store_true",
        help="accept a file whose SHA-256 is not the one its name promises",
    )
    given = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    try:
        config = _config(given.config) if given.config else None
        report = to_checkpoint(
            given.file, given.output, config=config, head=given.head, any_hash=given.any_hash
        )
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    Console(highlight=False).print(report_table(report, title="Converted"))


def _config(name: str) -> dict:
    """Run a recipe file: path, or path:schedule."""
    path, _, schedule = name.partition(":")
    spec = importlib.util.spec_from_file_location("recipe", Path(path))
    if spec is None or spec.loader is None:
        raise ValueError(f"--config {path} is no Python file; try one of configs/.")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return (recipe.get_config(schedule) if schedule else recipe.get_config()).to_dict()


if __name__ == "__main__":
    main()
