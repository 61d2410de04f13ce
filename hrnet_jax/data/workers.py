"""Set up worker processes, which read examples or draw scenes."""

import multiprocessing
import os
import signal
import threading

import cv2

from hrnet_jax.parallel.process_settings import disable_malloc_trim


def begin_worker(*_: int) -> None:
    """Set up a worker process: one thread per image, and exit when the parent exits.

    Workers would survive a killed parent and keep their memory. Grain passes the worker's number
    and the number of workers, which are not used.
    """
    disable_malloc_trim()
    cv2.setNumThreads(0)  # the workers already use all cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    parent = multiprocessing.parent_process()
    assert parent is not None, "only for worker processes"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
