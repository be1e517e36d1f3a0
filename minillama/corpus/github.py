"""The GitHub slice: Python source of projects under Apache, BSD or MIT licenses.

Section 2.1: "we only kept projects that are distributed under the Apache, BSD and MIT licenses",
read here from their license files. Low-quality files go by "the line length or proportion of
alphanumeric characters", and "boilerplate, such as headers," by regular expressions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import ClassVar

from minillama.corpus.archive import read_members
from minillama.corpus.document import Document, Dropped, Members, Texts
from minillama.corpus.pipeline import EachDocument, ProcessFn, Reread, Step, StepContext
from minillama.corpus.sources import load_sources
from minillama.corpus.statistics import StepStats

PERMITTED = ("Apache", "BSD", "MIT")
LICENSE_FILE = re.compile(r"^(un)?licen[cs]es?([-_.].*)?$|^copying([-_.].*)?$", re.I)
MAIN_FILE = re.compile(r"^(licen[cs]e|copying)(\.(txt|md|rst))?$", re.I)
"""A project's own license; LICENSE.python beside it, say, tells of parts taken from elsewhere."""
PATTERNS = ("*[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*", "*[Cc][Oo][Pp][Yy][Ii][Nn][Gg]*")
"""Shell patterns that all of them fit, and some other files."""
SIGNS: dict[str, tuple[str, ...]] = {
    # Words that the text of a license must have and that its kin has not, most special first.
    "PSF": ("python software foundation license version 2",),
    "AGPL": ("gnu affero general public license", "version 3, 19 november 2007"),
    "LGPL": ("gnu lesser general public license", "terms and conditions"),
    "GPL": ("gnu general public license", "terms and conditions"),
    "MPL": ("mozilla public license", "covered software"),
    "Apache": ("apache license", "version 2.0", "grant of patent license"),
    "BSD": ("redistribution and use in source and binary forms", "are permitted"),
    "MIT": ("permission is hereby granted, free of charge", "without restriction"),
}
LICENSE_HEADER = re.compile(
    r"\A(#!.*\n)?((#[^\n]*)?\n)*?(#(?=[^\n]*\n)[^\n]*(copyright|licen[cs]e)[^\n]*\n)(#[^\n]*\n)*",
    re.I,
)
MAX_LINE, MEAN_LINE, MIN_ALNUM = 1_000, 100, 0.25
"""The paper's thresholds are not published; these are the ones that later open corpora use."""
MIN_CHARACTERS = 200


def python(members: Members) -> Texts:
    """One document a file. Raises ``UnicodeDecodeError`` for a file in another encoding."""
    for path, content in members:
        if path.endswith(".py"):
            yield path, content.decode("utf-8")


def license_of(text: str) -> str | None:
    """The license whose text this is, by name; None for what is none of those known."""
    plain = re.sub(r"\s+", " ", text).lower()
    for name, signs in SIGNS.items():
        if all(sign in plain for sign in signs):
            return name
    return None


def project_licenses(files: Mapping[str, bytes]) -> dict[str, str | None]:
    """The license of every license file of a source tree (path -> content), by its path."""
    known = {}
    for path, content in files.items():
        if LICENSE_FILE.match(PurePosixPath(path).name):
            known[path] = license_of(content.decode("utf-8", errors="replace"))
    return known


def license_at(known: Mapping[str, str | None], path: str) -> str:
    """The license of a file, or ``unknown`` or ``none``, by what ``project_licenses`` gave.

    The nearest folder above that has license files decides, so that a vendored folder is judged by
    its own. Of several that are all the project's, the first that is not permitted counts.
    """
    folders = {at: at.rpartition("/")[0] or "." for at in known}
    for parent in map(str, PurePosixPath(path).parents):
        here = [at for at, folder in folders.items() if folder == parent]
        main = [at for at in here if MAIN_FILE.match(at.rpartition("/")[2])]
        names = [known[at] or "unknown" for at in main or here]
        for name in names:
            if name not in PERMITTED:
                return name
        if names:
            return names[0]
    return "none"


@cache
def _package_licenses(sources: Path, downloads: Path, pin: str) -> dict[str, str | None]:
    """The license files of a package, each read once in a process."""
    archive = next(s for s in load_sources(sources) if s.pin == pin).find(downloads)
    return project_licenses(dict(read_members(archive, list(PATTERNS))))


@dataclass(frozen=True)
class Licenses(Step):
    """Only projects under the Apache, BSD and MIT licenses, by their own license files."""

    name: ClassVar[str] = "licenses"
    permitted: tuple[str, ...] = PERMITTED

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """Return a function that knows the license files of all packages."""

        def check_license(document: Document) -> Document | Dropped:
            known = _package_licenses(context.sources, context.downloads, document.source)
            name = license_at(known, document.path)
            return document if name in self.permitted else Dropped(f"license: {name}")

        return check_license


def fault(text: str) -> str | None:
    """Why a source file looks like data or generated text, or None."""
    lines = text.split("\n")
    if max(map(len, lines)) > MAX_LINE:
        return f"a line of over {MAX_LINE:,} characters"
    if len(text) > MEAN_LINE * len(lines):
        return f"lines of over {MEAN_LINE} characters on average"
    if sum(map(str.isalnum, text)) <= MIN_ALNUM * len(text):
        return "few letters and digits"
    return None


def drop_faulty(document: Document) -> Document | Dropped:
    """``fault`` as a step."""
    reason = fault(document.text)
    return Dropped(reason) if reason else document


CODE_HEURISTICS = EachDocument("heuristics", drop_faulty)


def without_header(text: str) -> str:
    """A source file without the comment that states its license."""
    return LICENSE_HEADER.sub("", text.replace("\r\n", "\n")).strip() + "\n"


def clean_code(text: str) -> str | None:
    """A source file without its license header; None if it is too short, data or generated."""
    text = without_header(text)
    return None if len(text) < MIN_CHARACTERS or fault(text) else text


@dataclass(frozen=True)
class Headers(Step):
    """The comments in which files state their license, removed by regular expression."""

    name: ClassVar[str] = "license headers"

    def process(self, document: Document, stats: StepStats) -> Document:
        """Remove the header and count it."""
        text = without_header(document.text)
        stats.remove("headers", int(len(text) < len(document.text.strip())))
        return document.with_text(text)
