"""How a worker process of ours begins: those that read examples, and those that draw scenes."""

import multiprocessing
import os
import signal
import threading

import cv2

from hrnet_jax.parallel.process_settings import disable_malloc_trim


def begin_worker(*_: int) -> None:
    """Prepare a worker process: one thread per image, and no life beyond its parent's.

    Orphans would stay behind otherwise, each with its memory, whenever the parent is killed. Grain
    passes the worker's number and how many there are, which change nothing.
    """
    disable_malloc_trim()
    cv2.setNumThreads(0)  # workers share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes begin here"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
