"""Convert published PyTorch weights to a checkpoint, without PyTorch and without running code.

    python -m convert.from_pytorch FILE.pth --output DIR
    python -m convert.from_pytorch --zoo NAME       # fetches the file first, into weights/NAME

Give DIR to hrnet_jax.main as --checkpoint or --config.init_from. NAME is a row of
`python -m hrnet_jax.main --mode zoo`.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed

from absl import logging

from hrnet_jax import zoo
from hrnet_jax.commands.convert import report_table, to_checkpoint
from hrnet_jax.config import recipes
from hrnet_jax.interop.download import download
from hrnet_jax.interop.weights import HEAD_POLICIES
from hrnet_jax.runs.paths import AnyPath, is_remote, to_path
from hrnet_jax.runs.stored_weights import FOLDER
from hrnet_jax.runs.terminal import Terminal


def main(arguments: list[str] | None = None) -> None:
    """Convert; a user error ends in one message and exit code 1."""
    given = _parser().parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    terminal = Terminal()
    try:
        config = _config(given.config) if given.config else None
        path, output = _fetched(given, terminal) if given.zoo else _given(given)
        report = to_checkpoint(
            path, output, config=config, head=given.head, any_hash=given.any_hash
        )
    except KeyboardInterrupt:
        resumes = " The same command resumes the download." * bool(given.zoo)
        terminal.line(f"Stopped.{resumes}")
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    terminal.table(report_table(report, title="Converted"))


def _parser() -> argparse.ArgumentParser:
    command = f"{zoo.CONVERT}.from_pytorch"
    parser = argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=str(__doc__).replace("convert.from_pytorch", command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        nargs="?",
        help="a .pth or .safetensors file: FCN-HRNet of mmsegmentation 0.x or 1.x, official HRNet, "
        "ImageNet backbone (also timm's), or our export",
    )
    parser.add_argument(
        "--zoo", metavar="NAME", help="a published result to fetch, instead of a file"
    )
    parser.add_argument("--mirror", metavar="URL", help=f"fetch from this copy of {zoo.HOST}")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the checkpoint (and the fetched file); default weights/NAME",
    )
    parser.add_argument(
        "--config",
        metavar="FILE[:SCHEDULE]",
        help="check that the file has this recipe's variant and classes",
    )
    parser.add_argument(
        "--head",
        choices=HEAD_POLICIES,
        default="strict",
        help="if the recipe has other classes: refuse (strict), keep those of equal names (match), "
        "or keep the backbone only (new)",
    )
    parser.add_argument(
        "--any-hash",
        action="store_true",
        help="accept a file whose SHA-256 does not match its name",
    )
    return parser


def _given(given: argparse.Namespace) -> tuple[AnyPath, AnyPath]:
    if not given.file or not given.output or given.mirror:
        raise ValueError("give a file and --output DIR, or --zoo NAME (with --mirror, --output).")
    return to_path(given.file), to_path(given.output)


def _fetched(given: argparse.Namespace, terminal: Terminal) -> tuple[Path, Path]:
    """Fetch a published file into the folder of its checkpoint."""
    row = zoo.get(given.zoo)
    if given.file:
        raise ValueError(f"give a file or --zoo, not both: {given.file}, --zoo {given.zoo}.")
    output = to_path(given.output) if given.output else zoo.WEIGHTS / row.name
    if is_remote(output):
        raise ValueError(
            f"--output {output} is in a bucket, but files are fetched to a local disk. Omit it, "
            f"then convert: python -m {zoo.CONVERT}.from_pytorch "
            f"{zoo.WEIGHTS / row.name / row.file()} --output {output}"
        )
    if (output / FOLDER).exists():  # before the download
        raise ValueError(f"{output} holds a checkpoint already; choose another --output.")
    if given.mirror and not given.mirror.startswith(("http://", "https://")):
        raise ValueError(f"--mirror {given.mirror} must begin with http:// or https://.")
    url = row.url.replace(zoo.HOST, given.mirror.rstrip("/")) if given.mirror else row.url
    download(
        url,
        output / row.file(),
        sha256="" if given.any_hash else row.upload.sha256,
        advice=(
            f"By hand: fetch {row.url}\n"
            f"and convert it: python -m {zoo.CONVERT}.from_pytorch {row.file()} --output {output}\n"
            "Behind a proxy set https_proxy; for a copy of the server give --mirror URL."
        ),
        terminal=terminal,
    )
    return output / row.file(), output


def _config(name: str) -> dict:
    """Run a recipe file: path, or path:schedule."""
    path, _, schedule = name.partition(":")
    # Never None: that depends only on the suffix, which `locate` has checked.
    spec: Any = importlib.util.spec_from_file_location("recipe", recipes.locate(path))
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return (recipe.get_config(schedule) if schedule else recipe.get_config()).to_dict()


if __name__ == "__main__":
    main()
