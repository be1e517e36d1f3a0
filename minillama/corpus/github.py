"""The GitHub slice: Python source of projects under Apache, BSD or MIT licenses."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from minillama.corpus.archive import read_members
from minillama.corpus.document import Document, Dropped, Members, Texts
from minillama.corpus.licenses import PATTERNS, PERMITTED, license_at, project_licenses
from minillama.corpus.pipeline import ProcessFn, Reread, Step, StepContext
from minillama.corpus.sources import load_sources
from minillama.corpus.statistics import StepStats

LICENSE_HEADER = re.compile(
    r"\A(#!.*\n)?((#[^\n]*)?\n)*?(#(?=[^\n]*\n)[^\n]*(copyright|licen[cs]e)[^\n]*\n)(#[^\n]*\n)*",
    re.I,
)
MAX_LINE, MEAN_LINE, MIN_ALNUM = 1_000, 100, 0.25
MIN_CHARACTERS = 200


def without_header(text: str) -> str:
    """A source file without the comment that states its license."""
    return LICENSE_HEADER.sub("", text.replace("\r\n", "\n")).strip() + "\n"


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
    """A source file without its license header; None if it is too short, data or generated."""
    text = without_header(text)
    return None if len(text) < MIN_CHARACTERS or fault(text) else text


def python(members: Members) -> Texts:
    """One document a file. Raises ``UnicodeDecodeError`` for a file in another encoding."""
    for path, content in members:
        if path.endswith(".py"):
            yield path, content.decode("utf-8")


@cache
def _licenses(sources: Path, downloads: Path, pin: str) -> dict[str, str | None]:
    """The license files of a package, each read once in a process."""
    archive = next(s for s in load_sources(sources) if s.pin == pin).find(downloads)
    return project_licenses(dict(read_members(archive, list(PATTERNS))))


@dataclass(frozen=True)
class Licenses(Step):
    """Only projects under the Apache, BSD and MIT licenses, by their own license files."""

    name: ClassVar[str] = "licenses"
    permitted: tuple[str, ...] = PERMITTED

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """See ``Step.start``."""

        def work(document: Document) -> Document | Dropped:
            known = _licenses(context.sources, context.downloads, document.source)
            name = license_at(known, document.path)
            return document if name in self.permitted else Dropped(f"license: {name}")

        return work


@dataclass(frozen=True)
class Headers(Step):
    """The comments in which files state their license, removed by regular expression."""

    name: ClassVar[str] = "license headers"

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """See ``Step.start``."""

        def work(document: Document) -> Document:
            text = without_header(document.text)
            stats.remove("headers", int(len(text) < len(document.text.strip())))
            return document.with_text(text)

        return work


@dataclass(frozen=True)
class CodeHeuristics(Step):
    """Files dropped by the length of their lines and their share of letters and digits."""

    name: ClassVar[str] = "heuristics"

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """See ``Step.start``."""

        def work(document: Document) -> Document | Dropped:
            reason = fault(document.text)
            return Dropped(reason) if reason else document

        return work
