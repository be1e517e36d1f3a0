"""The C4 slice: clean web prose; here the documentation that large projects publish.

Section 2.1 on C4: its quality filter "mostly relies on heuristics such as presence of punctuation
marks or the number of words and sentences in a webpage". They are those of Raffel et al. (2020,
Section 2.2), each of which can be off.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from minillama.corpus.deduplicate import HashSet, hash64
from minillama.corpus.document import Document, Dropped, Members, Texts, tidy
from minillama.corpus.pipeline import EachDocument, RepeatedParts, Step
from minillama.corpus.statistics import StepStats

# reStructuredText

UNDERLINE = re.compile(r"^([=\-~^\"'`#*+.:_])\1{2,}\s*$", re.M)
TARGET = re.compile(
    r"^\s*+(\.\. (?:_[^:]{1,1000}:.*|\|.*\|.*|\[.*\].*|(?:index|module|currentmodule)::.*)$)?", re.M
)
"""Where nothing of the kind follows, blanks are matched all the same: they are looked at once."""
DIRECTIVE = re.compile(r"^( *)\.\. ?([\w:-]*?)::(.*)$", re.M)
COMMENT = re.compile(r"^\.\. (?![\w:-]+::)[^\n]*(\n[ \t]+[^\n]*)*", re.M)
OPTION = re.compile(r"^[ \t]+:[\w-]+:(?!`).*$", re.M)
ROLE = re.compile(r"(?<![\w:+.-])([\w+.-]*+):[\w:+.-]+:`~?!?([^`]*)`")
ROLE_TARGET = re.compile(r"(?<!\s)\s*+<[^<>]*>(?=\n?\Z)")
LINK = re.compile(r"`([^`<]+)<[^`>]+>`_{1,2}")
CODE = re.compile(r"``([^`]+)``|`([^`]+)`_{0,2}")
EMPHASIS = re.compile(r"\*\*([^*\n]+)\*\*|(?<!\w)\*([^*\n]+)\*(?!\w)")
EXAMPLE_FOLLOWS = re.compile(r"::[ \t]*$", re.M)
HIDDEN = {
    "toctree", "index", "module", "currentmodule", "image", "figure", "plot", "automodule",
    "autoclass", "autofunction", "automethod", "autosummary", "contents", "highlight",
    "code-block", "code", "default-domain",
}  # fmt: skip
"""Directives whose argument is not for the reader."""


def strip_rst(text: str) -> str:
    """reStructuredText as readable prose: headings, paragraphs and code without the markup."""
    text = text.replace("\r\n", "\n")
    # What is not for the reader
    text = TARGET.sub(lambda m: "" if m[1] else m[0], text)
    text = COMMENT.sub("", text)
    text = DIRECTIVE.sub(lambda m: m[1] + ("" if m[2] in HIDDEN else m[3].strip()), text)
    text = OPTION.sub("", text)
    text = UNDERLINE.sub("", text)
    # What is printed in another way
    text = ROLE.sub(lambda m: m[1] + ROLE_TARGET.sub("", m[2]), text)
    text = LINK.sub(lambda m: m[1].rstrip() or m[1][0], text)
    text = CODE.sub(lambda m: m[1] or m[2], text)
    text = EMPHASIS.sub(lambda m: m[1] or m[2], text)
    text = EXAMPLE_FOLLOWS.sub(":", text)
    return tidy(text)


def rst(members: Members) -> Texts:
    """One document a page of documentation."""
    for path, content in members:
        yield path, strip_rst(content.decode("utf-8", errors="replace"))


ITEM = re.compile(r"\s*(?:[*#-]|\d+\.)\s+|\s*")
WRAPPED = 50
"""A line at least so long may have been broken to keep to a width."""


def unwrap(text: str) -> str:
    """One line a paragraph, as on a web page.

    A line goes on with the one before if that is long and its text begins in the same column;
    lists, headings and most code keep their lines.
    """
    paragraphs: list[list[str]] = []
    column, length = 0, 0
    for line in text.split("\n"):
        item = ITEM.match(line)[0]
        is_plain = length >= WRAPPED and line and not item.strip()
        if is_plain and len(item) == column:
            paragraphs[-1].append(line.strip())
        else:
            paragraphs.append([line])
            column = len(item)
        length = len(line)
    return "\n".join(map(" ".join, paragraphs))


def unwrap_document(document: Document) -> Document:
    """``unwrap`` as a step."""
    return document.with_text(unwrap(document.text))


UNWRAP = EachDocument("paragraphs as lines", unwrap_document)

# The heuristics

CITATION = re.compile(r"\[(?:\d+|edit|citation needed)\]", re.I)
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(\s+)(?=[\"'“‘(\[]*[A-Z0-9])")
TERMINAL = (".", "!", "?", '"', "”")
POLICY = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies",
)  # fmt: skip


@dataclass(frozen=True)
class C4Rules:
    """Which rules are applied; the defaults are C4's."""

    terminal_punctuation: bool = True
    """Keep only lines that end in a full stop, an exclamation, question or quotation mark."""
    min_words: int = 5
    """Keep only lines of so many words; 0: all."""
    javascript: bool = True
    """Drop lines that speak of Javascript: they ask for it to be switched on."""
    policies: bool = True
    """Drop lines about cookies, privacy policies and terms of use."""
    citations: bool = True
    """Remove Wikipedia's marks such as [1], [edit] and [citation needed]."""
    lorem_ipsum: bool = True
    """Drop pages with the dummy text of printers."""
    curly_brackets: bool = True
    """Drop pages with a curly bracket: they are code."""
    min_sentences: int = 3
    """Drop pages of fewer sentences; 0: none."""
    bad_words: frozenset[str] = frozenset()
    """Drop pages with any of these words, in lower case. C4's list is not ours to ship."""


