"""The Wikipedia slice: from a dump's XML to articles without links, templates and comments."""

import bz2
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from xml.etree.ElementTree import Element

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
MARKS = (
    re.compile("(<!--)"),  # the closed ones are gone
    re.compile(r"(\{\{)|\}\}"),
    re.compile(r"(\[\[)|\]\]"),
    re.compile(r"(\{\|)|\|\}"),
    re.compile(r"(\[(?=\w+:|//))|\]"),
    re.compile(r"(<(?!(?:br|hr|li|p|dd|dt|tr|td|th)\b)[a-z])|</|/>", re.I),
)
"""Markup that opens, as a group, and that closes: comment, template, link, table, address, tag."""
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
    for mark in MARKS:
        depth = 0
        for found in mark.finditer(wikitext):
            depth = depth + 1 if found[1] else max(0, depth - 1)
            if depth > MAX_DEPTH:
                raise Tangled(f"{MAX_DEPTH} times {found[0]} is not closed")


def articles(stream: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (title, wikitext) of the articles of a dump, one page in memory at a time.

    Redirects and other namespaces are passed over; ``defusedxml`` refuses entity bombs.
    """
    root = None
    for event, element in iterparse(stream, events=("start", "end")):
        if root is None:
            root = element
        if event == "start" or _local_name(element) != "page":
            continue
        fields = {_local_name(child): child.text or "" for child in element.iter()}
        text = fields.get("text", "")
        is_redirect = "redirect" in fields or text.lower().startswith("#redirect")
        if not is_redirect and fields.get("ns", "0") == "0":
            yield fields.get("title", ""), text
        root.clear()


def _local_name(element: Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def clean_wikitext(wikitext: str) -> str:
    """Readable prose: no hyperlinks, comments, templates, tables, references or markup.

    Raises:
        Tangled: it cannot be parsed in any reasonable time.
    """
    # Before it is parsed
    if end := DROPPED_SECTIONS.search(wikitext):
        wikitext = wikitext[: end.start()]
    wikitext = without_tags(cut_between(wikitext, ("<!--", "-->")))
    check_markup(wikitext)
    # Whole nodes
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    templates = code.filter_templates(recursive=False)
    tables = code.filter_tags(matches=lambda tag: str(tag.tag).lower() == "table")
    _remove(code, templates + tables)
    media = code.filter_wikilinks(matches=lambda link: MEDIA.match(str(link.title)))
    _remove(code, media)
    # What is left of markup, and the blanks where something was
    text = code.strip_code(normalize=True, collapse=True)
    text = re.sub(r"'{2,}|\[https?://\S+|^[*#:;|!{}]+\s*", "", text, flags=re.M)
    text = re.sub(r"(?<![ \t])[ \t]*+\((?:\s*+[;,])?\s*+\)|^[ \t]+", "", text, flags=re.M)
    text = re.sub(r"(?<![ \t])[ \t]++(?=[,.;:)])", "", text)
    lines = [_plain_heading(line) for line in text.split("\n")]
    return tidy("\n".join(lines))


def without_tags(wikitext: str) -> str:
    """Wikitext without references, galleries and formulas; those that are not closed stay."""
    closings = {
        name: Ahead(re.compile(f"</{name}>", re.I), wikitext) for name in ("ref", "gallery", "math")
    }
    stops = Ahead(re.compile("[>/]"), wikitext)

    def end_of_tag(opening: re.Match[str]) -> int | None:
        name = opening[1].lower()
        stop = stops(opening.end()) if name == "ref" else None
        if stop and wikitext.startswith("/>", stop.start()):  # <ref name="..."/>
            return stop.start() + 2
        closing = closings[name](opening.end())
        return closing.end() if closing else None

    return cut(wikitext, TAG, end_of_tag)


def _plain_heading(line: str) -> str:
    is_heading = len(line) > 1 and line[0] == line[-1] == "="
    return line.strip("=").strip() if is_heading else line


def _remove(code: Wikicode, nodes: list[Node]) -> None:
    """Take nodes out: those at the top all at once, the others one by one."""
    doomed = set(map(id, nodes))
    at_top = {id(node) for node in code.nodes if id(node) in doomed}
    code.nodes = [node for node in code.nodes if id(node) not in at_top]
    for node in nodes:
        if id(node) not in at_top:
            with suppress(ValueError):  # it went with the node around it
                code.remove(node)


def wikipedia(members: Members, skipped: Counter[str] | None = None) -> Texts:
    """One document an article, its title first; ``skipped`` counts what cannot be read."""
    skipped = Counter() if skipped is None else skipped
    for path, content in members:
        with bz2.open(io.BytesIO(content)) as dump:
            for title, wikitext in articles(dump):
                with counted(skipped):  # one bad article costs no other
                    yield f"{path}#{title}", f"{title}\n\n{clean_wikitext(wikitext)}"
