"""A guard for datatrove's local executor: its pool waits for ever for a worker that was killed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from multiprocess.process import BaseProcess  # datatrove's own form of multiprocessing

from minillama.errors import DataError

EVERY = 0.1
"""Seconds between two looks."""
ASKED_TO = (0, 1, -signal.SIGTERM)
"""How workers end by themselves, or because the pool tells them to."""


@contextmanager
def watched() -> Iterator[None]:
    """Stop what runs in the main thread when a process that it has started is killed.

    Raises:
        DataError: one was, perhaps because memory ran out.
    """
    done, killed = threading.Event(), threading.Event()
    main = threading.main_thread()
    children: list[BaseProcess] = []
    start = BaseProcess.start

    def start_and_tell(process: BaseProcess) -> None:
        start(process)
        children.append(process)  # its pool forgets a process that ends

    def look() -> None:
        while not done.wait(EVERY):
            if any(child.exitcode not in (None, *ASKED_TO) for child in tuple(children)):
                killed.set()
                signal.pthread_kill(main.ident, signal.SIGINT)
                return

    thread = threading.Thread(target=look, daemon=True)
    if threading.current_thread() is main:
        thread.start()
    BaseProcess.start = start_and_tell
    try:
        yield
    except KeyboardInterrupt:
        if not killed.is_set():
            raise
        mend = "run again: what was done is kept; or take fewer workers"
        raise DataError("a process was killed", mend) from None
    finally:
        BaseProcess.start = start
        done.set()
