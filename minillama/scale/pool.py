"""Processes that work for a build, and end with it."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from minillama.errors import DataError


@contextmanager
def pool(workers: int, stage: str) -> Iterator[Callable]:
    """A ``map``: of this process if it is the only worker, or of several.

    Raises:
        DataError: a process was killed, or there is no memory left.
    """
    mend = "run again: what was done is kept; or take fewer workers"
    try:
        if workers == 1:
            yield map
        else:
            with ProcessPoolExecutor(
                workers, initializer=_end_with, initargs=(os.getpid(),)
            ) as run:
                yield run.map
    except BrokenProcessPool:
        raise DataError(f"a process was killed in the stage '{stage}'", mend) from None
    except MemoryError:
        raise DataError(f"there is no memory left in the stage '{stage}'", mend) from None


def _end_with(parent: int) -> None:
    """A killed build tells its workers nothing: they look for it every second."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
