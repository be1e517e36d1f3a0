"""The ArXiv slice: LaTeX sources without preamble, comments, bibliography and private macros.

Section 2.1, after Lewkowycz et al. (2022): everything before the first section and the bibliography
is removed, comments too, and "inline-expanded definitions and macros written by users to increase
consistency across papers". Macros first: they are defined in the part that is cut away.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from minillama.corpus.books import Members, Texts, tidy
from minillama.corpus.macros import LITERAL, expand_macros

COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
HIDDEN = re.compile(r"\\begin\{comment\}.*?\\end\{comment\}|\\iffalse\b.*?\\fi\b", re.S)
INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}]+)\}")
FIRST_SECTION = re.compile(r"\\(?:part|chapter|section)\*?\s*(?:\[[^\]]*\])?\{")
BIBLIOGRAPHY = re.compile(
    r"\\begin\{thebibliography\}.*?(?:\\end\{thebibliography\}|\Z)"
    r"|\\bibliography(?:style)?\s*\{[^{}]*\}|\\printbibliography\s*(?:\[[^\]]*\])?",
    re.S,
)
MAX_INPUTS = 1_000


def clean_latex(source: str) -> str | None:
    """The text of a paper, still in LaTeX; None for a source without a section."""
    text = expand_macros(remove_comments(source))
    start = FIRST_SECTION.search(text)
    if not start:
        return None
    text = BIBLIOGRAPHY.sub("", text[start.start() :].split(r"\end{document}")[0])
    return tidy(text)


def remove_comments(source: str) -> str:
    r"""Without what LaTeX does not print: ``%`` to the end of a line, and hidden passages.

    A line that is all comment goes wholly; ``\%`` and verbatim text stay.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    parts, end = [], 0
    for literal in LITERAL.finditer(source):
        if literal.start() < end or _commented(source, literal.start()):
            continue
        parts += [_uncomment(source[end : literal.start()]), literal[0]]
        end = literal.end()
    return "".join([*parts, _uncomment(source[end:])])


def _commented(source: str, position: int) -> bool:
    """Whether a comment sign stands before ``position`` on its line."""
    line = source[source.rfind("\n", 0, position) + 1 : position]
    return bool(COMMENT.search(line))


def _uncomment(text: str) -> str:
    text = re.sub(r"(?m)^[ \t]*%[^\n]*(?:\n|\Z)", "", text)
    return HIDDEN.sub("", COMMENT.sub(r"\1", text))


def join_files(name: str, files: Mapping[str, str]) -> str:
    r"""A source with its ``\input`` and ``\include`` files in place, each file once on any path.

    Args:
        name: the main file.
        files: all sources of the paper, by name.
    """
    budget = [MAX_INPUTS]

    def read(path: str, open_files: tuple[str, ...]) -> str:
        folder = PurePosixPath(name).parent

        def include(match: re.Match[str]) -> str:
            wanted = str(folder / match[1].strip())
            found = next((w for w in (wanted, f"{wanted}.tex") if w in files), None)
            if found is None or found in open_files or not budget[0]:
                return ""
            budget[0] -= 1
            return read(found, (*open_files, found))

        return INPUT.sub(include, remove_comments(files[path]))

    return read(name, (name,))


CHAPTER = re.compile(r"^\\chapter\*?\s*(?:\[[^\]]*\])?\{([^{}\n]*)\}", re.M)


def latex(members: Members) -> Texts:
    r"""One document a paper: a file with ``\documentclass`` and the files that it reads.

    A book gives one document a chapter.
    """
    files = {path: _decode(content) for path, content in members}
    for name, source in files.items():
        if re.search(r"^[^%\n]*\\document(class|style)\b", source, re.M):
            text = clean_latex(join_files(name, files)) or ""
            starts = [match.start() for match in CHAPTER.finditer(text)]
            if len(starts) < 2:
                yield name, text
                continue
            for begin, end in zip(starts, [*starts[1:], len(text)], strict=True):
                yield f"{name}#{CHAPTER.match(text, begin)[1]}", text[begin:end].strip()


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
