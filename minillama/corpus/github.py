"""The GitHub slice: Python source of projects under Apache, BSD or MIT licences."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from minillama.corpus.archive import read_members
from minillama.corpus.books import Members, Texts
from minillama.corpus.document import Document, Dropped
from minillama.corpus.licences import PATTERNS, PERMITTED, licence_at, project_licences
from minillama.corpus.sources import load_sources
from minillama.corpus.steps import Around, Reread, Step, Work, changed
from minillama.corpus.waterfall import Row

LICENCE_HEADER = re.compile(
    r"\A(#!.*\n)?((#[^\n]*)?\n)*?(#(?=[^\n]*\n)[^\n]*(copyright|licen[cs]e)[^\n]*\n)(#[^\n]*\n)*",
    re.I,
)
MAX_LINE, MEAN_LINE, MIN_ALNUM = 1_000, 100, 0.25
MIN_CHARACTERS = 200


def without_header(text: str) -> str:
    """A source file without the comment that states its licence."""
    return LICENCE_HEADER.sub("", text.replace("\r\n", "\n")).strip() + "\n"


def fault(text: str) -> str | None:
    """Why a source file looks like data or generated text, or None.

    Long lines and few letters or digits are the signs the paper names; its thresholds are not
    published, so these are the ones that later open corpora use.
    """
    lines = text.split("\n")
    if max(map(len, lines)) > MAX_LINE:
        return f"a line of over {MAX_LINE:,} characters"
    if len(text) > MEAN_LINE * len(lines):
        return f"lines of over {MEAN_LINE} characters on average"
    if sum(character.isalnum() for character in text) <= MIN_ALNUM * len(text):
        return "few letters and digits"
    return None


def clean_code(text: str) -> str | None:
    """A source file without its licence header; None if it is too short, data or generated."""
    text = without_header(text)
    return None if len(text) < MIN_CHARACTERS or fault(text) else text


def python(members: Members) -> Texts:
    """One document a file. Raises ``UnicodeDecodeError`` for a file in another encoding."""
    for path, content in members:
        if path.endswith(".py"):
            yield path, content.decode("utf-8")


@cache
def _licences(sources: Path, downloads: Path, pin: str) -> dict[str, str | None]:
    """The licence files of a package, each read once in a process."""
    archive = next(s for s in load_sources(sources) if s.pin == pin).find(downloads)
    return project_licences(dict(read_members(archive, list(PATTERNS))))


@dataclass(frozen=True)
class Licences(Step):
    """Only projects under the Apache, BSD and MIT licences, by their own licence files."""

    name: ClassVar[str] = "licences"
    permitted: tuple[str, ...] = PERMITTED

    def start(self, around: Around, row: Row, reread: Reread) -> Work:
        """See ``Step.start``."""

        def work(document: Document) -> Document | Dropped:
            known = _licences(around.sources, around.downloads, document.source)
            name = licence_at(known, document.path)
            return document if name in self.permitted else Dropped(f"licence: {name}")

        return work


@dataclass(frozen=True)
class Headers(Step):
    """The comments in which files state their licence, removed by regular expression."""

    name: ClassVar[str] = "licence headers"

    def start(self, around: Around, row: Row, reread: Reread) -> Work:
        """See ``Step.start``."""

        def work(document: Document) -> Document:
            text = without_header(document.text)
            row.remove("headers", int(len(text) < len(document.text.strip())))
            return changed(document, text)

        return work


@dataclass(frozen=True)
class CodeHeuristics(Step):
    """Files dropped by the length of their lines and their share of letters and digits."""

    name: ClassVar[str] = "heuristics"

    def start(self, around: Around, row: Row, reread: Reread) -> Work:
        """See ``Step.start``."""

        def work(document: Document) -> Document | Dropped:
            reason = fault(document.text)
            return Dropped(reason) if reason else document

        return work
