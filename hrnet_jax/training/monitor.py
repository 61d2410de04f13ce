"""Monitoring of a training run: loss, speed, steps that are not finite."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import optax

from hrnet_jax.parallel.processes import gather
from hrnet_jax.runs.metrics_log import MetricsWriter
from hrnet_jax.runs.terminal import LiveLine, Terminal
from hrnet_jax.training.step import Metrics

_AVERAGED = ("loss", "accuracy", "grad_norm")  # over the steps since the last report


class Monitor:
    """Collects the metrics of steps without waiting for the device, and reports them."""

    def __init__(
        self,
        *,
        schedule: optax.Schedule,
        batch_size: int,  # over all processes
        max_bad_steps: int,
        writer: MetricsWriter,
        live: LiveLine,
        terminal: Terminal,
        resumed: Mapping[str, Any] | None = None,  # `state()` of the run that is resumed
    ):
        self._schedule, self._batch_size = schedule, batch_size
        self._max_bad_steps = max_bad_steps
        self._bad_steps = resumed["bad_steps"] if resumed else 0  # in a row
        self._good: list[dict[str, float]] = list(resumed["good"]) if resumed else []
        self._writer, self._live, self._terminal = writer, live, terminal
        self._pending: list[tuple[int, Metrics, list[str]]] = []
        self._begin, self._waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Measure how long training waits for the next batch."""
        # Allow one running and one queued step; with more, this time would not be a wait.
        jax.block_until_ready([metrics for _, metrics, _ in self._pending[-2:-1]])
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def add(self, done: int, metrics: Metrics, *, ids: list[str]) -> None:
        """Record a started step: its number, counted from 1, and the ids of its images."""
        self._pending.append((done, metrics, ids))
        self._live.advance()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude an evaluation or a save from the images per second."""
        jax.block_until_ready([metrics for _, metrics, _ in self._pending])
        stopped = time.perf_counter()
        yield
        self._begin += time.perf_counter() - stopped

    def report(self, done: int) -> None:
        """Write and show the means and the speed since the last report.

        Raises:
            FloatingPointError: `max_bad_steps` steps in a row were not finite.
        """
        if not self._pending:
            return
        steps = len(self._pending)
        self._collect()
        elapsed = max(time.perf_counter() - self._begin, 1e-9)
        good = self._good
        entry = {
            name: sum(values[name] for values in good) / len(good) if good else math.nan
            for name in _AVERAGED
        } | {
            "lr": float(self._schedule(done - 1)),
            "images_per_second": steps * self._batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._writer.write(done, entry)
        text = (
            f"loss {entry['loss']:.4f}  lr {entry['lr']:.5f}  "
            f"{entry['images_per_second']:.1f} images/s  data wait {entry['data_wait']:.0%}"
        )
        self._live.show(text)
        self._terminal.line_if_plain(
            f"step {done}/{self._live.total}  {text}  {self._live.eta} to go"
        )
        self._good, self._waited, self._begin = [], 0.0, time.perf_counter()

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to report the same numbers as an unbroken one; JSON."""
        self._collect()
        return {"bad_steps": self._bad_steps, "good": self._good}

    def _collect(self) -> None:
        """Wait for the metrics of all started steps, and check them."""
        for done, metrics, ids in self._pending:
            values = jax.device_get(metrics)
            self._check(done, values, ids)
            if values.finite:
                self._good.append({name: float(getattr(values, name)) for name in _AVERAGED})
        self._pending = []

    def report_scores(self, done: int, scores: Mapping[str, float]) -> None:
        """Write and show an evaluation: mIoU, mAcc and aAcc in percent."""
        self._writer.write(done, scores)
        text = "  ".join(f"{name} {value:.2f}" for name, value in scores.items())
        self._terminal.line(f"step {done}/{self._live.total}  {text}")

    def _check(self, done: int, metrics: Metrics, ids: list[str]) -> None:
        if metrics.finite:
            self._bad_steps = 0
            return
        self._bad_steps += 1
        ids = [name for part in gather(json.dumps(ids).encode()) for name in json.loads(part)]
        values = {"loss": float(metrics.loss), "grad_norm": float(metrics.grad_norm)}
        path = self._writer.write_bad_step(done, values, ids=ids)
        problem = (
            f"step {done}: loss {values['loss']:.4g}, gradient norm "
            f"{values['grad_norm']:.4g} are not both finite"
        )
        shown = ", ".join(ids[:4]) + (f", ... (all in {path})" if len(ids) > 4 else "")
        if self._bad_steps >= self._max_bad_steps:
            raise FloatingPointError(
                f"{problem}; bad steps in a row: {self._bad_steps}, all skipped. The batch was "
                f"{shown}. Lower config.optim.lr, or look at these images; the same command "
                "resumes from the last checkpoint."
            )
        self._terminal.warn(f"{problem}; this update was skipped. The batch was {shown}.")
