"""runs/NAME/logs/rank-00003.log: what one process has to say, a few lines for each start.

metrics.jsonl tells how the training goes; this tells how the process fares: its place and device,
the step it went on from, warnings, requests to stop, and how it ended.
"""

import contextlib
import faulthandler
import os
import time
from pathlib import Path


class RankLog:
    """The log of one rank. What is written before ``open`` is kept until then."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.path: Path | None = None
        self._early: list[str] = []

    def open(self, run: Path) -> None:
        """From now on write to the run folder, which must be there."""
        self.path = run / "logs" / f"rank-{self.rank:05d}.log"
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
        for record in self._early:
            self._append(record)
        self._early.clear()

    def write(self, text: str) -> None:
        """Add one record with the time (UTC); further lines are indented."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = f"{moment} {text}".rstrip().replace("\n", "\n    ") + "\n"
        if self.path:
            self._append(record)
        else:
            self._early.append(record)

    def write_stacks(self) -> None:
        """Add where every thread of this process stands."""
        if self.path:
            with contextlib.suppress(OSError), open(self.path, "a") as file:
                faulthandler.dump_traceback(file, all_threads=True)

    def _append(self, record: str) -> None:
        """One write to a file opened for appending: records of two processes never mix."""
        with contextlib.suppress(OSError):  # a full disk must not end the run from here
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, record.encode())
            finally:
                os.close(descriptor)
