"""The GitHub slice: Python source of projects under Apache, BSD or MIT licences."""

import re

from minillama.corpus.books import Members, Texts

LICENCE_HEADER = re.compile(
    r"\A(#!.*\n)?((#[^\n]*)?\n)*?(#[^\n]*(copyright|licen[cs]e)[^\n]*\n)(#[^\n]*\n)*", re.I
)
MAX_LINE, MEAN_LINE, MIN_ALNUM = 1_000, 100, 0.25


def clean_code(text: str) -> str | None:
    """A source file without its licence header; None if it looks like data or generated text.

    Long lines and few letters or digits are the signs the paper names; its thresholds are not
    published, so these are the ones that later open corpora use.
    """
    text = LICENCE_HEADER.sub("", text.replace("\r\n", "\n")).strip() + "\n"
    lines = text.split("\n")
    longest = max(len(line) for line in lines)
    alphanumeric = sum(character.isalnum() for character in text)
    if longest > MAX_LINE or len(text) > MEAN_LINE * len(lines) or len(text) < 200:
        return None
    return text if alphanumeric > MIN_ALNUM * len(text) else None


def python(members: Members) -> Texts:
    """One document a file."""
    for path, content in members:
        try:
            yield path, clean_code(content.decode("utf-8")) or ""
        except UnicodeDecodeError:
            yield path, ""
