"""The steps that recipes are made of: each takes a document, and changes, keeps or drops it.

A step is a frozen dataclass of plain values: it can be pickled, compared and written down. Most are
one pure function, ``Document -> Document | Dropped`` (``EachDocument``). The others make what they
need (a model, the lines met so far) in ``start``, in the process that runs them: those marked
``ordered`` remember what they have met, so one process must show them all documents of the slice in
order; those marked ``fitted`` read all of them once beforehand.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from minillama.corpus.deduplicate import HashSet, hash64
from minillama.corpus.document import Document, Dropped, read_documents, write_documents
from minillama.corpus.sources import DOWNLOADS, SOURCES
from minillama.corpus.statistics import StepStats

ProcessFn = Callable[[Document], Document | Dropped]
Reread = Callable[[], Iterator[Document]]
MIN_BYTES = 200
"""Shorter documents are headings and stubs."""
BUFFER = 50_000
"""Hashes that a step holds in memory before they go to disk."""


@dataclass(frozen=True)
class StepContext:
    """What a step may need besides the documents."""

    sources: Path = SOURCES
    downloads: Path = DOWNLOADS
    wikipedia: Path | None = None
    """The clean Wikipedia slice (JSON lines), if there is one."""
    scratch: Path | None = None
    """A folder for what does not fit into memory; a temporary one by default."""
    hashes: Callable[[], HashSet] | None = None
    """Makes the sets of hashes, where they must know of what other machines have met."""


@dataclass(frozen=True)
class Step:
    """One step of a recipe."""

    name: ClassVar[str]
    """As it stands in the waterfall."""
    version: ClassVar[int] = 1
    """Raised when the step's output changes: a corpus made by another version is built again."""
    ordered: ClassVar[bool] = False
    fitted: ClassVar[bool] = False

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn | None:
        """Make what the step needs; a step that needs nothing has only ``process``.

        Args:
            context: where things are.
            stats: parts removed and facts are counted there; the runner counts the documents.
            reread: reads all documents that the step will be shown; only for ``fitted`` steps.

        Returns:
            The function that does the work; None if it cannot be done here: ``stats.note`` says
            why.
        """
        return partial(self.process, stats=stats)

    def process(self, document: Document, stats: StepStats) -> Document | Dropped:
        """What becomes of one document."""
        raise TypeError(f"{type(self).__name__} has neither start nor process")


@dataclass(frozen=True)
class EachDocument(Step):
    """A step that is one pure function of a document."""

    name: str
    function: ProcessFn = field(repr=False)
    """Defined at the top of a module, or a ``partial`` of one that is: it is pickled."""
    version: int = field(default=1, kw_only=True)

    def process(self, document: Document, stats: StepStats) -> Document | Dropped:
        """Apply the function."""
        return self.function(document)


@dataclass(frozen=True)
class ShortTexts(Step):
    """Documents of a few words are headings and stubs."""

    name: ClassVar[str] = "length"
    min_bytes: int = MIN_BYTES

    def process(self, document: Document, stats: StepStats) -> Document | Dropped:
        """Drop short documents."""
        return document if document.size >= self.min_bytes else Dropped("too short")


@dataclass(frozen=True)
class ExactDuplicates(Step):
    """Documents with the same text, but for case and spacing: the first stays."""

    name: ClassVar[str] = "exact-match deduplication"
    ordered: ClassVar[bool] = True

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """Return a function that remembers the keys it has met."""
        seen = fresh_hashes(context)

        def drop_duplicate(document: Document) -> Document | Dropped:
            [new] = seen.first_time([hash64(document.key)])
            return document if new else Dropped("exact duplicate")

        return drop_duplicate


@dataclass(frozen=True)
class RepeatedParts(Step):
    """Parts of texts that were met before go, in this document or any earlier one."""

    name: str
    function: Callable[[str, HashSet], tuple[str, int]] = field(repr=False)
    """From a text to what is left of it, and how many parts went."""
    parts: str
    ordered: ClassVar[bool] = True

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """Return a function that remembers the parts it has met."""
        seen = fresh_hashes(context)

        def drop_repeated(document: Document) -> Document:
            text, count = self.function(document.text, seen)
            stats.remove(self.parts, count)
            return document.with_text(text)

        return drop_repeated


def run(
    steps: Sequence[Step],
    documents: Iterator[Document],
    rows: list[StepStats],
    context: StepContext,
    done: int = 0,
) -> Iterator[Document]:
    """Send documents through steps, one at a time; each step's statistics are added to ``rows``.

    The rows are complete when the iterator is at its end. Only ``fitted`` steps keep the
    documents, on disk.

    Args:
        steps: a recipe.
        documents: in their order.
        rows: the waterfall so far.
        context: where things are.
        done: so many of the first steps were run before.
    """
    names = [step.name for step in steps]
    for number in range(done, len(steps)):
        earlier = names[:number].count(names[number])
        stats = StepStats(names[number] + " again" * earlier)
        rows.append(stats)
        documents = _run_step(steps[number], documents, stats, context)
    return documents


def _run_step(
    step: Step, documents: Iterator[Document], stats: StepStats, context: StepContext
) -> Iterator[Document]:
    reread: Reread = lambda: iter(())  # noqa: E731
    if step.fitted:
        documents, reread = _keep_on_disk(documents, context)
    process = step.start(context, stats, reread)
    for document in documents:
        stats.enter(document.size)
        result = process(document) if process else document
        if isinstance(result, Dropped):
            stats.drop(result.reason)
        else:
            stats.leave(result.size)
            yield result


def _keep_on_disk(
    documents: Iterator[Document], context: StepContext
) -> tuple[Iterator[Document], Reread]:
    """Write documents to disk, so that they can be read more than once."""
    folder = tempfile.TemporaryDirectory(dir=context.scratch)
    path = Path(folder.name, "documents.jsonl")
    write_documents(path, documents)

    def once() -> Iterator[Document]:
        with folder:
            yield from load_documents(path)

    return once(), lambda: load_documents(path)


def load_documents(path: Path) -> Iterator[Document]:
    """The documents of a file that ``write_documents`` made."""
    for record in read_documents(path):
        yield Document(record["text"], record["slice"], record["source"], record["path"])


def fresh_hashes(context: StepContext) -> HashSet:
    """A set of hashes, empty unless other machines have met some, in a folder of its own."""
    if context.hashes:
        return context.hashes()
    if context.scratch is None:
        return HashSet(BUFFER)
    return HashSet(BUFFER, Path(tempfile.mkdtemp(dir=context.scratch)))
