"""The Wikipedia slice: from a dump's XML to articles without links, templates and comments."""

import bz2
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

import mwparserfromhell
from defusedxml.ElementTree import iterparse
from mwparserfromhell.nodes import Node
from mwparserfromhell.wikicode import Wikicode

from minillama.corpus.document import Members, Texts, tidy
from minillama.corpus.scan import Ahead, cut, cut_between
from minillama.corpus.skip_errors import counted

DROPPED_SECTIONS = re.compile(
    r"^=+\s*(References|External links|See also|Notes|Further reading|Bibliography|Footnotes"
    r"|Sources|Citations|Gallery)\s*=+\s*$", re.I | re.M,
)  # fmt: skip
TAG = re.compile("<(ref|gallery|math)", re.I)
MEDIA = re.compile(r"^(File|Image|Category|Media|[a-z-]{2,12}):", re.I)

MARKS = re.compile(
    r"(?P<comment><!--)|(?P<template>\{\{)|\}\}|(?P<link>\[\[)|\]\]|(?P<table>\{\|)|\|\}|(?P<address>\[(?=\w+:|//))|\]"
    r"|(?P<tag><(?!(?:br|hr|li|p|dd|dt|tr|td|th)\b)[a-z])|</|/>", re.I,
)  # fmt: skip
CLOSED_BY = {
    "}}": "template",
    "]]": "link",
    "|}": "table",
    "]": "address",
    "</": "tag",
    "/>": "tag",
}
MAX_DEPTH = 100
"""The parser of wikitext needs time by the square of what is open at a time; articles have few."""
MAX_ARTICLE = 2 * 2**20
"""Characters; Wikipedia itself allows no more bytes."""


class Tangled(ValueError):
    """An article that is too long, or in which too much markup is never closed."""


def check_markup(wikitext: str) -> None:
    """Raise ``Tangled`` for what the parser would need hours for."""
    if len(wikitext) > MAX_ARTICLE:
        raise Tangled(f"{len(wikitext)} characters")
    opened: Counter[str] = Counter()
    for mark in MARKS.finditer(wikitext):
        if kind := mark.lastgroup:
            opened[kind] += 1
            if opened[kind] > MAX_DEPTH:
                raise Tangled(f"{MAX_DEPTH} times {mark[0]} is not closed")
        elif opened[kind := CLOSED_BY[mark[0]]]:
            opened[kind] -= 1


def articles(stream: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (title, wikitext) of the articles of a dump, one page in memory at a time.

    ``defusedxml`` refuses entity bombs. Redirects and pages outside the article namespace are
    passed over.
    """
    title = text = ""
    namespace, redirect, root = "0", False, None
    for event, element in iterparse(stream, events=("start", "end")):
        tag = element.tag.rsplit("}", 1)[-1]
        if event == "start":
            root = element if root is None else root
        elif tag == "title":
            title = element.text or ""
        elif tag == "ns":
            namespace = element.text or "0"
        elif tag == "redirect":
            redirect = True
        elif tag == "text":
            text = element.text or ""
        elif tag == "page":
            if namespace == "0" and not redirect and not text.lower().startswith("#redirect"):
                yield title, text
            namespace, redirect, text = "0", False, ""
            root.clear()


def clean_wikitext(wikitext: str) -> str:
    """Readable prose: no hyperlinks, comments, templates, tables, references or markup.

    Raises:
        Tangled: it cannot be parsed in any reasonable time.
    """
    if end := DROPPED_SECTIONS.search(wikitext):
        wikitext = wikitext[: end.start()]
    wikitext = without_tags(cut_between(wikitext, ("<!--", "-->")))
    check_markup(wikitext)
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    templates = code.filter_templates(recursive=False)
    _remove(code, [*templates, *code.filter_tags(matches=_is_table)])
    _remove(code, [link for link in code.filter_wikilinks() if MEDIA.match(str(link.title))])
    text = code.strip_code(normalize=True, collapse=True)
    text = re.sub(r"'{2,}|\[https?://\S+|^[*#:;|!{}]+\s*", "", text, flags=re.M)
    text = re.sub(r"(?<![ \t])[ \t]*+\((?:\s*+[;,])?\s*+\)|^[ \t]+", "", text, flags=re.M)
    text = re.sub(r"(?<![ \t])[ \t]++(?=[,.;:)])", "", text)
    return tidy("\n".join(map(_heading, text.split("\n"))))


def without_tags(wikitext: str) -> str:
    """Wikitext without references, galleries and formulas; those that are not closed stay."""
    ends = {name: Ahead(re.compile(f"</{name}>", re.I), wikitext)
            for name in ("ref", "gallery", "math")}  # fmt: skip
    stops = Ahead(re.compile("[>/]"), wikitext)

    def end_of(found: re.Match[str]) -> int | None:
        name = found[1].lower()
        stop = stops(found.end()) if name == "ref" else None
        if stop and wikitext.startswith("/>", stop.start()):  # <ref name="..."/>
            return stop.start() + 2
        closed = ends[name](found.end())
        return closed.end() if closed else None

    return cut(wikitext, TAG, end_of)


def _heading(line: str) -> str:
    """A line without the equals signs around a heading."""
    is_heading = len(line) > 1 and line[0] == line[-1] == "="
    return line.strip("=").strip() if is_heading else line


def _is_table(tag: mwparserfromhell.nodes.Tag) -> bool:
    return str(tag.tag).lower() == "table"


def _remove(code: Wikicode, nodes: list[Node]) -> None:
    """Take nodes out: those at the top all at once, the others one by one."""
    doomed = {id(node) for node in nodes}
    at_top = {id(node) for node in code.nodes} & doomed
    if at_top:
        code.nodes = [node for node in code.nodes if id(node) not in at_top]
    for node in nodes:
        if id(node) not in at_top:
            with suppress(ValueError):  # it went with the node around it
                code.remove(node)


def wikipedia(members: Members, skipped: Counter[str] | None = None) -> Texts:
    """One document an article, its title on the first line.

    Args:
        members: the dumps.
        skipped: counts, by reason, of articles that cannot be read; it grows.
    """
    skipped = Counter() if skipped is None else skipped
    for path, content in members:
        with bz2.open(io.BytesIO(content)) as dump:
            for title, wikitext in articles(dump):
                with counted(skipped):  # one bad article costs no other
                    yield f"{path}#{title}", f"{title}\n\n{clean_wikitext(wikitext)}"
