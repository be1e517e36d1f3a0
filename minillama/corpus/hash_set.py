"""A set of 64-bit hashes that may be larger than memory, for exact deduplication.

New hashes gather in memory; when there are ``buffer`` of them they are sorted and written to a file
that is mapped and searched by bisection. Files of equal size are merged, as in a log-structured
merge tree (O'Neil et al., 1996), so that n hashes lie in at most log2(n / buffer) files and each is
rewritten as often. Two different lines get the same hash once in 2^64 / n tries: one line in some
ten million for the 1.4T tokens of the paper.
"""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def hash64(text: str) -> int:
    """The first 64 bits of a text's BLAKE2b digest: the same on every machine and run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class HashSet:
    """Which hashes were met before.

    Args:
        buffer: how many are held in memory, about 100 bytes each.
        folder: where the others are written; a temporary folder by default.
    """

    def __init__(self, buffer: int = 1_000_000, folder: Path | None = None) -> None:
        self.buffer = buffer
        self._aside = None if folder else tempfile.TemporaryDirectory(prefix="hashes-")
        self._folder = Path(folder or self._aside.name)
        self._recent: set[int] = set()
        self._runs: list[np.ndarray] = []  # sorted; each at least twice as long as the next
        self._written = 0

    def __len__(self) -> int:
        return len(self._recent) + sum(map(len, self._runs))

    def know(self, hashes: np.ndarray) -> None:
        """Add hashes as met before: ``(n,)`` uint64, sorted, none of them twice or in here yet."""
        if len(hashes):
            self._runs.insert(0, self._write(hashes))

    def first_time(self, hashes: Iterable[int]) -> list[bool]:
        """For each hash whether it is new, in order; then all are known."""
        hashes = list(hashes)
        wanted = np.array(hashes, dtype=np.uint64)
        known = np.zeros(len(wanted), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, wanted)
            known |= run[np.minimum(places, len(run) - 1)] == wanted
        new = []
        for number, old in zip(hashes, known.tolist(), strict=True):
            fresh = not old and number not in self._recent
            new.append(fresh)
            if fresh:
                self._recent.add(number)
        if len(self._recent) >= self.buffer:
            self._flush()
        return new

    def _flush(self) -> None:
        run = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
        run.sort()
        self._recent = set()
        self._runs.append(self._write(run))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            b, a = self._runs.pop(), self._runs.pop()
            self._runs.append(self._merge(a, b))
            for old in (a, b):
                Path(old.filename).unlink()

    def _path(self) -> Path:
        self._written += 1
        return self._folder / f"run-{self._written:06d}.npy"

    def _write(self, run: np.ndarray) -> np.ndarray:
        path = self._path()
        np.save(path, run)
        return np.load(path, mmap_mode="r")

    def _merge(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Both runs in one file, a block of ``a`` and what belongs beside it of ``b`` at a time."""
        path, at, block = self._path(), 0, max(1, self.buffer // 2)
        out = np.lib.format.open_memmap(path, "w+", np.uint64, (len(a) + len(b),))
        taken = 0
        for start in range(0, len(a), block):
            part = a[start : start + block]
            last = start + block >= len(a)
            stop = len(b) if last else int(np.searchsorted(b, part[-1]))
            both = np.sort(np.concatenate((part, b[taken:stop])), kind="stable")
            out[at : at + len(both)] = both
            at, taken = at + len(both), stop
        out.flush()
        del out
        return np.load(path, mmap_mode="r")
