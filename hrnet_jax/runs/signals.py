"""Signals that ask a run to end: the first lets it finish its step and save, a second one does not.

Clusters send SIGTERM some seconds before they take a machine away; Ctrl-C sends SIGINT.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal ended the run, and what it had done is saved."""

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number  # 143 for SIGTERM, 130 for SIGINT, as shells have it


class StopRequest:
    """Whether a signal has asked this run to end."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` steps and leave. To be asked after every step.

        A signal reaches the hosts of a run at different times, or one of them only; jax agrees
        with all of them on one step, which none has reached yet.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.signal is not None

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Pass items through until a signal arrives, for what is lost without harm.

        On several hosts the items go on: leaving alone, one host would let the others wait.
        """
        for item in items:
            if self.signal is not None and jax.process_count() == 1:
                raise self.stopped()
            yield item

    def stopped(self) -> Stopped:
        """What to raise when all is saved."""
        return Stopped(self.signal or signal.SIGTERM)

    def _hear(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            _say(f"{name} again: leaving at once.")
            os._exit(128 + number)
        self.signal = number
        _say(f"{name}: finishing the step and saving; once more leaves at once.")
        if jax.process_count() > 1 and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # which jax tells the other hosts of


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """While the block runs, signals are heard and answered by the block."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python lets nobody else ask for signals
        return
    # Python calls its handlers between two instructions of the main thread, which may wait for the
    # device for minutes. So they do nothing, and a thread reads the numbers that arrive.
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while number := reader.recv(1):
            if number[0] in _SIGNALS:
                request._hear(number[0])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    # With several hosts SIGTERM is jax's, which must tell the others.
    ours = _SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
    wakeup = signal.set_wakeup_fd(writer.fileno())
    handlers = {number: signal.signal(number, lambda *_: None) for number in ours}
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        writer.close()
        listener.join()
        reader.close()


def _say(text: str) -> None:
    # Not by the terminal: its lock may be held by the thread that is waiting.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
