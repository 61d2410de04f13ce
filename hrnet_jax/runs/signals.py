"""Signals that stop a run: the first one after its step is saved, a second one at once.

Clusters send SIGTERM some seconds before they reclaim a machine; Ctrl-C sends SIGINT.
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
    """A signal stopped the run after its work was saved."""

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number  # 143 for SIGTERM, 130 for SIGINT, as shells have it


class StopRequest:
    """Whether a signal has asked this run to end."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def is_due(self, step: int) -> bool:
        """Whether to save and stop after `step` steps. Must be called after every step.

        A signal may reach the processes of a run at different times, or only one of them. jax makes
        all of them stop at the same step.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.signal is not None

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items until a signal arrives, for work that may be discarded.

        With several processes all items pass: if one stopped alone, the others would wait for it.
        """
        for item in items:
            if self.signal is not None and jax.process_count() == 1:
                raise self.stopped()
            yield item

    def stopped(self) -> Stopped:
        """Return the exception to raise once everything is saved."""
        return Stopped(self.signal or signal.SIGTERM)

    def _receive(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            _log(f"{name} again: stopping at once.")
            os._exit(128 + number)
        self.signal = number
        _log(f"{name}: finishing the step and saving; a second signal stops at once.")
        if jax.process_count() > 1 and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # jax passes it on to the other processes


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record signals while the block runs, instead of being interrupted by them."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # Python handles signals only in the main thread
        return
    # Python runs signal handlers in the main thread, which may wait for the device for minutes.
    # So the handlers do nothing, and another thread reads the signal numbers from a socket.
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while number := reader.recv(1):
            if number[0] in _SIGNALS:
                request._receive(number[0])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    # With several processes jax handles SIGTERM, and notifies the others.
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


def _log(text: str) -> None:
    # Not through the terminal, whose lock the waiting main thread may hold.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
