"""The Books slice: Gutenberg texts and the King James Bible, no two of which are nearly the same.

Section 2.1: "We perform deduplication at the book level, removing books with more than 90% content
overlap."
"""

import json
import re
import tempfile
from dataclasses import dataclass
from typing import ClassVar

from minillama.corpus.deduplicate import THRESHOLD, Library
from minillama.corpus.document import Document, Dropped, Members, Texts, decode_text, tidy
from minillama.corpus.pipeline import ProcessFn, Reread, Step, StepContext
from minillama.corpus.statistics import StepStats

START = re.compile(
    r"\*\*\* ?START OF (THE|THIS) PROJECT GUTENBERG.*?\*\*\*|\*END\*THE SMALL PRINT.*"
)
END = re.compile(
    r"\*\*\* ?END OF (THE|THIS) PROJECT GUTENBERG|^End of (the )?Project Gutenberg", re.M
)


def strip_gutenberg(text: str) -> str:
    """The book itself: without Project Gutenberg's header and footer, if it has them."""
    text = tidy(text)
    if start := START.search(text):
        text = text[start.end() :]
    if end := END.search(text):
        text = text[: end.start()]
    return tidy(text)


def gutenberg(members: Members) -> Texts:
    """One document a book."""
    for path, content in members:
        if not path.endswith("metadata.txt"):
            yield path, strip_gutenberg(decode_text(content))


def bible(members: Members) -> Texts:
    """One document a book of the Bible: a heading for each chapter, then its numbered verses."""
    for path, content in members:
        books: dict[str, list[str]] = {}
        for line in content.decode("utf-8").splitlines():
            verse = json.loads(line)
            lines = books.setdefault(verse["book"], [verse["book"]])
            if verse["verse"] == 1:
                lines.append(f"\nChapter {verse['chapter']}\n")
            lines.append(f"{verse['verse']} {verse['text']}")
        for book, lines in books.items():
            yield f"{path}#{book}", "\n".join(lines)


@dataclass(frozen=True)
class OneEdition(Step):
    """Our own rule: of a play in two spellings, the modern one.

    The First Folio editions overlap with the modern ones by 13 to 18%, so that the paper's rule
    keeps both; half of the slice would then be the same plays again, and a play trained on in one
    spelling and held out in the other would be a leak.
    """

    name: ClassVar[str] = "one edition of a play (ours)"
    path_ending: str = "_gut_f.txt"

    def process(self, document: Document, stats: StepStats) -> Document | Dropped:
        """Drop old editions, known by their path."""
        is_folio = document.path.endswith(self.path_ending)
        return Dropped("First Folio edition") if is_folio else document


@dataclass(frozen=True)
class NearDuplicates(Step):
    """Books that overlap with an earlier one by more than the threshold are dropped."""

    name: ClassVar[str] = "book-level deduplication"
    ordered: ClassVar[bool] = True
    threshold: float = THRESHOLD

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """Return a function that keeps the books on disk, where candidates are read again."""
        kept = tempfile.TemporaryFile(dir=context.scratch)  # noqa: SIM115
        places: list[tuple[int, int]] = []

        def read_again(number: int) -> str:
            start, length = places[number]
            kept.seek(start)
            return kept.read(length).decode()

        library = Library(read_again, self.threshold)

        def drop_near_duplicate(document: Document) -> Document | Dropped:
            if library.find_or_add(len(places), document.text):
                return Dropped(f"over {self.threshold:.0%} like another")
            content = document.text.encode()
            places.append((kept.seek(0, 2), len(content)))
            kept.write(content)
            return document

        return drop_near_duplicate
