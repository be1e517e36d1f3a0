"""Which clean documents make up the corpus: duplicates, contamination, limits, and the split.

All of it is decided on entries (key, size, place), never on texts; then the chosen documents are
copied, in the order of their keys, from each slice's file to text/<slice>.<split>.jsonl. Keys are
SHA-256 digests of the texts, so their order is a shuffle: the same on every machine, it needs no
seed, and new documents come in among the old ones.
"""

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from minillama.corpus.contamination import RUN, owners_of
from minillama.corpus.deduplicate import HashSet, hash64, word_runs
from minillama.corpus.document import read_documents
from minillama.corpus.mixture import OWN_SLICE, mixture
from minillama.corpus.pipeline import BUFFER
from minillama.corpus.statistics import StepStats
from minillama.corpus.text_files import find_cut
from minillama.files import atomic_path, write_text

HELD_SHARE = 0.03
"""Of a slice's bytes, for choices (``valid``) and once more for what is reported (``test``)."""
SOURCE_SHARE = 0.125
"""Of the mixture, by bytes, that one package may give to a slice, so that it is at most 15% of the
tokens that a model reads: packages differ in bytes a token, and some give to two slices."""
SAMPLED = np.uint64(32)
"""One run of words in so many tells whether a document was met before."""
MET, FEWEST = 0.3, 5
"""A document goes if more than this share of its sampled runs was met; of fewer none can tell."""
SLACK = 2
"""So many times the limit is looked at: a document that does not fit gives its place to others."""
OVER = "over the slice's limit"
STEPS = (
    "duplicates in all slices",
    "near duplicates in all slices",
    "contamination by benchmarks",
    "limit of a package",
    "limit of the slice",
)


@dataclass(frozen=True)
class Entry:
    """A clean document's place in its slice's file, and what the choice among them needs."""

    key: str
    size: int
    at: int
    """Where its line begins, in bytes."""
    source: str
    """The package that it is from."""
    runs: list[int]
    """A sample of its hashed runs of words, to know parts of it elsewhere."""
    hits: dict[int, str]
    """Runs of words that it shares with benchmarks, and whose they are."""


class Sized(Protocol):
    """A document or its entry."""

    key: str
    size: int


T = TypeVar("T", bound=Sized)


def cap(entries: Iterable[T], max_bytes: float, stats: StepStats) -> list[T]:
    """At most ``max_bytes`` of a slice: documents in the order of their keys, a fixed sample.

    Memory is bounded by the limit, not by the slice: of all entries only those with the smallest
    keys, ``SLACK`` times the limit together, are held.
    """
    heap: list[tuple[int, int, T]] = []
    held = 0
    for number, entry in enumerate(entries):
        stats.enter(entry.size)
        if entry.size > max_bytes:
            stats.drop(OVER)
            continue
        heapq.heappush(heap, (-int(entry.key, 16), -number, entry))
        held += entry.size
        while held - heap[0][2].size >= SLACK * max_bytes:
            held -= heapq.heappop(heap)[2].size
            stats.drop(OVER)
    # Of those held, the first ones that fit.
    chosen, total = [], 0
    for *_, entry in sorted(heap, key=lambda item: item[:2], reverse=True):
        if total + entry.size > max_bytes:
            stats.drop(OVER)
        else:
            chosen.append(entry)
            total += entry.size
            stats.leave(entry.size)
    return chosen


def split(entries: Iterable[T]) -> dict[str, list[T]]:
    """Hold out whole documents, chosen by their keys: ``valid`` and ``test``, the rest ``train``.

    Each is about 3% of the bytes. Documents much larger than the share are never held out: where
    all are, none is.
    """
    left = sorted(entries, key=lambda entry: entry.key)
    target = HELD_SHARE * sum(entry.size for entry in left)
    parts = {}
    for name in ("valid", "test"):
        held, total = [], 0
        for entry in left:
            if total + entry.size <= 1.5 * target and total < target:
                held.append(entry)
                total += entry.size
        parts[name] = held
        keys = {entry.key for entry in held}
        left = [entry for entry in left if entry.key not in keys]
    return {"train": left, **parts}


def hold_out_tail(train: Path, held_out: Path) -> None:
    """Move about 3% of the text, the end of the longest training document, to the held-out file."""
    sizes = [len(record["text"]) for record in read_documents(train)]
    longest = sizes.index(max(sizes))
    tail = max(1, int(HELD_SHARE * sum(sizes)))
    with atomic_path(train) as tmp, open(tmp, "w", encoding="utf-8") as out:
        for number, record in enumerate(read_documents(train)):
            if number == longest:
                text, end = record["text"], sizes[number] - tail
                cut = find_cut(text, max(1, end - tail), end)
                record["text"] = text[:cut].rstrip()
                held = record | {"text": text[cut:].strip(), "path": f"{record['path']} (its end)"}
                write_text(held_out, json.dumps(held, ensure_ascii=False) + "\n")
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def deduplicate(entries: Iterable[T], stats: StepStats, seen: HashSet) -> Iterator[T]:
    """The first of each group of documents with the same key, none of which is in ``seen``.

    ``seen`` grows; shared by all slices, it keeps a text from being in two of them, and so from
    being trained on in one and held out in the other.
    """
    for entry in entries:
        stats.enter(entry.size)
        [new] = seen.first_time([hash64(entry.key)])
        if new:
            stats.leave(entry.size)
            yield entry
        else:
            stats.drop("exact duplicate")


