r"""The ArXiv slice: LaTeX sources without preamble, comments, bibliography and private macros.

Section 2.1, after Lewkowycz et al. (2022): everything before the first section and the bibliography
is removed, comments too, and "inline-expanded definitions and macros written by users to increase
consistency across papers". Macros first: they are defined in the part that is cut away.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from minillama.corpus.document import Members, Texts, decode_text, tidy
from minillama.corpus.latex_macros import LITERAL, end_of, expand_macros
from minillama.corpus.skip_errors import counted

MARK = re.compile(
    r"(?P<comment>^[ \t]*%[^\n]*(?:\n|\Z)|%[^\n]*)"  # with its line, if nothing else is there
    rf"|(?P<hidden>\\begin\{{comment\}}|\\iffalse\b)|\\[\\%]|{LITERAL.pattern}",
    re.M,
)
"""What is not printed, and what could be taken for that."""
INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}]+)\}")
FIRST_SECTION = re.compile(r"\\(?:part|chapter|section)\*?\s*(?:\[[^\]]{0,300}\])?\{")
CHAPTER = re.compile(r"^\\chapter\*?\s*(?:\[[^\]]{0,300}\])?\{([^{}\n]*)\}", re.M)
BIBLIOGRAPHY = re.compile(
    r"\\begin\{thebibliography\}.*?(?:\\end\{thebibliography\}|\Z)"
    r"|\\bibliography(?:style)?\s*\{[^{}]*\}|\\printbibliography\s*(?:\[[^\]]{0,300}\])?",
    re.S,
)
DOCUMENT = re.compile(r"^[^%\n]*\\document(class|style)\b", re.M)
MAX_INPUTS = 1_000
MAX_PAPER = 16 * 2**20
"""Characters of a paper with all that it reads."""


def clean_latex(source: str) -> str | None:
    """The text of a paper, still in LaTeX; None for a source without a section."""
    text = expand_macros(remove_comments(source))
    start = FIRST_SECTION.search(text)
    if not start:
        return None
    body = text[start.start() :].split(r"\end{document}")[0]
    return tidy(BIBLIOGRAPHY.sub("", body))


def remove_comments(source: str) -> str:
    r"""Without what LaTeX does not print: ``%`` to the end of a line, and hidden passages.

    A line that is all comment goes wholly; ``\%`` and verbatim text stay.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    parts, kept_from, at = [], 0, 0
    never_closed: set[str] = set()
    while mark := MARK.search(source, at):
        end = end_of(mark, source, never_closed)
        at = end or mark.end()
        if mark["comment"] or (mark["hidden"] and end):
            parts.append(source[kept_from : mark.start()])
            kept_from = at
    return "".join([*parts, source[kept_from:]])


def join_files(name: str, files: Mapping[str, str]) -> str:
    r"""The source ``name`` with its ``\input`` files in place, each file once on any path.

    Raises ``ValueError`` if together they are longer than ``MAX_PAPER``.
    """
    folder = PurePosixPath(name).parent
    inputs = characters = 0

    def read(path: str, open_files: tuple[str, ...]) -> str:
        nonlocal characters
        characters += len(files[path])
        if characters > MAX_PAPER:
            raise ValueError(f"{name} reads more than {MAX_PAPER} characters")

        def include(match: re.Match[str]) -> str:
            nonlocal inputs
            wanted = match[1].strip()
            path = str(folder / wanted)
            path = path if path in files else f"{path}.tex"
            if path not in files or path in open_files or inputs == MAX_INPUTS:
                return ""
            inputs += 1
            return read(path, (*open_files, path))

        return INPUT.sub(include, remove_comments(files[path]))

    return read(name, (name,))


def latex(members: Members, skipped: Counter[str] | None = None) -> Texts:
    r"""One document a paper, that is a ``\documentclass`` and what it reads; of a book, a chapter.

    ``skipped`` counts, by reason, the papers that cannot be read.
    """
    skipped = Counter() if skipped is None else skipped
    files = {path: decode_text(content) for path, content in members}
    for name, source in files.items():
        if DOCUMENT.search(source):
            with counted(skipped):  # one bad paper costs no other
                paper = join_files(name, files)
                text = clean_latex(paper) or ""
                yield from _chapters(name, text)


def _chapters(name: str, text: str) -> Texts:
    chapters = list(CHAPTER.finditer(text))
    if len(chapters) < 2:
        yield name, text
        return
    ends = [chapter.start() for chapter in chapters[1:]] + [len(text)]
    for chapter, end in zip(chapters, ends, strict=True):
        yield f"{name}#{chapter[1]}", text[chapter.start() : end].strip()
