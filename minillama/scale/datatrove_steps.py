"""Our steps as steps of datatrove's (Penedo et al., 2024), with the result of the built-in build.

A recipe is cut into stages. Steps that look at one document alone are split among as many tasks as
there are machines to take them; a step that must see all documents of the slice is one task. A task
reads neighboring files and writes one file of documents for each, whole or not at all; so what is
in order stays so, and an interrupted run goes on with the tasks that are not done.

Deduplication by hashes is split too. What such a step asks, which hashes of a document are new,
depends on the document alone, so three stages do it, organized as datatrove's own sentence
deduplication is; here the step itself is unchanged:

1. ``note_hashes``: every task lets the step run and notes what it asks, in a file for each bucket:
   a range of the hashes, which are spread evenly.
2. ``match_hashes``: one task a bucket finds which hash belongs to the first task that asked it, and
   tells every other task of the hashes in it that others have met before.
3. The step itself: every task does its documents in order, with a set that knows those.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import PipelineStats
from datatrove.utils.typeshelper import StatHints
from typing_extensions import override

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
        """All of them."""
        return load_documents(self.path)


Parts = Sequence[Task | FilePart | WrittenPart]


def written_parts(folder: Path, count: int) -> Parts:
    """The parts that a stage writes."""
    return tuple(WrittenPart(folder / f"{number:05d}.jsonl") for number in range(count))


def share(count: int, rank: int, world_size: int) -> range:
    """The neighboring parts that a task does: all parts are done, once, in order of the tasks."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


# The steps. What goes from one to the next are our documents, each with the number of its part.

Items = Iterable[tuple[int, Document]]


class ReadParts(PipelineStep):
    """Reads a task's parts, and counts what cannot be read."""

    type, name = "📖 - READER", "minillama's documents"

    def __init__(self, parts: Parts, context: StepContext) -> None:
        super().__init__()
        self.parts, self.context = parts, context

    @override
    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Items:
        for number in share(len(self.parts), rank, world_size):
            stats = StepStats("read")
            for document in self.parts[number].documents(self.context, stats):
                self.stat_update(StatHints.total)
                yield number, document
            for reason, count in stats.dropped.items():
                self.stat_update(f"dropped_{reason}", value=count)


class RunStep(PipelineStep):
    """Runs one of our steps, and counts what it drops by reason.

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

    @override
    def run(self, data: Items, rank: int = 0, world_size: int = 1) -> Items:
        context = self.context
        if self.known:
            context = replace(context, hashes=lambda: known_hashes(self.known / f"{rank:05d}"))
        stats = StepStats(self.step.name)
        process = self.step.start(context, stats, self._reread)
        for number, document in data:
            self.stat_update(StatHints.total)
            with self.track_time():
                result = process(document) if process else document
            if isinstance(result, Dropped):
                self.stat_update(StatHints.dropped, f"dropped_{result.reason}")
            else:
                self.stat_update(StatHints.forwarded)
                yield number, result
        for kind, count in stats.removed.items():
            self.stat_update(f"removed_{kind}", value=count)

    def _reread(self) -> Iterator[Document]:
        for part in self.parts:
            yield from part.documents(self.context, StepStats(""))


class Call(PipelineStep):
    """Calls ``function(data, rank, world_size)`` with what it needs besides; passes nothing on."""

    type = "minillama"

    def __init__(self, function: Callable[..., None], *needed: object) -> None:
        self.name = function.__name__
        super().__init__()
        self.function = partial(function, *needed)

    @override
    def run(self, data: Items | None = None, rank: int = 0, world_size: int = 1) -> Items:
        self.function(data, rank, world_size)
        return iter(())


def write_parts(parts: Parts, data: Items, rank: int, world_size: int) -> None:
    """Write a file for each part of a task, those without a document too."""
    items = iter(data)
    item = next(items, None)
    for number in share(len(parts), rank, world_size):
        with atomic_path(parts[number].path) as tmp, open(tmp, "w", encoding="utf-8") as file:
            while item and item[0] == number:
                file.write(to_json(item[1]))
                item = next(items, None)


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


def known_hashes(folder: Path) -> HashSet:
    """The set that knows the hashes in a folder, one file a bucket."""
    seen = HashSet()
    seen.know(join_hashes(map(np.load, sorted(folder.iterdir()))))
    return seen


class Noting(HashSet):
    """A set that only keeps what it is asked; to it, all is new."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[np.ndarray] = []

    @override
    def first_time(self, hashes: Iterable[int]) -> list[bool]:
        self.requests.append(np.array(list(hashes), dtype=np.uint64))
        return [True] * len(self.requests[-1])


def note_hashes(
    step: Step, context: StepContext, folder: Path, data: Items, rank: int, world_size: int
) -> None:
    """Stage 1: what a step asks of this task's documents, sorted, a file for each bucket."""
    noting = Noting()
    context = replace(context, hashes=lambda: noting)
    process = step.start(context, StepStats(step.name), lambda: iter(()))
    for _, document in data:
        process(document)
    requests = np.unique(join_hashes(noting.requests))
    bounds = np.searchsorted(requests, bucket_bounds(world_size)[1:])
    for bucket, part in enumerate(np.split(requests, bounds)):
        save_array(folder / "requests" / f"{bucket:05d}" / f"{rank:05d}.npy", part)


def match_hashes(folder: Path, data: None, rank: int, world_size: int) -> None:
    """Stage 2: for one bucket, what of each task's hashes an earlier task has asked before."""
    paths = sorted((folder / "requests" / f"{rank:05d}").iterdir())
    requests = [np.load(path) for path in paths]
    hashes = join_hashes(requests)  # in order of the tasks
    _, first = np.unique(hashes, return_index=True)
    met = np.ones(len(hashes), dtype=bool)
    met[first] = False
    # Each task's own piece of it.
    ends = np.cumsum([len(request) for request in requests])
    for path, request, end in zip(paths, requests, ends, strict=True):
        met_before = request[met[end - len(request) : end]]
        save_array(folder / "met" / path.stem / f"{rank:05d}.npy", met_before)


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
        read, write = ReadParts(parts, context), Call(write_parts, written)
        if tasks > 1 and stage and isinstance(stage[0], BY_HASH):
            [step] = stage
            folder = output / f"hashes{number}"
            yield [read, Call(note_hashes, step, context, folder)], tasks
            yield [Call(match_hashes, folder)], tasks
            yield [read, RunStep(step, context, parts, folder / "met"), write], tasks
        else:
            ours = [RunStep(step, context, parts) for step in stage]
            yield [read, *ours, write], 1 if in_one_task(stage) else tasks
        parts = written


class LocalExecutor(LocalPipelineExecutor):
    """datatrove's executor on this machine, with a pool that notices a worker that was killed.

    Its own, as of version 0.10.1 still one of ``multiprocessing``, waits for it for ever.
    """

    @override
    def run(self) -> None:
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
