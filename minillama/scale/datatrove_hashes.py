"""Deduplication by hashes on many machines, with the result of one.

A step such as the deduplication of lines asks of each document's hashes, in order, which are new.
Alone it would have to see all documents one after the other. But what it asks depends on the
document alone, so that three stages can do it, each split among all tasks:

1. ``Note``: every task lets the step run and notes what it asks, in a file for each bucket: a
   range of the hashes, which are spread evenly.
2. ``Match``: one task a bucket finds which hash belongs to the first task that asked it, and tells
   every other task of the hashes in it that others have met before.
3. The step itself: every task does its documents in order, with a set that knows those.

This is how datatrove's own sentence deduplication is organized; here the step itself is unchanged.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document as TroveDocument
from datatrove.pipeline.base import PipelineStep

from minillama.corpus.c4 import RepeatedSpans
from minillama.corpus.commoncrawl import RepeatedLines
from minillama.corpus.deduplicate import HashSet
from minillama.corpus.pipeline import ExactDuplicates, Step, StepContext
from minillama.corpus.statistics import StepStats
from minillama.files import atomic_path
from minillama.scale.datatrove_steps import Read, Work, ours

BY_HASH = (ExactDuplicates, RepeatedLines, RepeatedSpans)
"""Steps whose order is only that of the hashes they ask for."""


def by_hash(stage: tuple[Step, ...]) -> bool:
    """Whether a stage is one of those steps."""
    return len(stage) == 1 and isinstance(stage[0], BY_HASH)


def bucket_bounds(buckets: int) -> np.ndarray:
    """Where each bucket begins, of 64-bit hashes: ``(buckets,)`` uint64."""
    return np.array([(number << 64) // buckets for number in range(buckets)], dtype=np.uint64)


class Noting(HashSet):
    """A set that only keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[np.ndarray] = []

    def first_time(self, hashes: Any) -> list[bool]:
        """All are new, as far as it knows."""
        self.asked.append(np.array(list(hashes), dtype=np.uint64))
        return [True] * len(self.asked[-1])


def save_hashes(path: Path, hashes: np.ndarray) -> None:
    """Write an array, whole or not at all."""
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.save(file, hashes)


class Note(PipelineStep):
    """Stage 1: what a step asks of this task's documents, sorted, a file for each bucket."""

    type, name = "📝 - NOTE", "hashes"

    def __init__(self, step: Step, around: StepContext, folder: Path, buckets: int) -> None:
        super().__init__()
        self.step, self.around, self.folder, self.buckets = step, around, folder, buckets

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Pass nothing on."""
        noting = Noting()
        around = replace(self.around, hashes=lambda: noting)
        work = self.step.start(around, StepStats(self.step.name), lambda: iter(()))
        for document in data or ():
            work(ours(document))
        asked = np.unique(np.concatenate([np.zeros(0, np.uint64), *noting.asked]))
        parts = np.split(asked, np.searchsorted(asked, bucket_bounds(self.buckets)[1:]))
        for bucket, part in enumerate(parts):
            save_hashes(self.folder / "asked" / f"{bucket:05d}" / f"{rank:05d}.npy", part)
        yield from ()


class Match(PipelineStep):
    """Stage 2: for one bucket, what of each task's hashes an earlier task has asked before."""

    type, name = "🤝 - MATCH", "hashes"

    def __init__(self, folder: Path, tasks: int) -> None:
        super().__init__()
        self.folder, self.tasks = folder, tasks

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """This task's rank is its bucket."""
        asked = [np.load(self.folder / "asked" / f"{rank:05d}" / f"{task:05d}.npy")
                 for task in range(self.tasks)]  # fmt: skip
        everything = np.concatenate(asked)
        _, first = np.unique(everything, return_index=True)  # in order of the tasks
        met = np.ones(len(everything), dtype=bool)
        met[first] = False
        ends = np.cumsum([len(hashes) for hashes in asked])[:-1]
        for task, (hashes, old) in enumerate(zip(asked, np.split(met, ends), strict=True)):
            save_hashes(self.folder / "met" / f"{task:05d}" / f"{rank:05d}.npy", hashes[old])
        yield from ()


class WorkKnowing(Work):
    """Stage 3: the step, with a set that knows what earlier tasks have met."""

    def __init__(
        self, step: Step, around: StepContext, inputs: Any, folder: Path, buckets: int
    ) -> None:
        super().__init__(step, around, inputs)
        self.folder, self.buckets = folder, buckets

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """What the step makes of the documents."""

        def hashes() -> HashSet:
            seen = HashSet()
            parts = (self.folder / "met" / f"{rank:05d}" / f"{bucket:05d}.npy"
                     for bucket in range(self.buckets))  # fmt: skip
            seen.know(np.concatenate([np.load(part) for part in parts]))
            return seen

        self.around = replace(self.around, hashes=hashes)
        try:
            yield from super().run(data, rank, world_size)
        finally:
            self.around = replace(self.around, hashes=None)


def pipelines(
    step: Step, around: StepContext, inputs: Any, folder: Path, tasks: int
) -> list[list[PipelineStep]]:
    """The steps of the three stages; the last are to be written."""
    return [
        [Read(inputs), Note(step, around, folder, tasks)],
        [Match(folder, tasks)],
        [Read(inputs), WorkKnowing(step, around, inputs, folder, tasks)],
    ]
