"""The CommonCrawl slice: from HTML pages to their main text."""

import re
from dataclasses import dataclass
from typing import ClassVar

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from minillama.corpus.books import Members, Texts, tidy
from minillama.corpus.document import Document
from minillama.corpus.seen import SeenHashes, hash64
from minillama.corpus.steps import Around, Reread, Step, Work, changed, fresh_hashes
from minillama.corpus.waterfall import Row


def html_to_text(html: str) -> str:
    """The main text of a page: navigation, header, footer and scripts left out."""
    tree = HTMLTree.parse(html)
    text = extract_plain_text(
        tree, main_content=True, preserve_formatting=True, list_bullets=True, alt_texts=False,
        links=False, form_fields=False, noscript=False,
    )  # fmt: skip
    return tidy(re.sub(r"[¶\u200b]", "", text))


def html(members: Members) -> Texts:
    """One document a page."""
    for path, content in members:
        yield path, html_to_text(bytes_to_str(content, detect_encoding(content)))


def plain_line(line: str) -> str:
    """A line as it is compared: without case, punctuation and spaces, every digit read as 0."""
    return re.sub(r"\W+", "", re.sub(r"\d", "0", line.casefold()))


def drop_repeated_lines(text: str, seen: SeenHashes) -> tuple[str, int]:
    """A page without the lines that were met before, and how many those were.

    Each line stays only where it is met first, as in CCNet (Wenzek et al., 2019, Section 3.1), so
    that no line is in two pages: not in one trained on and another held out either.
    """
    lines = text.split("\n")
    plain = [plain_line(line) for line in lines]
    new = iter(seen.first_time(hash64(line) for line in plain if line))
    kept = [line for line, bare in zip(lines, plain, strict=True) if not bare or next(new)]
    return tidy("\n".join(kept)), len(lines) - len(kept)


@dataclass(frozen=True)
class RepeatedLines(Step):
    """CCNet's deduplication: lines met before go, on this page or any earlier one."""

    name: ClassVar[str] = "line-level deduplication"
    ordered: ClassVar[bool] = True

    def start(self, around: Around, row: Row, reread: Reread) -> Work:
        """See ``Step.start``."""
        seen = fresh_hashes(around)

        def work(document: Document) -> Document:
            text, repeated = drop_repeated_lines(document.text, seen)
            row.remove("repeated lines", repeated)
            return changed(document, text)

        return work
