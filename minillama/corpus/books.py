"""The Books slice: Gutenberg texts and the King James Bible."""

import json
import re
from collections.abc import Iterable, Iterator

Members = Iterable[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

START = re.compile(
    r"\*\*\* ?START OF (THE|THIS) PROJECT GUTENBERG.*?\*\*\*|\*END\*THE SMALL PRINT.*"
)
END = re.compile(
    r"\*\*\* ?END OF (THE|THIS) PROJECT GUTENBERG|^End of (the )?Project Gutenberg", re.M
)
FIRST_FOLIO = re.compile(r"_gut_f\.txt$")


def strip_gutenberg(text: str) -> str:
    """The book itself: without Project Gutenberg's header and footer, if it has them."""
    text = tidy(text)
    if start := START.search(text):
        text = text[start.end() :]
    if end := END.search(text):
        text = text[: end.start()]
    return tidy(text)


def tidy(text: str) -> str:
    """Unix line ends, no trailing blanks, and at most one empty line between paragraphs."""
    lines = (line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def gutenberg(members: Members) -> Texts:
    """One document a book. The old-spelling First Folio editions are passed over: every play is
    there in a modern edition too, and a play in both training and validation would be a leak."""
    for path, content in members:
        if path.endswith("metadata.txt") or FIRST_FOLIO.search(path):
            continue
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        yield path, strip_gutenberg(text)


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