def sentences(text: str) -> list[str]:
    """A text cut after full stops, exclamation marks and question marks, and at line ends."""
    return [part for line in text.split("\n") for part in line_sentences(line)]


def line_sentences(line: str) -> list[str]:
    """The sentences of one line."""
    parts, begin = [], 0
    for end in SENTENCE_END.finditer(line):
        parts.append(line[begin : end.start(1)].strip())
        begin = end.end()
    parts.append(line[begin:].strip())
    return [part for part in parts if part]


LINE_RULES: dict[str, tuple[str, Callable[[str, C4Rules], bool]]] = {
    "no terminal punctuation": (
        "terminal_punctuation",
        lambda line, rules: not line.endswith(TERMINAL) or line.endswith("..."),
    ),
    "too few words": ("min_words", lambda line, rules: len(line.split()) < rules.min_words),
    "javascript": ("javascript", lambda line, rules: "javascript" in line.lower()),
    "policies": ("policies", lambda line, rules: any(p in line.lower() for p in POLICY)),
}
"""Why a line goes -> the field of ``C4Rules`` that says so, and whether it does."""
PAGE_RULES: dict[str, tuple[str, Callable[[str, C4Rules], bool]]] = {
    "lorem ipsum": ("lorem_ipsum", lambda page, rules: "lorem ipsum" in page.lower()),
    "curly brackets": ("curly_brackets", lambda page, rules: "{" in page),
    "bad words": ("bad_words", lambda page, rules: has_word(page.lower(), rules.bad_words)),
    "too few sentences": (
        "min_sentences", lambda page, rules: len(sentences(page)) < rules.min_sentences,
    ),
}  # fmt: skip


def has_word(text: str, words: frozenset[str]) -> bool:
    """Whether any of the words stands in a text."""
    choice = "|".join(map(re.escape, sorted(words)))
    return re.search(rf"\b(?:{choice})\b", text) is not None


def first_broken(table: dict, rules: C4Rules, text: str) -> str | None:
    """The first rule of a table that is on and that a line or a page breaks."""
    for reason, (field, is_broken) in table.items():
        if getattr(rules, field) and is_broken(text, rules):
            return reason
    return None


def clean_page(text: str, rules: C4Rules, lines_dropped: Counter[str]) -> tuple[str, str | None]:
    """What is left of a page, and None, or the reason why the page is dropped.

    ``lines_dropped`` counts the lines that go, by reason.
    """
    if rules.citations:
        text = CITATION.sub("", text)
    kept = []
    for line in text.split("\n"):
        line = line.strip()
        reason = first_broken(LINE_RULES, rules, line)
        if reason is None:
            kept.append(line)
        elif line:
            lines_dropped[reason] += 1
    text = "\n".join(kept).strip()
    return text, first_broken(PAGE_RULES, rules, text)


@dataclass(frozen=True)
class Heuristics(Step):
    """C4's rules for lines and for pages."""

    name: ClassVar[str] = "heuristics"
    rules: C4Rules = C4Rules()

    def process(self, document: Document, stats: StepStats) -> Document | Dropped:
        """Clean a page and count the lines that go."""
        lines: Counter[str] = Counter()
        text, reason = clean_page(document.text, self.rules, lines)
        for kind, count in lines.items():
            stats.remove(f"lines: {kind}", count)
        return Dropped(reason) if reason else document.with_text(text)


# Repeated spans

SPAN = 3
"""Sentences in a span that may occur only once in the corpus."""


def drop_repeated_spans(text: str, seen: HashSet) -> tuple[str, int]:
    """A text without the spans of three sentences that were met before, and how many those were.

    C4 "discarded all but one of any three-sentence span occurring more than once": a sentence goes
    if any span that it is in was met before, so that of a repeated passage of three sentences or
    more only its first copy stays.
    """
    lines = [line_sentences(line) for line in text.split("\n")]
    plain = [re.sub(r"\W+", " ", part.casefold()).strip() for line in lines for part in line]
    count = len(plain) - SPAN + 1
    if count < 1:
        return text, 0
    is_new = seen.first_time([hash64(" ".join(plain[i : i + SPAN])) for i in range(count)])
    # A sentence stays if all the spans that it is in are new
    stays = [True] * len(plain)
    for i in range(count):
        if not is_new[i]:
            stays[i : i + SPAN] = [False] * SPAN
    kept, at = [], 0
    for whole, parts in zip(text.split("\n"), lines, strict=True):
        these = stays[at : at + len(parts)]
        at += len(parts)
        left = [part for part, stay in zip(parts, these, strict=True) if stay]
        if len(left) == len(parts):
            kept.append(whole)  # with its own spaces: code is indented
        elif left:
            kept.append(" ".join(left))
    return "\n".join(kept).strip("\n"), is_new.count(False)


REPEATED_SPANS = RepeatedParts(
    "three-sentence deduplication", drop_repeated_spans, "repeated spans"
)
