"""One family of errors: what is wrong, where, and how to mend it.

The command line catches ``MinillamaError`` once and prints it as a single line.
"""

import difflib
from collections.abc import Iterable


class MinillamaError(Exception):
    """A mistake that the user can mend; printed without a traceback.

    Args:
        what: what is wrong and where (name the file, the key, the value).
        hint: what to do about it.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what.strip().rstrip(".")
        self.hint = hint.strip().rstrip(".")
        end = "" if self.hint.endswith("?") else "."
        advice = f" {self.hint[0].upper()}{self.hint[1:]}{end}" if self.hint else ""
        super().__init__(f"{self.what}.{advice}")


class ConfigError(MinillamaError):
    """A setting that does not exist, does not fit the others, or is out of range."""


class DataError(MinillamaError):
    """A corpus, shard, download or text that is missing, altered or unreadable."""


class CheckpointError(MinillamaError):
    """A checkpoint or run folder that is missing, damaged or does not match its model."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: ``did you mean X?``, or the list of what exists."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of: {', '.join(known)}"
