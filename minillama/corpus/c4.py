"""The C4 slice: clean web prose; here the documentation that large projects publish."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from minillama.corpus.document import Document, Dropped, Members, Texts, tidy
from minillama.corpus.heuristics import C4Rules, clean_page, drop_repeated_spans
from minillama.corpus.pipeline import ProcessFn, Reread, Step, StepContext, fresh_hashes
from minillama.corpus.statistics import StepStats

UNDERLINE = re.compile(r"^([=\-~^\"'`#*+.:_])\1{2,}\s*$", re.M)
TARGET = re.compile(
    r"^\s*+(\.\. (?:_[^:]{1,1000}:.*|\|.*\|.*|\[.*\].*|(?:index|module|currentmodule)::.*)$)?", re.M
)
"""Where nothing of the kind follows, blanks are matched all the same: they are looked at once."""
DIRECTIVE = re.compile(r"^( *)\.\. ?([\w:-]*?)::(.*)$", re.M)
COMMENT = re.compile(r"^\.\. (?![\w:-]+::)[^\n]*(\n[ \t]+[^\n]*)*", re.M)
OPTION = re.compile(r"^[ \t]+:[\w-]+:(?!`).*$", re.M)
ROLE = re.compile(r"(?<![\w:+.-])([\w+.-]*+):[\w:+.-]+:`~?!?([^`]*)`")
LINK = re.compile(r"`([^`<]+)<[^`>]+>`_{1,2}")


def strip_rst(text: str) -> str:
    """reStructuredText as readable prose: headings, paragraphs and code without the markup."""
    text = text.replace("\r\n", "\n")
    text = COMMENT.sub("", TARGET.sub(lambda m: "" if m[1] else m[0], text))
    text = DIRECTIVE.sub(lambda m: m[1] + (m[3].strip() if m[2] not in HIDDEN else ""), text)
    text = UNDERLINE.sub("", OPTION.sub("", text))
    text = ROLE.sub(lambda m: m[1] + _label(m[2]), text)
    text = LINK.sub(lambda m: m[1].rstrip() or m[1][0], text)
    text = re.sub(r"``([^`]+)``|`([^`]+)`_{0,2}", lambda m: m[1] or m[2], text)
    text = re.sub(r"\*\*([^*\n]+)\*\*|(?<!\w)\*([^*\n]+)\*(?!\w)", lambda m: m[1] or m[2], text)
    return tidy(re.sub(r"::[ \t]*$", ":", text, flags=re.M))


def _label(role: str) -> str:
    """What a role shows: ``text <target>`` without the target."""
    label = role.removesuffix("\n")
    opening = label.find("<", label.rfind(">", 0, -1) + 1)
    if opening < 0 or not label.endswith(">"):
        return role
    return label[:opening].rstrip() + role[len(label) :]


HIDDEN = {
    "toctree", "index", "module", "currentmodule", "image", "figure", "plot", "automodule",
    "autoclass", "autofunction", "automethod", "autosummary", "contents", "highlight",
    "code-block", "code", "default-domain",
}  # fmt: skip
"""Directives whose argument is not for the reader."""


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
        if length >= WRAPPED and line and not item.strip() and len(item) == column:
            paragraphs[-1].append(line.strip())
        else:
            paragraphs.append([line])
            column = len(item)
        length = len(line)
    return "\n".join(map(" ".join, paragraphs))


@dataclass(frozen=True)
class Unwrap(Step):
    """Paragraphs that were wrapped to a width become lines again."""

    name: ClassVar[str] = "paragraphs as lines"

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """See ``Step.start``."""
        return lambda document: document.with_text(unwrap(document.text))


@dataclass(frozen=True)
class Heuristics(Step):
    """C4's rules for lines and for pages."""

    name: ClassVar[str] = "heuristics"
    rules: C4Rules = C4Rules()

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """See ``Step.start``."""

        def work(document: Document) -> Document | Dropped:
            lines: Counter[str] = Counter()
            text, reason = clean_page(document.text, self.rules, lines)
            for kind, count in lines.items():
                stats.remove(f"lines: {kind}", count)
            return Dropped(reason) if reason else document.with_text(text)

        return work


@dataclass(frozen=True)
class RepeatedSpans(Step):
    """Spans of three sentences that were met before go, on this page or any earlier one."""

    name: ClassVar[str] = "three-sentence deduplication"
    ordered: ClassVar[bool] = True

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """See ``Step.start``."""
        seen = fresh_hashes(context)

        def work(document: Document) -> Document:
            text, spans = drop_repeated_spans(document.text, seen)
            stats.remove("repeated spans", spans)
            return document.with_text(text)

        return work
