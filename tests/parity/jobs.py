"""The other end of `peer.Server`: does one job per line of stdin, as JSON.

Imports the standard library only, because mmsegmentation's worker, which has another environment,
imports it too.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

timed: dict[str, Callable[[], Any]] = {}  # "program", which a job has loaded for `run`


def take_stdout() -> TextIO:
    """Return stdout for replies; whatever else is printed from now on goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def serve(functions: dict[str, Any], replies: TextIO) -> None:
    """Do the jobs until stdin closes; each names one of `functions`, or `run`."""
    known = {"run": run} | functions
    for line in sys.stdin:
        job = json.loads(line)
        result = known[job.pop("do")](**job)
        print(json.dumps({"result": result}), file=replies, flush=True)


def run(times: int) -> dict[str, float]:
    """Run the loaded program; return wall and CPU seconds of each turn, and peak memory in MB."""
    begin, busy = time.perf_counter(), time.process_time()
    for _ in range(times):
        timed["program"]()
    return {
        "seconds": (time.perf_counter() - begin) / times,
        "CPU seconds": (time.process_time() - busy) / times,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
