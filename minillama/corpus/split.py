"""Which clean documents make up the corpus: duplicates, contamination, the limit, and the split.

All of it is decided on entries (key, size, place), never on texts; then the chosen documents are
copied, in the order of their keys, from each slice's file to text/<slice>.<split>.jsonl.
"""

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from minillama.corpus.contamination import whose
from minillama.corpus.deduplicate import HashSet, hash64
from minillama.corpus.pipeline import BUFFER
from minillama.corpus.statistics import StepStats
from minillama.files import atomic_path
from minillama.scale.clean import BuildDir, Entry, read_entries, report

VALID_SHARE = 0.03
SLACK = 2
"""So many times the limit is looked at: a document that does not fit gives its place to others."""


class Sized(Protocol):
    """A document, or what stands for it."""

    key: str
    size: int


T = TypeVar("T", bound=Sized)


def cap(entries: Iterable[T], max_bytes: int, row: StepStats) -> list[T]:
    """At most ``max_bytes`` of a slice: documents in the order of their keys, a fixed sample.

    Memory is bounded by the limit, not by the slice: of all entries only those with the smallest
    keys, ``SLACK`` times the limit together, are held.
    """
    heap: list[tuple[int, int, T]] = []
    held = 0
    for number, entry in enumerate(entries):
        row.enter(entry.size)
        if entry.size > max_bytes:
            row.drop("over the slice's limit")
            continue
        heapq.heappush(heap, (-int(entry.key, 16), -number, entry))
        held += entry.size
        while held - heap[0][2].size >= SLACK * max_bytes:
            held -= heapq.heappop(heap)[2].size
            row.drop("over the slice's limit")
    chosen, total = [], 0
    for *_, entry in sorted(heap, key=lambda item: (-item[0], -item[1])):
        if total + entry.size > max_bytes:
            row.drop("over the slice's limit")
        else:
            chosen.append(entry)
            total += entry.size
            row.leave(entry.size)
    return chosen


def split(entries: Iterable[T]) -> dict[str, list[T]]:
    """Hold out whole documents, about 3% of the bytes and at least one, chosen by their keys.

    Documents much larger than the share are never held out.
    """
    by_key = sorted(entries, key=lambda entry: entry.key)
    target = VALID_SHARE * sum(entry.size for entry in by_key)
    smallest = min(by_key, key=lambda entry: entry.size, default=None)
    valid, total = [], 0
    for entry in by_key:
        if total + entry.size <= 1.5 * target and total < target:
            valid.append(entry)
            total += entry.size
    if not valid and len(by_key) > 1:
        valid = [smallest]
    held = {entry.key for entry in valid}
    return {"train": [e for e in by_key if e.key not in held], "valid": valid}


def deduplicate(entries: Iterable[T], row: StepStats, seen: HashSet) -> Iterator[T]:
    """The first of each group of documents with the same key, none of which is in ``seen``.

    ``seen`` grows; shared by all slices, it keeps a text from being in two of them, and so from
    being trained on in one and held out in the other.
    """
    for entry in entries:
        row.enter(entry.size)
        [new] = seen.first_time([hash64(entry.key)])
        if new:
            row.leave(entry.size)
            yield entry
        else:
            row.drop("exact duplicate")


def contaminated(shop: BuildDir, slices: Iterable[str]) -> dict[str, dict[int, str]]:
    """slice -> {place of a document: the benchmark that it repeats}."""
    found = [(name, e.at, e.hits) for name in slices for e in read_entries(shop, name) if e.hits]
    owners = whose([hits for *_, hits in found])
    bad: dict[str, dict[int, str]] = {}
    for (name, at, _), owner in zip(found, owners, strict=True):
        if owner:
            bad.setdefault(name, {})[at] = owner
    return bad


def without(entries: Iterable[Entry], bad: dict[int, str], row: StepStats) -> Iterator[Entry]:
    """The entries whose documents repeat no benchmark."""
    for entry in entries:
        row.enter(entry.size)
        if entry.at in bad:
            row.drop(f"repeats {bad[entry.at]}")
        else:
            row.leave(entry.size)
            yield entry


def choose(shop: BuildDir, folder: Path, slices: list[str], slice_mb: float) -> dict[str, list]:
    """Write text/<slice>.<split>.jsonl for every slice; returns their waterfalls."""
    seen = HashSet(BUFFER)
    bad = contaminated(shop, slices)
    waterfalls = {}
    for name in slices:
        rows = [StepStats("duplicates in all slices"), StepStats("contamination by benchmarks"),
                StepStats("limit of the slice")]  # fmt: skip
        entries = deduplicate(read_entries(shop, name), rows[0], seen)
        entries = without(entries, bad.get(name, {}), rows[1])
        parts = split(cap(entries, int(slice_mb * 1e6), rows[2]))
        waterfalls[name] = report(shop.clean(name)) + rows
        for split_name, part in parts.items():
            _copy(shop.clean(name), part, folder / "text" / f"{name}.{split_name}.jsonl")
    return waterfalls


def _copy(source: Path, entries: list[Entry], target: Path) -> None:
    with atomic_path(target) as aside, open(aside, "wb") as out, open(source, "rb") as file:
        for entry in entries:
            file.seek(entry.at)
            out.write(file.readline())
