"""The C4 slice: clean web prose; here the documentation that large projects publish."""

import re

from minillama.corpus.books import Members, Texts, tidy

UNDERLINE = re.compile(r"^([=\-~^\"'`#*+.:_])\1{2,}\s*$", re.M)
TARGET = re.compile(
    r"^\s*\.\. (_[^:]+:.*|\|.*\|.*|\[.*\].*|index::.*|module::.*|currentmodule::.*)$", re.M
)
DIRECTIVE = re.compile(r"^( *)\.\. ?([\w:-]*?)::(.*)$", re.M)
COMMENT = re.compile(r"^\.\. (?![\w:-]+::)[^\n]*(\n[ \t]+[^\n]*)*", re.M)
OPTION = re.compile(r"^[ \t]+:[\w-]+:(?!`).*$", re.M)
ROLE = re.compile(r":[\w:+.-]+:`~?!?([^`]*)`")
LINK = re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{1,2}")


def strip_rst(text: str) -> str:
    """reStructuredText as readable prose: headings, paragraphs and code without the markup."""
    text = text.replace("\r\n", "\n")
    text = COMMENT.sub("", TARGET.sub("", text))
    text = DIRECTIVE.sub(lambda m: m[1] + (m[3].strip() if m[2] not in HIDDEN else ""), text)
    text = UNDERLINE.sub("", OPTION.sub("", text))
    text = ROLE.sub(lambda m: re.sub(r"\s*<[^>]*>$", "", m[1]), text)
    text = LINK.sub(r"\1", text)
    text = re.sub(r"``([^`]+)``|`([^`]+)`_{0,2}", lambda m: m[1] or m[2], text)
    text = re.sub(r"\*\*([^*\n]+)\*\*|(?<!\w)\*([^*\n]+)\*(?!\w)", lambda m: m[1] or m[2], text)
    return tidy(re.sub(r"::[ \t]*$", ":", text, flags=re.M))


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
