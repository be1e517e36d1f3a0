"""The CommonCrawl slice: from HTML pages to their main text."""

import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from minillama.corpus.books import Members, Texts, tidy


def html_to_text(html: str) -> str:
    """The main text of a page: navigation, header, footer and scripts left out."""
    tree = HTMLTree.parse(html)
    text = extract_plain_text(
        tree, main_content=True, preserve_formatting=True, list_bullets=True, alt_texts=False,
        links=False, form_fields=False, noscript=False,
    )  # fmt: skip
    return tidy(re.sub(r"[¶\u200b]", "", text))


def html(members: Members) -> Texts:
    """One document a page."""
    for path, content in members:
        yield path, html_to_text(bytes_to_str(content, detect_encoding(content)))
