"""Our steps as steps of datatrove's (Penedo et al., 2024), with the result of the built-in build.

A recipe is cut into stages. Steps that look at one document alone are split among as many tasks as
there are machines to take them; a step that must see all documents of the slice is one task. A task
reads neighboring files and writes one file of documents for each, whole or not at all; so what is
in order stays so, and an interrupted run goes on with the tasks that are not done.

Deduplication by hashes is split too. What such a step asks, which hashes of a document are new,
depends on the document alone, so three stages do it, organized as datatrove's own sentence
deduplication is; here the step itself is unchanged:

1. ``NoteHashes``: every task lets the step run and notes what it asks, in a file for each bucket: a
   range of the hashes, which are spread evenly.
2. ``MatchHashes``: one task a bucket finds which hash belongs to the first task that asked it, and
   tells every other task of the hashes in it that others have met before.
3. The step itself: every task does its documents in order, with a set that knows those.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document as TroveDocument
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats
from datatrove.utils.typeshelper import StatHints

from minillama.corpus.commoncrawl import crawled_pages
from minillama.corpus.deduplicate import HashSet
from minillama.corpus.document import Document, Dropped, no_surrogates, to_json
from minillama.corpus.pipeline import (
    ExactDuplicates,
    RepeatedParts,
    Step,
    StepContext,
    load_documents,
)
from minillama.corpus.recipes import READERS
from minillama.corpus.statistics import StepStats
from minillama.files import atomic_path
from minillama.scale.clean import Task
from minillama.scale.pool import pool

BY_HASH = (ExactDuplicates, RepeatedParts)
"""Steps whose order is only that of the hashes they ask for."""

# Parts: what is read as one, and written as one; those of packages are tasks of the built-in build.


@dataclass(frozen=True)
class FilePart:
    """A file in a folder, such as one of the crawl's."""

    folder: Path
    name: str
    slice: str
    reader: str

    def documents(self, context: StepContext, stats: StepStats) -> Iterator[Document]:
        """What it holds, before any step; what cannot be read is counted."""
        skipped: Counter[str] = Counter()
        with open(self.folder / self.name, "rb") as file:
            if self.reader == "crawl":  # too large for memory
                pages = crawled_pages(file, skipped)
                texts = ((f"{self.name}#{address}", text) for address, text in pages)
            else:
                texts = READERS[self.reader]([(self.name, file.read())], skipped)
            for place, text in texts:
                text, place = no_surrogates(text), no_surrogates(place)
                yield Document(text, self.slice, self.folder.name, place)
        for reason, count in skipped.items():
            stats.drop(reason, count)


@dataclass(frozen=True)
class WrittenPart:
    """What an earlier stage wrote."""

    path: Path

    def documents(self, context: StepContext, stats: StepStats) -> Iterator[Document]:
        """Its documents."""
        return load_documents(self.path)


Parts = Sequence[Task | FilePart | WrittenPart]


def written_parts(folder: Path, count: int) -> Parts:
    """The parts that a stage writes."""
    return tuple(WrittenPart(folder / f"{number:05d}.jsonl") for number in range(count))


def share(count: int, rank: int, world_size: int) -> range:
    """The neighboring parts that a task does: all parts are done, once, in order of the tasks."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


# The steps. A document of datatrove's carries ours in its metadata, and the part that it is of.


def to_trove(document: Document, part: int, number: int) -> TroveDocument:
    """Our document as datatrove's."""
    origin = {"slice": document.slice, "source": document.source, "path": document.path}
    return TroveDocument(document.text, f"{part}/{number}", metadata={**origin, "part": part})


def from_trove(document: TroveDocument) -> Document:
    """datatrove's document as ours."""
    origin = document.metadata
    return Document(document.text, origin["slice"], origin["source"], origin["path"])


