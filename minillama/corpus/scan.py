"""Searching texts in time that grows with their length and no faster, whatever they hold.

A regular expression such as ``<!--.*?-->`` looks through all that follows at each opening that is
never closed: a page of a million such openings takes it hours. Here what was looked through once is
remembered.
"""

import re
from collections.abc import Callable


class Ahead:
    """Where a pattern matches next, for places that only move forward.

    Args:
        pattern: what is looked for.
        text: where.
    """

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._pattern, self._text = pattern, text
        self._found = pattern.search(text)

    def __call__(self, at: int) -> re.Match[str] | None:
        """The first match that begins at ``at`` or later; ``at`` must never decrease."""
        if self._found and self._found.start() < at:
            self._found = self._pattern.search(self._text, at)
        return self._found


def cut(text: str, opening: re.Pattern[str], end_of: Callable[[re.Match[str]], int | None]) -> str:
    """A text without its passages from each opening to where that ends.

    Args:
        text: the text.
        opening: how a passage begins.
        end_of: where the passage of an opening ends; None: it does not, and the opening stays.
    """
    parts, at = [], 0
    for found in opening.finditer(text):
        begin = found.start()
        if begin < at:  # inside the passage before
            continue
        end = end_of(found)
        if end is not None:
            parts.append(text[at:begin])
            at = end
    parts.append(text[at:])
    return "".join(parts)


def cut_between(text: str, *pairs: tuple[str, str]) -> str:
    """A text without what stands between an opening and the next closing, both included.

    Args:
        text: the text.
        pairs: regular expressions of an opening and its closing; the first opening counts.
    """
    closings = [Ahead(re.compile(closing), text) for _, closing in pairs]
    opening = re.compile("|".join(f"({opening})" for opening, _ in pairs))

    def end_of(found: re.Match[str]) -> int | None:
        next_closing = closings[found.lastindex - 1]
        closed = next_closing(found.end())
        return closed.end() if closed else None

    return cut(text, opening, end_of)
