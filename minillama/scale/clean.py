"""From packages to clean documents: read, and run each slice's recipe, in jobs that can be resumed.

A job reads one package for one slice and runs the steps that look at one document alone. When all
are done, a job for each slice runs the steps that must see all of its documents. A job's report is
written last, so that a job with a report is done, and a build that was stopped goes on after it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from minillama.corpus.archive import read_members
from minillama.corpus.benchmarks import benchmark_index
from minillama.corpus.contamination import Index
from minillama.corpus.document import Document
from minillama.corpus.mixture import OWN_SLICE
from minillama.corpus.pipeline import Step, StepContext, load_documents, run
from minillama.corpus.recipes import RECIPES, read_documents_of
from minillama.corpus.sources import SliceSpec, Source
from minillama.corpus.statistics import StepStats, merge
from minillama.corpus.token_files import to_json, write_documents
from minillama.files import atomic_path, read_json, write_json
from minillama.scale.user_texts import own_documents


@dataclass(frozen=True)
class Task:
    """What one package, or the user's own folder, gives to one slice."""

    number: int
    slice: str
    source: Source | None = None
    spec: SliceSpec | None = None
    own: Path | None = None

    def documents(self, around: StepContext, row: StepStats) -> Iterator[Document]:
        """The documents as they are read, before any step."""
        if self.own:
            return own_documents(self.own, row)
        skipped: Counter[str] = Counter()
        archive, spec = self.source.find(around.downloads), self.spec
        members = read_members(archive, list(spec.members), list(spec.exclude), skipped)
        return read_documents_of(self.source, spec, members, row, skipped)


@dataclass(frozen=True)
class BuildDir:
    """The folder in which the jobs work, and what they need."""

    folder: Path
    around: StepContext

    @property
    def index(self) -> Path:
        """The runs of words of all benchmarks."""
        return self.folder / "benchmarks.npz"

    def part(self, task: Task) -> Path:
        """What a task read; its report lies beside it, as .json."""
        return self.folder / "read" / f"{task.number:03}.{task.slice}.jsonl"

    def clean(self, slice_name: str) -> Path:
        """The clean documents of a slice; entries and report lie beside them."""
        return self.folder / "clean" / f"{slice_name}.jsonl"


@dataclass(frozen=True)
class Entry:
    """A clean document's place in its slice's file, and what the choice among them needs."""

    key: str
    size: int
    at: int
    """Where its line begins, in bytes."""
    hits: dict[int, str]
    """Runs of words that it shares with benchmarks, and whose they are."""


def report(path: Path) -> list[StepStats] | None:
    """The rows of the waterfall of a job that is done, or None."""
    done = path.with_suffix(".json")
    return [StepStats(**row) for row in read_json(done)] if done.exists() else None


def alone(steps: tuple[Step, ...]) -> int:
    """How many of the first steps look at one document alone."""
    return next((i for i, s in enumerate(steps) if s.ordered or s.fitted), len(steps))


def index_benchmarks(shop: BuildDir) -> None:
    """The job that makes the index of the benchmarks' texts."""
    if not shop.index.exists():
        benchmark_index(shop.around.sources, shop.around.downloads).save(shop.index)


def read_package(shop: BuildDir, task: Task) -> None:
    """The job that reads one package for one slice."""
    path = shop.part(task)
    if report(path) is not None:
        return
    steps = RECIPES[task.slice][: alone(RECIPES[task.slice])]
    rows = [StepStats("read")]
    documents = run(steps, task.documents(shop.around, rows[0]), rows, shop.around)
    write_documents(path, documents)
    write_json(path.with_suffix(".json"), [asdict(row) for row in rows])


def clean_slice(shop: BuildDir, slice_name: str, tasks: list[Task]) -> None:
    """The job that runs the steps which need all documents of a slice."""
    path = shop.clean(slice_name)
    if report(path) is not None:
        return
    steps = RECIPES[slice_name]
    done = alone(steps)
    rows: list[StepStats] = []
    parts = chain.from_iterable(load_documents(shop.part(task)) for task in tasks)
    documents = run(steps, parts, rows, shop.around, done)
    _write_clean(path, documents, Index.load(shop.index))
    before = merge(report(shop.part(task)) for task in tasks)
    write_json(path.with_suffix(".json"), [asdict(row) for row in before + rows])


def _write_clean(path: Path, documents: Iterable[Document], index: Index) -> None:
    """Write documents, and a line for each that tells its place, key and contamination."""
    entries = path.with_suffix(".entries")
    with (
        atomic_path(entries) as list_aside, open(list_aside, "w", encoding="utf-8") as lines,
        atomic_path(path) as aside, open(aside, "wb") as file,
    ):  # fmt: skip
        at = 0
        for document in documents:
            entry = Entry(document.key, document.size, at, index.hits(document.text))
            at += file.write(to_json(document).encode())
            lines.write(json.dumps(asdict(entry)) + "\n")


def read_entries(shop: BuildDir, slice_name: str) -> Iterator[Entry]:
    """The entries of a clean slice, in the order of its documents."""
    with open(shop.clean(slice_name).with_suffix(".entries"), encoding="utf-8") as lines:
        for line in lines:
            told = json.loads(line)
            yield Entry(**told | {"hits": {int(run): name for run, name in told["hits"].items()}})


def tasks_of(sources: list[Source], recipe: str, own: Path | None) -> list[Task]:
    """The jobs for a recipe's packages, and for the user's own texts."""
    pairs = [
        (source, spec) for source in sources for spec in source.slices
        if spec.recipe in ("", recipe)
    ]  # fmt: skip
    tasks = [Task(i, spec.slice, source, spec) for i, (source, spec) in enumerate(pairs)]
    return tasks + ([Task(len(tasks), OWN_SLICE, own=own)] if own else [])
