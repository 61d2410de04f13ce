"""The tiny command line (`tests.tiny`), which also records the examples of every step it runs.

    python -m tests.recording --config tests/tiny_config.py --workdir=FOLDER ...

<workdir>/ids.jsonl has one line for each step of each start; ids_1.jsonl has those of a second
process.
"""

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import jax
from absl import app

from hrnet_jax import main, train
from hrnet_jax.config.build_data import Data, build_data
from tests import tiny  # noqa: F401 -- adds the variant "tiny"


class Recorded(Data):
    def batches(self, start: int, *, workdir: Path):
        number = jax.process_index()
        path = Path(workdir) / (f"ids_{number}.jsonl" if number else "ids.jsonl")
        batches = super().batches(start, workdir=workdir)
        with closing(batches), path.open("a", buffering=1) as file:
            for step, batch in enumerate(batches, start):
                file.write(json.dumps({"step": step, "ids": batch["id"].tolist()}) + "\n")
                yield batch


def recorded(*arguments, **options) -> Recorded:
    data = build_data(*arguments, **options)
    fields = dataclasses.fields(data)
    return Recorded(**{field.name: getattr(data, field.name) for field in fields})


if __name__ == "__main__":
    train.build_data = recorded
    app.run(main.main, flags_parser=main.parse_flags)
