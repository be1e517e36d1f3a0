"""Count and skip what cannot be read in a file; errors of the machine or settings are raised."""

import errno
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from minillama.errors import MinillamaError

MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EMFILE)
"""Errors of the disk and of limits, not of what is read."""
REASONS = {
    UnicodeDecodeError: "not UTF-8",
    EOFError: "cut short",
    OSError: "damaged",
    RecursionError: "too deeply nested",
}


def reason(error: Exception) -> str:
    """Why something could not be read, in words for the waterfall."""
    found = [words for kind, words in REASONS.items() if isinstance(error, kind)]
    return f"{found[0] if found else 'malformed'} ({type(error).__name__})"


@contextmanager
def counted(skipped: Counter[str]) -> Iterator[None]:
    """End the block at an error of a file, and count it, so that the rest is built.

    Raises:
        Exception: the machine has no memory or disk left; a package or a setting is wrong.
    """
    try:
        yield
    except (MinillamaError, MemoryError, sqlite3.OperationalError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        skipped[reason(error)] += 1
