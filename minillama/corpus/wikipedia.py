"""The Wikipedia slice: from a dump's XML to articles without links, templates and comments."""

import bz2
import io
import re
from collections.abc import Iterable, Iterator

import mwparserfromhell
from defusedxml.ElementTree import iterparse

from minillama.corpus.books import Members, Texts, tidy

DROPPED_SECTIONS = re.compile(
    r"^=+\s*(References|External links|See also|Notes|Further reading|Bibliography|Footnotes"
    r"|Sources|Citations|Gallery)\s*=+\s*$", re.I | re.M,
)  # fmt: skip
MEDIA = re.compile(r"^(File|Image|Category|Media|[a-z-]{2,12}):", re.I)


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
    """Readable prose: no hyperlinks, comments, templates, tables, references or markup."""
    if end := DROPPED_SECTIONS.search(wikitext):
        wikitext = wikitext[: end.start()]
    wikitext = re.sub(r"<!--.*?-->", "", wikitext, flags=re.S)
    wikitext = re.sub(r"<ref[^>/]*/>|<ref.*?</ref>|<gallery.*?</gallery>|<math.*?</math>", "",
                      wikitext, flags=re.S | re.I)  # fmt: skip
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    for node in [*code.filter_templates(recursive=False), *code.filter_tags(matches=_is_table)]:
        _remove(code, node)
    for link in code.filter_wikilinks():
        if MEDIA.match(str(link.title)):
            _remove(code, link)
    text = code.strip_code(normalize=True, collapse=True)
    text = re.sub(r"'{2,}|\[https?://\S+|^[*#:;|!{}]+\s*", "", text, flags=re.M)
    text = re.sub(r"[ \t]*\(\s*[;,]?\s*\)|^[ \t]+", "", text, flags=re.M)
    text = re.sub(r"[ \t]+(?=[,.;:)])", "", text)
    return tidy(re.sub(r"^=+\s*(.*?)\s*=+$", r"\1", text, flags=re.M))


def _is_table(tag: mwparserfromhell.nodes.Tag) -> bool:
    return str(tag.tag).lower() == "table"


def _remove(code: mwparserfromhell.wikicode.Wikicode, node: mwparserfromhell.nodes.Node) -> None:
    try:
        code.remove(node)
    except ValueError:  # it went with the node around it
        return


def wikipedia(members: Members) -> Texts:
    """One document an article, its title on the first line."""
    for path, content in members:
        with bz2.open(io.BytesIO(content)) as dump:
            for title, wikitext in articles(dump):
                yield f"{path}#{title}", f"{title}\n\n{clean_wikitext(wikitext)}"
