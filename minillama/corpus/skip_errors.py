"""What cannot be read is passed over, with a count and a reason; what is wrong here is an error."""

import errno
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from minillama.errors import MinillamaError

OURS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EMFILE)
"""Errors of this machine: of its disk and its limits, not of what is read."""


def reason(error: Exception) -> str:
    """Why something could not be read, in words for the waterfall."""
    known = {
        UnicodeDecodeError: "not UTF-8", EOFError: "cut short", OSError: "damaged",
        RecursionError: "too deeply nested",
    }  # fmt: skip
    names = (words for kind, words in known.items() if isinstance(error, kind))
    return f"{next(names, 'malformed')} ({type(error).__name__})"


@contextmanager
def counted(skipped: Counter[str]) -> Iterator[None]:
    """What a file holds must not stop the build: errors end the block and are counted.

    Raises:
        Exception: the machine has no memory or disk left; a package or a setting is wrong.
    """
    try:
        yield
    except (MinillamaError, MemoryError, sqlite3.OperationalError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OURS:
            raise
        skipped[reason(error)] += 1