class Read(PipelineStep):
    """The documents of a task's parts."""

    type, name = "📖 - READER", "minillama's documents"

    def __init__(self, parts: Parts, context: StepContext) -> None:
        super().__init__()
        self.parts, self.context = parts, context

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Yield the documents, and count what cannot be read."""
        for part in share(len(self.parts), rank, world_size):
            stats = StepStats("read")
            documents = self.parts[part].documents(self.context, stats)
            for number, document in enumerate(documents):
                self.stat_update(StatHints.total)
                yield to_trove(document, part, number)
            for reason, count in stats.dropped.items():
                self.stat_update(f"dropped_{reason}", value=count)


class RunStep(PipelineStep):
    """One of our steps.

    Args:
        step: the step.
        context: where things are.
        parts: all parts of the stage, for a step that reads them beforehand.
        known: a folder of the hashes that earlier tasks have met, by task and bucket.
    """

    type = "🔻 - STEP"

    def __init__(
        self, step: Step, context: StepContext, parts: Parts, known: Path | None = None
    ) -> None:
        self.name = step.name
        super().__init__()
        self.step, self.context, self.parts, self.known = step, context, parts, known

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Yield what the step makes of the documents; those it drops are counted by reason."""
        stats = StepStats(self.step.name)
        context = replace(self.context, hashes=lambda: self._known_hashes(rank))
        process = self.step.start(context if self.known else self.context, stats, self._reread)
        for trove_document in data or ():
            self.stat_update(StatHints.total)
            document = from_trove(trove_document)
            with self.track_time():
                result = process(document) if process else document
            if isinstance(result, Dropped):
                self.stat_update(StatHints.dropped, f"dropped_{result.reason}")
                continue
            trove_document.text = result.text
            self.stat_update(StatHints.forwarded)
            self.update_doc_stats(trove_document)
            yield trove_document
        for kind, count in stats.removed.items():
            self.stat_update(f"removed_{kind}", value=count)

    def _known_hashes(self, rank: int) -> HashSet:
        buckets = sorted((self.known / f"{rank:05d}").iterdir())
        seen = HashSet()
        seen.know(join_hashes(map(np.load, buckets)))
        return seen

    def _reread(self) -> Iterator[Document]:
        for part in self.parts:
            yield from part.documents(self.context, StepStats(""))


class Write(PipelineStep):
    """A file of documents for each part, in the form of the built-in build."""

    type, name = "💽 - WRITER", "minillama's parts"

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Write this task's parts, those without a document too, and pass all on."""
        by_part = groupby(data or (), key=lambda document: document.metadata["part"])
        group = next(by_part, None)
        for part in share(len(self.parts), rank, world_size):
            path = self.parts[part].path
            with atomic_path(path) as tmp, open(tmp, "w", encoding="utf-8") as file:
                if group is None or group[0] != part:
                    continue
                for document in group[1]:
                    file.write(to_json(from_trove(document)))
                    self.stat_update(StatHints.total)
                    yield document
            group = next(by_part, None)


# Deduplication by hashes.


