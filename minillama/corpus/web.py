"""The CommonCrawl slice: from HTML pages to their main text."""

import dataclasses
import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from minillama.corpus.books import Members, Texts, tidy
from minillama.corpus.document import Document


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


def drop_repeated_lines(documents: list[Document], seen: set[str]) -> tuple[list[Document], int]:
    """Each line only where it is met first, as CCNet does (Wenzek et al., 2019; Section 2.1).

    Lines are compared without case, punctuation and spaces, and with every digit read as 0.

    Args:
        documents: changed in this order.
        seen: the lines met so far; it grows. Passing one set for the training documents and then
            for the held-out ones leaves no line of the first in the second.

    Returns:
        The documents without such lines, and how many lines were dropped.
    """
    kept, dropped = [], 0
    for document in documents:
        lines = []
        for line in document.text.split("\n"):
            plain = re.sub(r"\W", "", re.sub(r"\d", "0", line.casefold()))
            if plain in seen:
                dropped += 1
                continue
            if plain:
                seen.add(plain)
            lines.append(line)
        kept.append(dataclasses.replace(document, text=tidy("\n".join(lines))))
    return kept, dropped
