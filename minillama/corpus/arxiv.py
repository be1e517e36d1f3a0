"""The ArXiv slice: LaTeX sources without preamble, comments, bibliography and private macros.

Section 2.1, after Lewkowycz et al. (2022): everything before the first section and the bibliography
is removed, comments too, and "inline-expanded definitions and macros written by users to increase
consistency across papers". Macros first: they are defined in the part that is cut away.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from minillama.corpus.document import Members, Texts, tidy
from minillama.corpus.latex_macros import Literals, expand_macros
from minillama.corpus.scan import Ahead, cut_between
from minillama.corpus.skip_errors import counted

COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
HIDDEN = ((r"\\begin\{comment\}", r"\\end\{comment\}"), (r"\\iffalse\b", r"\\fi\b"))
INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}]+)\}")
FIRST_SECTION = re.compile(r"\\(?:part|chapter|section)\*?\s*(?:\[[^\]]{0,300}\])?\{")
BIBLIOGRAPHY = re.compile(
    r"\\begin\{thebibliography\}.*?(?:\\end\{thebibliography\}|\Z)"
    r"|\\bibliography(?:style)?\s*\{[^{}]*\}|\\printbibliography\s*(?:\[[^\]]{0,300}\])?",
    re.S,
)
MAX_INPUTS = 1_000
MAX_PAPER = 16 * 2**20
"""Characters of a paper with all that it reads."""


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
    literals, comments = Literals(source), Ahead(COMMENT, source)
    parts, end, at, line = [], 0, 0, 0
    while literal := literals(at):
        begin, after = literal
        line = max(line, source.rfind("\n", at, begin) + 1)
        comment = comments(line)
        if not (comment and comment.start() < begin):  # it does not stand in a comment
            parts += [_uncomment(source[end:begin]), source[begin:after]]
            end = after
        line = max(line, source.rfind("\n", begin, after) + 1)
        at = after
    return "".join([*parts, _uncomment(source[end:])])


def _uncomment(text: str) -> str:
    text = COMMENT.sub(r"\1", re.sub(r"(?m)^[ \t]*%[^\n]*(?:\n|\Z)", "", text))
    return cut_between(text, *HIDDEN)


def join_files(name: str, files: Mapping[str, str]) -> str:
    r"""A source with its ``\input`` and ``\include`` files in place, each file once on any path.

    Args:
        name: the main file.
        files: all sources of the paper, by name.

    Raises:
        ValueError: together they are longer than ``MAX_PAPER``.
    """
    budget, left = [MAX_INPUTS], [MAX_PAPER]

    def read(path: str, open_files: tuple[str, ...]) -> str:
        folder = PurePosixPath(name).parent
        left[0] -= len(files[path])
        if left[0] < 0:
            raise ValueError(f"{name} reads more than {MAX_PAPER} characters")

        def include(match: re.Match[str]) -> str:
            wanted = str(folder / match[1].strip())
            found = next((w for w in (wanted, f"{wanted}.tex") if w in files), None)
            if found is None or found in open_files or not budget[0]:
                return ""
            budget[0] -= 1
            return read(found, (*open_files, found))

        return INPUT.sub(include, remove_comments(files[path]))

    return read(name, (name,))


CHAPTER = re.compile(r"^\\chapter\*?\s*(?:\[[^\]]{0,300}\])?\{([^{}\n]*)\}", re.M)


def latex(members: Members, skipped: Counter[str] | None = None) -> Texts:
    r"""One document a paper: a file with ``\documentclass`` and the files that it reads.

    A book gives one document a chapter.

    Args:
        members: all files of a package.
        skipped: counts, by reason, of papers that cannot be read; it grows.
    """
    skipped = Counter() if skipped is None else skipped
    files = {path: _decode(content) for path, content in members}
    for name, source in files.items():
        if re.search(r"^[^%\n]*\\document(class|style)\b", source, re.M):
            with counted(skipped):  # one bad paper costs no other
                yield from _chapters(name, clean_latex(join_files(name, files)) or "")


def _chapters(name: str, text: str) -> Texts:
    starts = [match.start() for match in CHAPTER.finditer(text)]
    if len(starts) < 2:
        yield name, text
        return
    for begin, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield f"{name}#{CHAPTER.match(text, begin)[1]}", text[begin:end].strip()


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
