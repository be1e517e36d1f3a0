"""The steps that recipes are made of: each takes a document, and changes, keeps or drops it.

A step is a frozen dataclass of plain values: it can be pickled, compared and written down. What it
needs to run (a model, the lines met so far) is made by ``start``, in the process that runs it. Most
steps look at one document alone and can run anywhere; those marked ``ordered`` remember what they
have met, so one process must show them all documents of the slice in order; those marked
``fitted`` read all of them once beforehand.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from minillama.corpus.document import Document, Dropped
from minillama.corpus.hash_set import HashSet, hash64
from minillama.corpus.language import PACKAGE, LanguageModel
from minillama.corpus.statistics import StepStats
from minillama.corpus.token_files import read_documents, write_documents
from minillama.scale.sources import DOWNLOADS, SOURCES, load_sources

Work = Callable[[Document], Document | Dropped]
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
    ordered: ClassVar[bool] = False
    fitted: ClassVar[bool] = False

    def start(self, around: StepContext, row: StepStats, reread: Reread) -> Work | None:
        """Make what the step needs.

        Args:
            around: where things are.
            row: counts of parts removed and facts go there; documents are counted by the runner.
            reread: reads all documents that the step will be shown; only for ``fitted`` steps.

        Returns:
            The function that does the work; None if it cannot be done here: ``row.note`` says why.
        """
        raise TypeError(f"{type(self).__name__} does nothing")


@dataclass(frozen=True)
class ShortTexts(Step):
    """Documents of a few words are headings and stubs."""

    name: ClassVar[str] = "length"
    min_bytes: int = MIN_BYTES

    def start(self, around: StepContext, row: StepStats, reread: Reread) -> Work:
        """See ``Step.start``."""
        return lambda document: (
            document if document.size >= self.min_bytes else Dropped("too short")
        )


@dataclass(frozen=True)
class ExactDuplicates(Step):
    """Documents with the same text, but for case and spacing: the first stays."""

    name: ClassVar[str] = "exact-match deduplication"
    ordered: ClassVar[bool] = True

    def start(self, around: StepContext, row: StepStats, reread: Reread) -> Work:
        """See ``Step.start``."""
        seen = fresh_hashes(around)

        def work(document: Document) -> Document | Dropped:
            [new] = seen.first_time([hash64(document.key)])
            return document if new else Dropped("exact duplicate")

        return work


@dataclass(frozen=True)
class Languages(Step):
    """fastText's language identification: documents in these languages stay."""

    name: ClassVar[str] = "language identification"
    languages: tuple[str, ...] = ("en",)
    threshold: float = 0.5

    def start(self, around: StepContext, row: StepStats, reread: Reread) -> Work | None:
        """See ``Step.start``."""
        if all(source.name != PACKAGE for source in load_sources(around.sources)):
            row.note = f"not run: {PACKAGE} is not among the packages"
            return None
        model = LanguageModel.find(around.downloads, around.sources)

        def work(document: Document) -> Document | Dropped:
            guess = model.guess(document.text)
            if guess.probability < self.threshold:
                return Dropped("no language with certainty")
            if guess.language not in self.languages:
                return Dropped("another language")
            found[guess.language] = found.get(guess.language, 0) + 1
            return document

        found: dict[str, int] = row.facts
        return work


def run(
    steps: Sequence[Step],
    documents: Iterator[Document],
    rows: list[StepStats],
    around: StepContext,
    done: int = 0,
) -> Iterator[Document]:
    """Send documents through steps, one at a time; a row for each step is added to ``rows``.

    The rows are complete when the iterator is at its end. Only ``fitted`` steps keep the
    documents, on disk.

    Args:
        steps: a recipe.
        documents: in their order.
        rows: the waterfall so far.
        around: where things are.
        done: so many of the first steps were run before.
    """
    for number, step in enumerate(steps[done:], start=done):
        times = sum(type(other) is type(step) for other in steps[:number])
        rows.append(StepStats(step.name + " again" * times))
        documents = _through(step, documents, rows[-1], around)
    return documents


def _through(
    step: Step, documents: Iterator[Document], row: StepStats, around: StepContext
) -> Iterator[Document]:
    reread: Reread = lambda: iter(())  # noqa: E731
    if step.fitted:
        documents, reread = _keep(documents, around)
    work = step.start(around, row, reread)
    for document in documents:
        row.enter(document.size)
        done = work(document) if work else document
        if isinstance(done, Dropped):
            row.drop(done.reason)
        else:
            row.leave(done.size)
            yield done


def _keep(documents: Iterator[Document], around: StepContext) -> tuple[Iterator[Document], Reread]:
    """Write documents to disk, so that they can be read more than once."""
    aside = tempfile.TemporaryDirectory(dir=around.scratch)
    path = Path(aside.name, "documents.jsonl")
    write_documents(path, documents)

    def reread() -> Iterator[Document]:
        return load_documents(path)

    def once() -> Iterator[Document]:
        with aside:
            yield from reread()

    return once(), reread


def load_documents(path: Path) -> Iterator[Document]:
    """The documents of a file that ``write_documents`` made."""
    for record in read_documents(path):
        yield Document(record["text"], record["slice"], record["source"], record["path"])


def fresh_hashes(around: StepContext) -> HashSet:
    """A set of hashes, empty unless other machines have met some, in a folder of its own."""
    if around.hashes:
        return around.hashes()
    folder = tempfile.mkdtemp(dir=around.scratch) if around.scratch else None
    return HashSet(BUFFER, Path(folder) if folder else None)


def changed(document: Document, text: str) -> Document:
    """The document with another text."""
    return document if text == document.text else replace(document, text=text)