def sample_runs(text: str) -> list[int]:
    """A fixed sample of a text's hashed runs of words, those whose hash ends in zeros."""
    runs = word_runs(text, RUN)
    return runs[runs % SAMPLED == 0].tolist()


def drop_near_duplicates(
    entries: Iterable[Entry], stats: StepStats, seen: set[int]
) -> Iterator[Entry]:
    """The documents of which no large part stands in earlier ones; ``seen`` holds their runs.

    Documents of any length compare: a page with the book that it is from, once all of the book
    was met in pages.
    """
    for entry in entries:
        stats.enter(entry.size)
        met = sum(run in seen for run in entry.runs)
        if len(entry.runs) >= FEWEST and met > MET * len(entry.runs):
            stats.drop("much of it met before")
        else:
            seen.update(entry.runs)
            stats.leave(entry.size)
            yield entry


def source_limit(sizes: Iterable[int], share: float) -> float:
    """The most bytes of one source, so that after the cut none has more than ``share`` of all.

    With k sources cut to L and R bytes of the others, L = share (k L + R). Infinite if there are
    so few sources that no cut will do.
    """
    largest_first = sorted(sizes, reverse=True)
    for k, size in enumerate(largest_first):
        if k * share >= 1:
            break
        limit = share * sum(largest_first[k:]) / (1 - k * share)
        if size <= limit:
            return limit
    return math.inf


def thin_sources(entries: list[Entry], share: float, stats: StepStats) -> Iterator[Entry]:
    """A sample of the documents of each source that is over its limit; all of the others.

    Sampled by the last digits of the keys, which say nothing of the order of the keys.
    """
    sizes: Counter[str] = Counter()
    for entry in entries:
        sizes[entry.source] += entry.size
    limit = source_limit(sizes.values(), share)
    for entry in entries:
        stats.enter(entry.size)
        if int(entry.key[-12:], 16) / 16**12 < limit / sizes[entry.source]:
            stats.leave(entry.size)
            yield entry
        else:
            stats.drop(f"over {share:.0%} from one package")


def drop_contaminated(
    entries: Iterable[Entry], owners: dict[int, str], stats: StepStats
) -> Iterator[Entry]:
    """The entries whose documents repeat no benchmark; ``owners`` says which do, by place."""
    for entry in entries:
        stats.enter(entry.size)
        if entry.at in owners:
            stats.drop(f"repeats {owners[entry.at]}")
        else:
            stats.leave(entry.size)
            yield entry


def find_contaminated(clean: dict[str, Path]) -> dict[str, dict[int, str]]:
    """slice -> {place of a document: the benchmark that it repeats}, over all slices together."""
    places: list[tuple[str, int]] = []
    hits: list[dict[int, str]] = []
    for name, path in clean.items():
        for entry in read_entries(path):
            if entry.hits:
                places.append((name, entry.at))
                hits.append(entry.hits)
    contaminated: dict[str, dict[int, str]] = {name: {} for name in clean}
    for (name, at), owner in zip(places, owners_of(hits), strict=True):
        if owner:
            contaminated[name][at] = owner
    return contaminated


def read_entries(documents: Path) -> Iterator[Entry]:
    """The entries of a file of clean documents, in its order."""
    with open(documents.with_suffix(".entries"), encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            hits = record.pop("hits").items()
            by_run = {int(run): name for run, name in hits}
            yield Entry(**record, hits=by_run)


def choose_documents(
    clean: dict[str, Path], texts: Path, slice_mb: float
) -> dict[str, list[StepStats]]:
    """Write <slice>.<split>.jsonl for every slice.

    Args:
        clean: slice -> its file of clean documents, with the entries beside it.
        texts: the folder to write to.
        slice_mb: at most so many megabytes of a slice; the user's own texts are all taken.

    Returns:
        slice -> the rows of its waterfall.
    """
    seen, seen_runs = HashSet(BUFFER), set()
    contaminated = find_contaminated(clean)
    shares = mixture(name for name in clean if name != OWN_SLICE)
    waterfalls = {}
    for name, path in clean.items():
        twice, near, tested, one_source, whole = rows = [StepStats(step) for step in STEPS]
        entries = deduplicate(read_entries(path), twice, seen)
        entries = drop_near_duplicates(entries, near, seen_runs)
        entries = drop_contaminated(entries, contaminated[name], tested)
        if shares.get(name, 0) > SOURCE_SHARE:
            entries = thin_sources(list(entries), SOURCE_SHARE / shares[name], one_source)
        else:
            rows.remove(one_source)
        limit = math.inf if name == OWN_SLICE else slice_mb * 1e6
        parts = split(cap(entries, limit, whole))
        waterfalls[name] = rows
        for split_name, part in parts.items():
            _copy_lines(path, part, texts / f"{name}.{split_name}.jsonl")
        train = texts / f"{name}.train.jsonl"
        for split_name in ("test", "valid"):
            if parts["train"] and not parts[split_name]:
                hold_out_tail(train, texts / f"{name}.{split_name}.jsonl")
    return waterfalls


def _copy_lines(source: Path, entries: list[Entry], target: Path) -> None:
    with atomic_path(target) as tmp, open(tmp, "wb") as out, open(source, "rb") as file:
        for entry in entries:
            file.seek(entry.at)
            out.write(file.readline())
