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
from minillama.corpus.contamination import Index, benchmark_index
from minillama.corpus.document import Document, to_json, write_documents
from minillama.corpus.mixture import OWN_SLICE
from minillama.corpus.pipeline import Step, StepContext, load_documents, run
from minillama.corpus.recipes import RECIPES, read_documents_of
from minillama.corpus.sources import SliceSpec, Source
from minillama.corpus.split import Entry, sample_runs
from minillama.corpus.statistics import StepStats, merge
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

    def documents(self, context: StepContext, stats: StepStats) -> Iterator[Document]:
        """The documents as they are read, before any step."""
        if self.own:
            return own_documents(self.own, stats)
        skipped: Counter[str] = Counter()
        archive = self.source.find(context.downloads)
        members = read_members(archive, self.spec.members, self.spec.exclude, skipped)
        return read_documents_of(self.source, self.spec, members, stats, skipped)


@dataclass(frozen=True)
class BuildDir:
    """The folder in which the jobs work, and what they need."""

    folder: Path
    context: StepContext

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


def read_report(path: Path) -> list[StepStats] | None:
    """The rows of the waterfall of a job that is done, or None."""
    report = path.with_suffix(".json")
    return [StepStats(**row) for row in read_json(report)] if report.exists() else None


def _write_report(path: Path, rows: list[StepStats]) -> None:
    write_json(path.with_suffix(".json"), [asdict(row) for row in rows])


def independent(steps: tuple[Step, ...]) -> int:
    """How many of the first steps look at one document alone."""
    return next((i for i, s in enumerate(steps) if s.ordered or s.fitted), len(steps))


def index_benchmarks(build_dir: BuildDir) -> None:
    """The job that makes the index of the benchmarks' texts."""
    if not build_dir.index.exists():
        context = build_dir.context
        benchmark_index(context.sources, context.downloads).save(build_dir.index)


def read_package(build_dir: BuildDir, task: Task) -> None:
    """The job that reads one package for one slice."""
    path, context = build_dir.part(task), build_dir.context
    if read_report(path) is not None:
        return
    recipe = RECIPES[task.slice]
    rows = [StepStats("read")]
    documents = task.documents(context, rows[0])
    write_documents(path, run(recipe[: independent(recipe)], documents, rows, context))
    _write_report(path, rows)


def clean_slice(build_dir: BuildDir, slice_name: str, tasks: list[Task]) -> None:
    """The job that runs the steps which need all documents of a slice."""
    path, recipe = build_dir.clean(slice_name), RECIPES[slice_name]
    if read_report(path) is not None:
        return
    parts = [build_dir.part(task) for task in tasks]
    rows: list[StepStats] = []
    documents = chain.from_iterable(map(load_documents, parts))
    cleaned = run(recipe, documents, rows, build_dir.context, done=independent(recipe))
    _write_clean(path, cleaned, Index.load(build_dir.index))
    _write_report(path, merge(map(read_report, parts)) + rows)


def _write_clean(path: Path, documents: Iterable[Document], index: Index) -> None:
    """Write documents, and a line for each that tells its place, key and contamination."""
    entries = path.with_suffix(".entries")
    with (
        atomic_path(entries) as tmp_entries,
        atomic_path(path) as tmp,
        open(tmp_entries, "w", encoding="utf-8") as lines,
        open(tmp, "wb") as file,
    ):
        at = 0
        for document in documents:
            text = document.text
            entry = Entry(
                document.key,
                document.size,
                at,
                document.source,
                sample_runs(text),
                index.hits(text),
            )
            at += file.write(to_json(document).encode())
            lines.write(json.dumps(asdict(entry)) + "\n")


def tasks_of(sources: list[Source], recipe: str, own: Path | None) -> list[Task]:
    """The jobs for a recipe's packages, and for the user's own texts."""
    tasks: list[Task] = []
    for source in sources:
        for spec in source.slices:
            if spec.recipe in ("", recipe):
                tasks.append(Task(len(tasks), spec.slice, source, spec))
    if own:
        tasks.append(Task(len(tasks), OWN_SLICE, own=own))
    return tasks
