"""Texts that lie in tables: leads of articles, countries, recipes, talk, verses, glosses.

One reader for each layout; none is more than its layout asks for.
"""

import csv
import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from minillama.corpus.commoncrawl import extract_text
from minillama.corpus.document import Members, Texts, decode_text, tidy

MIN_TURNS = 6
"""Shorter conversations are greetings."""
BEST = 28
"""Points that a conversation was given, of 30: for wit, interest and cheer."""
MIN_FACT = 120
"""Characters; shorter entries of a factbook are figures and lists."""
NOTE = re.compile(r"\{[^{}]*\}")
GLOSSES = 40
"""Entries of a dictionary that make a document."""


def json_lines(members: Members) -> Texts:
    """One document a line of .jsonl, its ``text``."""
    for path, content in members:
        for number, line in enumerate(content.splitlines()):
            yield f"{path}#{number}", tidy(json.loads(line)["text"])


def text_lines(members: Members) -> Texts:
    """One document a line: a whole article."""
    for path, content in members:
        for number, line in enumerate(decode_text(content).split("\n")):
            if line.strip():
                yield f"{path}#{number}", tidy(line)


def summaries(members: Members) -> Texts:
    """The lead of each article of an encyclopedia, its title first."""
    for path, content in members:
        for name, article in json.loads(content).items():
            yield f"{path}#{name}", tidy(f"{article['title']}\n\n{article['extract']}")


def recipes(members: Members) -> Texts:
    """One document a recipe: title, ingredients, steps."""
    for path, content in members:
        for name, recipe in json.loads(content).items():
            parts = [recipe["title"], "\n".join(recipe["ingredients"]), *recipe["steps"]]
            yield f"{path}#{name}", tidy("\n\n".join(parts))


def factbook(members: Members) -> Texts:
    """One document a country: every entry in whole sentences, its name first."""
    for path, content in members:
        facts = list(_facts(json.loads(content)))
        if facts:
            yield path, tidy("\n\n".join(f"{name}: {text}" for name, text in facts))


def _facts(entry: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of the long entries, however deep."""
    if not isinstance(entry, dict):
        return
    text = entry.get("text")
    if isinstance(text, str) and len(text) > MIN_FACT:
        yield name, extract_text(f"<p>{text}</p>", main_content=False)
    for key, value in entry.items():
        yield from _facts(value, key)


def talk(members: Members, best: bool) -> Texts:
    """One document a conversation, a line for each turn; who speaks, and when, is never read.

    Those that both speakers rated highly, and that began with a question, are as near as packages
    come to StackExchange's best answers; the others are talk like that of web pages.
    """
    for path, content in members:
        for number, conversation in enumerate(json.loads(content).values()):
            turns = conversation["messages"]
            question = conversation.get("prompt")
            is_best = bool(question) and sum(conversation.get("ratings", {}).values()) >= BEST
            if len(turns) < MIN_TURNS or is_best != best:
                continue
            lines = [f"Q: {question}\n"] if best else []
            for turn in turns:
                said = " ".join(message["text"] for message in turn)
                lines.append("- " + " ".join(said.split()))
            yield f"{path}#{number}", tidy("\n".join(lines))


def bible_table(members: Members) -> Texts:
    """One document a book of a Bible in .csv.gz; notes stand in braces and go."""
    for path, content in members:
        rows = csv.reader(io.StringIO(gzip.decompress(content).decode("utf-8")))
        verses = [row for row in rows if row[0].isdigit()]
        for book, of_book in groupby(verses, key=lambda row: row[1]):
            lines = []
            for _, _, chapter, verse, text in of_book:
                if verse == "1":
                    lines.append(f"\nChapter {chapter}\n")
                lines.append(f"{verse} {NOTE.sub('', text)}")
            yield f"{path}#{book}", tidy("\n".join(lines))


def glosses(members: Members) -> Texts:
    """Entries of WordNet, ``GLOSSES`` a document: the words of each, and what they mean."""
    for path, content in members:
        entries = []
        for line in decode_text(content).splitlines():
            if line[:1].isdigit():
                fields, gloss = line.split(" | ", 1)
                entries.append(f"{_synonyms(fields.split())}: {gloss.strip()}")
        for first in range(0, len(entries), GLOSSES):
            yield f"{path}#{first}", "\n".join(entries[first : first + GLOSSES])


def _synonyms(fields: list[str]) -> str:
    """The words of an entry: number, file, part of speech, their count in hex, then in pairs."""
    count = int(fields[3], 16)
    return ", ".join(fields[4 : 4 + 2 * count : 2]).replace("_", " ")


def speeches(members: Members) -> Texts:
    """One document a speech in the tables of a .zip, from their column ``text``."""
    for path, content in members:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                rows = csv.DictReader(io.StringIO(decode_text(archive.read(name))))
                for number, row in enumerate(rows):
                    yield f"{path}#{name}#{number}", tidy(row["text"])


def service_documentation(members: Members) -> Texts:
    """One document a web service: every description in its .json.gz, which is HTML."""
    for path, content in members:
        described = _descriptions(json.loads(gzip.decompress(content)))
        page = "\n".join(dict.fromkeys(described))
        yield path, tidy(extract_text(page, main_content=False))


def _descriptions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "documentation" and isinstance(inner, str):
                yield f"<p>{inner}</p>"
            else:
                yield from _descriptions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _descriptions(inner)
