"""The paper's seven recipes, step by step in its order (Section 2.1), and how files are read.

One table for every way to run them: the built-in build and the engines for clusters take the steps
of a slice from ``RECIPES``.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from minillama.corpus import (
    arxiv,
    books,
    c4,
    commoncrawl,
    github,
    personal,
    prose,
    records,
    stackexchange,
    wikipedia,
)
from minillama.corpus.document import Document, Members, Texts, no_surrogates
from minillama.corpus.language import WIKIPEDIA_LANGUAGES, Languages
from minillama.corpus.mixture import OWN_SLICE
from minillama.corpus.pipeline import ExactDuplicates, ShortTexts, Step
from minillama.corpus.quality import PerplexityBuckets, References
from minillama.corpus.skip_errors import counted
from minillama.corpus.sources import SliceSpec, Source
from minillama.corpus.statistics import StepStats
from minillama.errors import DataError, nearest

DOCUMENTATION_RULES = c4.C4Rules(curly_brackets=False)
"""All of C4's rules but one: manuals of software write of brackets, and would lose half."""

MASK_CONVERSATIONS = personal.MaskPersonal(("chitchat-dataset",))

RECIPES: dict[str, tuple[Step, ...]] = {
    "commoncrawl": (
        MASK_CONVERSATIONS,
        ShortTexts(),
        commoncrawl.REPEATED_LINES,
        ShortTexts(),
        Languages(("en",)),
        PerplexityBuckets(),
        References(),
    ),
    "c4": (
        c4.UNWRAP,
        c4.Heuristics(DOCUMENTATION_RULES),
        ShortTexts(),
        c4.REPEATED_SPANS,
        commoncrawl.REPEATED_LINES,  # ours: release notes repeat short paragraphs
        ShortTexts(),
        Languages(("en",)),
    ),
    "github": (
        github.Licenses(),
        github.CODE_HEURISTICS,
        github.Headers(),
        ShortTexts(),
        ExactDuplicates(),
    ),
    "wikipedia": (ShortTexts(), Languages(WIKIPEDIA_LANGUAGES)),
    "books": (ShortTexts(), books.OneEdition(), books.NearDuplicates()),
    "arxiv": (ShortTexts(),),
    "stackexchange": (MASK_CONVERSATIONS, ShortTexts()),
    OWN_SLICE: (),
}
"""Slice -> what is done to its documents after they are read."""

VERSIONS = {"readers": 1, "choice of documents": 1, "tokenizer's sample": 1, "token files": 1}
"""Of what surrounds the steps, which have versions of their own. Raise a number when the output
changes: a corpus that was made by another version is built again."""


def recipe_versions() -> list[Any]:
    """All that a corpus depends on in this package: steps with their settings, and versions."""
    steps = [
        (name, type(step).__name__, repr(step), step.version)
        for name, recipe in RECIPES.items()
        for step in recipe
    ]
    return [steps, sorted(VERSIONS.items())]


@dataclass(frozen=True)
class Size:
    """How much a recipe takes."""

    slice_mb: float
    """At most so many megabytes of text a slice."""
    budget: int
    """Training tokens for which its Table 1 states the epochs."""


SIZES = {
    "nano": Size(10.0, 4_800_000),
    "small": Size(100.0, 56_000_000),
    "mini": Size(100.0, 100_000_000),
}
"""``nano``: what minutes of training read. ``small``: all that the default packages have. ``mini``:
those that are larger too."""


Reader = Callable[[Members, Counter[str]], Texts]


def by_file(read: Callable[[Members], Texts]) -> Reader:
    """A reader that takes files one by one, so that a damaged one costs no other."""
    return by_part(lambda members, skipped: read(members))


def by_part(read: Reader) -> Reader:
    """The same of a reader that counts what it passes over within a file."""

    def reader(members: Members, skipped: Counter[str]) -> Texts:
        for path, content in members:
            with counted(skipped):  # whatever a file holds, the rest is built
                yield from read([(path, content)], skipped)

    return reader


def crawl(members: Members, skipped: Counter[str]) -> Texts:
    """One document a page of WARC or WET files."""
    for path, content in members:
        for address, text in commoncrawl.warc_pages(content, skipped):
            yield f"{path}#{address}", text


READERS: dict[str, Reader] = {
    "answers": by_file(partial(records.talk, best=True)),
    "anthology": by_file(prose.anthology),
    "bible": by_file(books.bible),
    "bible_table": by_file(records.bible_table),
    "conversations": by_file(stackexchange.conversations),
    "crawl": crawl,
    "factbook": by_file(records.factbook),
    "glosses": by_file(records.glosses),
    "gutenberg": by_file(books.gutenberg),
    "html": by_file(commoncrawl.html),
    "json_lines": by_file(records.json_lines),
    "latex": arxiv.latex,
    "posts": by_part(stackexchange.stackexchange),
    "prose": by_file(prose.prose),
    "python": by_file(github.python),
    "recipes": by_file(records.recipes),
    "rst": by_file(c4.rst),
    "services": by_file(records.service_documentation),
    "speeches": by_file(records.speeches),
    "summaries": by_file(records.summaries),
    "talk": by_file(partial(records.talk, best=False)),
    "text_lines": by_file(records.text_lines),
    "wikipedia": by_part(wikipedia.wikipedia),
}
"""Names in sources.toml -> functions from files to texts; what cannot be read is counted."""


def read_documents_of(
    source: Source, spec: SliceSpec, members: Members, stats: StepStats, skipped: Counter[str]
) -> Iterator[Document]:
    """The documents in the files of a package, before any step.

    Args:
        source: the package.
        spec: the slice, and its reader.
        members: the files.
        stats: counts files in and documents out.
        skipped: counts what cannot be read; in the end it goes to ``stats``.
    """

    def entering() -> Members:
        for path, content in members:
            stats.enter(len(content))
            yield path, content

    if spec.reader not in READERS:
        hint = nearest(spec.reader, READERS)
        raise DataError(f"unknown reader '{spec.reader}' for {source.pin}", hint)
    for path, text in READERS[spec.reader](entering(), skipped):
        document = Document(no_surrogates(text), spec.slice, source.pin, no_surrogates(path))
        stats.leave(document.size)
        yield document
    for reason, count in skipped.items():
        stats.drop(reason, count)
