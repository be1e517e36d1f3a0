"""Processes that work for a build, and end with it, whichever way Python starts them."""

import multiprocessing
import os
import threading
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
    hint = "run again: what was done is kept; or take fewer workers"
    try:
        if workers == 1:
            yield map
        else:
            with ProcessPoolExecutor(workers, initializer=_end_with_build) as executor:
                yield executor.map
    except BrokenProcessPool:
        raise DataError(f"a process was killed in the stage '{stage}'", hint) from None
    except MemoryError:
        raise DataError(f"there is no memory left in the stage '{stage}'", hint) from None


def _end_with_build() -> None:
    """End this worker when the build is killed: the pipe from it closes then.

    Not the parent by its number: under ``forkserver`` that is the server.
    """
    build = multiprocessing.parent_process()

    def watch() -> None:
        build.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
