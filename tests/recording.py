"""The tiny command line (`tests.tiny`), which also records the examples of every step it runs.

    python -m tests.recording --config tests/tiny_config.py --workdir=FOLDER ...

<workdir>/ids.jsonl has one line for each step of each start; ids_1.jsonl has those of a second
process.
"""

import json
from contextlib import closing
from pathlib import Path

import jax
from absl import app, flags

from hrnet_jax import main
from hrnet_jax.config.defaults import build as setup
from tests import tiny  # noqa: F401 -- adds the variant "tiny"

_train_batches = setup.Setup.train_batches


def _recorded(self, start: int, *, workdir: Path):
    batches = _train_batches(self, start, workdir=workdir)
    number = jax.process_index()
    path = Path(flags.FLAGS.workdir) / (f"ids_{number}.jsonl" if number else "ids.jsonl")
    with closing(batches), path.open("a", buffering=1) as file:
        for step, batch in enumerate(batches, start):
            file.write(json.dumps({"step": step, "ids": batch["id"].tolist()}) + "\n")
            yield batch


if __name__ == "__main__":
    setup.Setup.train_batches = _recorded
    app.run(main.main, flags_parser=main.parse_flags)