def bucket_bounds(buckets: int) -> np.ndarray:
    """Where each bucket begins, of 64-bit hashes: ``(buckets,)`` uint64."""
    return np.array([(number << 64) // buckets for number in range(buckets)], dtype=np.uint64)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array, whole or not at all."""
    with atomic_path(path) as tmp, open(tmp, "wb") as file:
        np.save(file, array)


def join_hashes(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays of hashes one after the other, of which there may be none."""
    return np.concatenate([np.zeros(0, np.uint64), *arrays])


class Noting(HashSet):
    """A set that only keeps what it is asked; to it, all is new."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[np.ndarray] = []

    def first_time(self, hashes: Iterable[int]) -> list[bool]:
        """Keep the hashes."""
        self.requests.append(np.array(list(hashes), dtype=np.uint64))
        return [True] * len(self.requests[-1])


class NoteHashes(PipelineStep):
    """Stage 1: what a step asks of this task's documents, sorted, a file for each bucket."""

    type, name = "📝 - NOTE", "hashes"

    def __init__(self, step: Step, context: StepContext, folder: Path, buckets: int) -> None:
        super().__init__()
        self.step, self.context, self.folder, self.buckets = step, context, folder, buckets

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Pass nothing on."""
        noting = Noting()
        context = replace(self.context, hashes=lambda: noting)
        process = self.step.start(context, StepStats(self.step.name), lambda: iter(()))
        for document in data or ():
            process(from_trove(document))
        requests = np.unique(join_hashes(noting.requests))
        bounds = np.searchsorted(requests, bucket_bounds(self.buckets)[1:])
        for bucket, part in enumerate(np.split(requests, bounds)):
            folder = self.folder / "requests" / f"{bucket:05d}"
            save_array(folder / f"{rank:05d}.npy", part)
        yield from ()


class MatchHashes(PipelineStep):
    """Stage 2: for one bucket, what of each task's hashes an earlier task has asked before."""

    type, name = "🤝 - MATCH", "hashes"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Pass nothing on; this task's rank is its bucket."""
        paths = sorted((self.folder / "requests" / f"{rank:05d}").iterdir())
        requests = [np.load(path) for path in paths]
        hashes = join_hashes(requests)  # in order of the tasks
        _, first = np.unique(hashes, return_index=True)
        met = np.ones(len(hashes), dtype=bool)
        met[first] = False
        end = 0
        for path, request in zip(paths, requests, strict=True):
            begin, end = end, end + len(request)
            met_before = request[met[begin:end]]
            save_array(self.folder / "met" / path.stem / f"{rank:05d}.npy", met_before)
        yield from ()


# Stages.


def in_one_task(stage: Sequence[Step]) -> bool:
    """Whether a stage cannot be split."""
    return any(step.ordered or step.fitted for step in stage)


def cut_stages(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """A recipe's steps in stages: those that look at one document alone together, each other one by
    itself."""
    stages: list[tuple[Step, ...]] = []
    for step in steps:
        if stages and not in_one_task([*stages[-1], step]):
            stages[-1] += (step,)
        else:
            stages.append((step,))
    return stages or [()]


def plan_stages(
    parts: Parts, steps: Sequence[Step], context: StepContext, output: Path, max_tasks: int
) -> Iterator[tuple[list[PipelineStep], int]]:
    """The pipelines of a recipe and their numbers of tasks; the last writes ``clean``."""
    stages = cut_stages(steps)
    tasks = min(max_tasks, len(parts))
    for number, stage in enumerate(stages):
        name = "clean" if number == len(stages) - 1 else f"stage{number}"
        written = written_parts(output / name, len(parts))
        read, write = Read(parts, context), Write(written)
        if tasks > 1 and stage and isinstance(stage[0], BY_HASH):
            folder = output / f"hashes{number}"
            yield [read, NoteHashes(stage[0], context, folder, tasks)], tasks
            yield [MatchHashes(folder)], tasks
            step = RunStep(stage[0], context, parts, known=folder / "met")
            yield [read, step, write], tasks
        else:
            ours = [RunStep(step, context, parts) for step in stage]
            yield [read, *ours, write], 1 if in_one_task(stage) else tasks
        parts = written


class LocalExecutor(LocalPipelineExecutor):
    """datatrove's executor on this machine, with a pool that notices a worker that was killed.

    Its own, as of version 0.10.1 still one of ``multiprocessing``, waits for it for ever.
    """

    def run(self) -> None:
        """Run the tasks that are not done. Raises ``DataError`` if a process was killed."""
        if self.depends:
            self.depends.run()
        ranks = self.get_incomplete_ranks()
        if not ranks:
            return
        self.save_executor_as_json()
        with pool(self.workers, "datatrove") as run:
            stats = sum(run(self._run_copy, ranks), start=PipelineStats())
        with self.logging_dir.open("stats.json", "wt") as file:
            stats.save_to_disk(file)

    def _run_copy(self, rank: int) -> PipelineStats:
        return deepcopy(self)._run_for_rank(rank)
