"""The CommonCrawl slice: from HTML pages to their main text."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from minillama.corpus.document import Document, Members, Texts, tidy
from minillama.corpus.hash_set import HashSet, hash64
from minillama.corpus.pipeline import ProcessFn, Reread, Step, StepContext, fresh_hashes
from minillama.corpus.statistics import StepStats

TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)", re.I)
NEVER_CLOSED = {
    "a", "area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link",
    "meta", "option", "p", "param", "source", "tbody", "td", "tfoot", "th", "thead", "tr", "track",
    "wbr",
}  # fmt: skip
MAX_DEPTH = 1_000
"""Elements inside each other; browsers stop at 512, and extraction takes time by the square."""


class TooDeep(ValueError):
    """A page with more elements inside each other than any page has."""


def check_depth(html: str) -> None:
    """Raise ``TooDeep`` for a page that would take hours."""
    if html.count("<") <= MAX_DEPTH:
        return
    signs = np.frombuffer(html.encode(errors="replace") + b" ", dtype=np.uint8)
    after = signs[np.flatnonzero(signs[:-1] == ord("<")) + 1]
    steps = ((after | 32) >= ord("a")).astype(np.int64) - (after == ord("/"))
    depths = np.cumsum(steps)
    if (depths - np.minimum.accumulate(np.minimum(depths, 0))).max() <= MAX_DEPTH:
        return  # even if no element ended by itself
    opened: Counter[str] = Counter()
    total = 0
    for closing, name in TAG.findall(html):
        name = name.lower()
        if name in NEVER_CLOSED or (closing and not opened[name]):
            continue
        step = -1 if closing else 1
        opened[name] += step
        total += step
        if total > MAX_DEPTH:
            raise TooDeep(f"over {MAX_DEPTH} elements inside each other")


def html_to_text(html: str) -> str:
    """The main text of a page: navigation, header, footer and scripts left out.

    Raises:
        TooDeep: its elements are nested beyond all measure.
    """
    check_depth(html)
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


def drop_repeated_lines(text: str, seen: HashSet) -> tuple[str, int]:
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

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """See ``Step.start``."""
        seen = fresh_hashes(context)

        def work(document: Document) -> Document:
            text, repeated = drop_repeated_lines(document.text, seen)
            stats.remove("repeated lines", repeated)
            return document.with_text(text)

        return work
