"""Deduplication: exact, with a set of hashes that may be larger than memory, and near duplicates.

Section 2.1 drops books "with more than 90% content overlap". Comparing all pairs exactly is out of
the question for a library, so (Broder, 1997; Leskovec, Rajaraman & Ullman, 2020, chapter 3):

1. A text is the set of its shingles, runs of ``SHINGLE`` words. Overlap is the Jaccard index of two
   such sets, |A and B| / |A or B|.
2. Under a random order of all shingles, two sets have the same first element with a probability of
   just that index. ``PERMUTATIONS`` orders give a signature of as many numbers.
3. The signature is cut into ``BANDS``. Two texts with one band in common are candidates: at overlap
   s that happens with probability 1 - (1 - s^rows)^bands, 99.99% at 0.9 and 6% at 0.5.
4. Candidates are compared exactly. The signature can miss a pair; it can never drop a text.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillama.corpus.document import Document

SHINGLE = 5
PERMUTATIONS = 128
BANDS = 16
ROWS = PERMUTATIONS // BANDS
THRESHOLD = 0.9


def hash64(text: str) -> int:
    """The first 64 bits of a text's BLAKE2b digest: the same on every machine and run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_word_hash = lru_cache(maxsize=2**18)(hash64)


class HashSet:
    """Which hashes were met before, for exact deduplication.

    New hashes gather in memory; when there are ``buffer`` of them they are sorted and written to a
    file in ``folder`` that is mapped and searched by bisection. Files of about the same size become
    one, as in a log-structured merge tree (O'Neil et al., 1996): n hashes lie in log2(n / buffer)
    files. One line in some ten million has the hash of another in the paper's 1.4T tokens.
    """

    def __init__(self, buffer: int = 1_000_000, folder: Path | None = None) -> None:
        self.buffer = buffer
        self._tmp = None if folder else tempfile.TemporaryDirectory(prefix="hashes-")
        self._folder = Path(folder or self._tmp.name)
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
        on_disk = np.zeros(len(wanted), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, wanted), len(run) - 1)
            on_disk |= run[places] == wanted
        new = []
        for number, old in zip(hashes, on_disk.tolist(), strict=True):
            is_new = not old and number not in self._recent
            new.append(is_new)
            if is_new:
                self._recent.add(number)
        if len(self._recent) >= self.buffer:
            self._flush()
        return new

    def _flush(self) -> None:
        """Write the recent hashes, together with the files that are not twice as long."""
        parts = [np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))]
        self._recent = set()
        while self._runs and len(self._runs[-1]) < 2 * sum(map(len, parts)):
            parts.append(self._runs.pop())
        self._runs.append(self._write(*parts))
        for merged in parts[1:]:
            Path(merged.filename).unlink()

    def _write(self, *parts: np.ndarray) -> np.ndarray:
        """All parts in one sorted file. It is sorted in place: memory does not grow."""
        self._written += 1
        path = self._folder / f"run-{self._written:06d}.npy"
        run = np.lib.format.open_memmap(path, "w+", np.uint64, (sum(map(len, parts)),))
        np.concatenate(parts, out=run)
        run.sort()
        run.flush()
        return np.load(path, mmap_mode="r")


class NearDuplicate(NamedTuple):
    """A document that was left out, and the earlier one that it is like."""

    document: Document
    like: Document
    overlap: float


def words_of(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def _word_hashes(text: str) -> np.ndarray:
    return np.array([_word_hash(word) for word in words_of(text)], dtype=np.uint64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Spread the bits of 64-bit numbers (the finalizer of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hashed_runs(hashes: np.ndarray, size: int) -> np.ndarray:
    """A polynomial in an odd number, modulo 2^64, of each run of ``size`` hashes."""
    total = np.zeros(max(0, len(hashes) - size + 1), dtype=np.uint64)
    for i in range(size):
        total = total * np.uint64(0x9E3779B97F4A7C15) + hashes[i : i + len(total)]
    return _mix(total)


def word_runs(text: str, size: int) -> np.ndarray:
    """The hashed runs of ``size`` words, in their order: ``(words - size + 1,)`` uint64."""
    return _hashed_runs(_word_hashes(text), size)


def shingles(text: str, size: int = SHINGLE) -> np.ndarray:
    """The set of hashed runs of ``size`` words, sorted: ``(n,)`` uint64; at least one."""
    hashes = _word_hashes(text)
    missing = max(0, size - len(hashes))
    return np.unique(_hashed_runs(np.pad(hashes, (0, missing)), size))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard index of two sets of shingles."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(1, len(a) + len(b) - common)


def signature(shingle_set: np.ndarray, permutations: int = PERMUTATIONS) -> np.ndarray:
    """The smallest shingle under each of ``permutations`` random orders: ``(permutations,)``."""
    keys = _mix(np.arange(1, permutations + 1, dtype=np.uint64))
    return np.array([_mix(shingle_set ^ key).min() for key in keys], dtype=np.uint64)


def candidate_probability(similarity: float, bands: int = BANDS, rows: int = ROWS) -> float:
    """How likely two texts of this overlap share a band."""
    return 1 - (1 - similarity**rows) ** bands


class Library:
    """The texts met so far: their signatures in memory, their texts read again when needed."""

    def __init__(self, read: Callable[[int], str], threshold: float = THRESHOLD) -> None:
        self.read, self.threshold = read, threshold
        self._numbers: dict[bytes, list[int]] = {}

    def candidates(self, bands: list[bytes]) -> list[int]:
        """Numbers of the earlier texts that share a band."""
        return sorted({number for band in bands for number in self._numbers.get(band, ())})

    def find_or_add(self, number: int, text: str) -> tuple[int, float] | None:
        """The first earlier text that overlaps by more than the threshold; else add this one."""
        own = shingles(text)
        rows = signature(own).reshape(BANDS, ROWS)
        bands = [bytes([i]) + row.tobytes() for i, row in enumerate(rows)]
        for earlier in self.candidates(bands):
            shared = overlap(own, shingles(self.read(earlier)))
            if shared > self.threshold:
                return earlier, shared
        for band in bands:
            self._numbers.setdefault(band, []).append(number)
        return None


def drop_near_duplicates(
    documents: list[Document], threshold: float = THRESHOLD
) -> tuple[list[Document], list[NearDuplicate]]:
    """Each document unless an earlier one overlaps by more than ``threshold``."""
    library = Library(lambda number: documents[number].text, threshold)
    kept, dropped = [], []
    for number, document in enumerate(documents):
        found = library.find_or_add(number, document.text)
        if found:
            earlier, shared = found
            dropped.append(NearDuplicate(document, documents[earlier], shared))
        else:
            kept.append(document)
    return kept, dropped


def precision_recall(
    found: Iterable[tuple[int, int]], true: Iterable[tuple[int, int]]
) -> tuple[float, float]:
    """Of the pairs found the share that is true, and of the true ones the share found."""
    found, true = set(found), set(true)
    both = len(found & true)
    return both / max(1, len(found)), both / max(1, len(true))
