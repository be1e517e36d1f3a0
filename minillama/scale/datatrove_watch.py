"""A guard for datatrove's local executor: its pool waits for ever for a worker that was killed."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from multiprocess.process import BaseProcess  # datatrove's own form of multiprocessing

from minillama.errors import DataError

EVERY = 0.1
"""Seconds between two looks."""
ASKED_TO = (0, 1, -signal.SIGTERM)
"""How workers end by themselves, or because the pool tells them to."""
job: Callable[[], Any]
"""What the process on its own does."""


def run_watched(work: Callable[[], Any]) -> None:
    """Run ``work`` in a process of its own, which ends when one that it has started is killed.

    A pool that has lost a worker cannot always be closed either, so all of it goes.

    Raises:
        DataError: a process was killed, perhaps because memory ran out.
        Exception: whatever ``work`` raises.
    """
    context = get_context("fork")
    with ProcessPoolExecutor(1, context, _prepare, (work, os.getpid())) as alone:
        try:
            alone.submit(_run).result()
        except BrokenProcessPool:
            mend = "run again: what was done is kept; or take fewer workers"
            raise DataError("a process was killed", mend) from None


def _run() -> None:
    job()


def _prepare(work: Callable[[], Any], parent: int) -> None:
    """Take the work over, without a copy, and begin to watch."""
    global job
    job = work
    children: list[BaseProcess] = []
    start = BaseProcess.start

    def start_and_tell(process: BaseProcess) -> None:
        start(process)
        children.append(process)  # its pool forgets a process that ends

    def look() -> None:
        while os.getppid() == parent and all(
            child.exitcode in (None, *ASKED_TO) for child in tuple(children)
        ):
            time.sleep(EVERY)
        for child in children:
            if child.exitcode is None:
                child.kill()
        os._exit(1)

    BaseProcess.start = start_and_tell
    threading.Thread(target=look, daemon=True).start()
