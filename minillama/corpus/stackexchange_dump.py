"""The StackExchange slice as its dump ships it: a ``Posts.xml`` for each site.

Section 2.1: data "from the 28 largest websites", "removed the HTML tags from text and sorted the
answers by score (from highest to lowest)". Questions and answers lie far apart in a dump, so they
are brought together in a database on disk: memory does not grow with the site.
"""

import io
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from defusedxml.ElementTree import iterparse
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from minillama.corpus.commoncrawl import check_depth
from minillama.corpus.document import Members, Texts, tidy
from minillama.corpus.skip_errors import counted
from minillama.errors import DataError

SITES = 28
QUESTION, ANSWER = "1", "2"
COLUMNS = "id INTEGER PRIMARY KEY, question INTEGER, score INTEGER, title TEXT, body TEXT"
LOST = """SELECT COUNT(*) FROM post WHERE question IS NOT NULL AND question NOT IN
          (SELECT id FROM post WHERE question IS NULL)"""
BY_SCORE = "CREATE INDEX answers ON post (question, score DESC, id)"


def largest_sites(folder: Path, count: int = SITES) -> list[Path]:
    """The ``count`` largest ``SITE/Posts.xml`` of a folder of unpacked dumps, largest first."""
    files = sorted(folder.glob("*/Posts.xml"))
    return sorted(files, key=lambda file: -file.stat().st_size)[:count]


def posts(stream: IO[bytes]) -> Iterator[dict[str, str]]:
    """The rows of a dump, one in memory at a time; entities are refused.

    Raises:
        xml.etree.ElementTree.ParseError: malformed or cut short, after the rows before.
    """
    root = None
    for event, element in iterparse(stream, events=("start", "end")):
        if event == "start":
            root = element if root is None else root
        elif element.tag == "row":
            yield dict(element.attrib)
            root.clear()


def threads(rows: Iterator[dict[str, str]], skipped: Counter[str] | None = None) -> Texts:
    """One document a question that has an answer: Q, then its answers, the highest score first.

    Args:
        rows: the dump's.
        skipped: counts, by reason, of questions and answers that are left out; it grows.

    Yields:
        The question's number, and the text.

    Raises:
        DataError: there is no room for the database.
    """
    skipped = Counter() if skipped is None else skipped
    try:
        yield from _threads(rows, skipped)
    except sqlite3.OperationalError as error:
        what = f"the posts cannot be sorted in {tempfile.gettempdir()}: {error}"
        raise DataError(what, "make room there, or name another folder in TMPDIR") from None


def _threads(rows: Iterator[dict[str, str]], skipped: Counter[str]) -> Texts:
    with tempfile.NamedTemporaryFile(suffix=".db") as file:
        database = sqlite3.connect(file.name)
        try:
            database.execute(f"CREATE TABLE post ({COLUMNS})")
            insert = "INSERT OR IGNORE INTO post VALUES (?, ?, ?, ?, ?)"
            asked = 0
            for asked, record in enumerate(_records(rows, skipped), start=1):  # noqa: B007
                database.execute(insert, record)
            [(held,)] = database.execute("SELECT COUNT(*) FROM post")
            skipped += Counter({"posts with a number met before": asked - held})
            database.execute(BY_SCORE)
            [(lost,)] = database.execute(LOST)
            skipped += Counter({"answers without their question": lost})
            questions = database.execute(
                "SELECT id, title, body FROM post WHERE question IS NULL ORDER BY id"
            )
            for number, title, body in questions:
                answers = database.execute(
                    "SELECT body FROM post WHERE question = ? ORDER BY score DESC, id", (number,)
                ).fetchall()
                if not answers:
                    skipped["questions without an answer"] += 1
                    continue
                with counted(skipped):
                    yield str(number), thread(title, body, [answer for (answer,) in answers])
        finally:
            database.close()


def _records(
    rows: Iterator[dict[str, str]], skipped: Counter[str]
) -> Iterator[tuple[int, int | None, int, str, str]]:
    """Questions and answers; wikis, tags and notes are passed over, and are no posts."""
    for row in rows:
        if row.get("PostTypeId") not in (QUESTION, ANSWER):
            continue
        try:
            question = int(row["ParentId"]) if row["PostTypeId"] == ANSWER else None
            number, score = int(row["Id"]), int(row.get("Score", 0))
        except (KeyError, ValueError):
            skipped["posts without a number"] += 1
            continue
        if max(map(abs, (number, score, question or 0))) >= 2**63:
            skipped["posts without a number"] += 1
            continue
        yield number, question, score, row.get("Title", ""), row.get("Body", "")


def thread(title: str, question: str, answers: list[str]) -> str:
    """A question and its answers as plain text."""
    parts = [f"Q: {title}", post_text(question), *(f"A: {post_text(a)}" for a in answers)]
    return "\n\n".join(part for part in parts if part)


def post_text(body: str) -> str:
    """The HTML of a post as text: paragraphs, list marks and code keep their lines."""
    check_depth(body)
    tree = HTMLTree.parse(body)
    text = extract_plain_text(
        tree, main_content=False, preserve_formatting=True, list_bullets=True, alt_texts=False,
        links=False, form_fields=False, noscript=False,
    )  # fmt: skip
    return tidy(text)


def read_site(path: Path) -> Texts:
    """The documents of one site's ``Posts.xml``."""
    with open(path, "rb") as stream:
        yield from threads(posts(stream))


def stackexchange(members: Members, skipped: Counter[str] | None = None) -> Texts:
    """One document a question of each site's ``Posts.xml``.

    Args:
        members: the dumps.
        skipped: counts, by reason, of questions and answers that are left out; it grows.

    Raises:
        Exception: a file is malformed or cut short, after the questions before that place.
    """
    for path, content in members:
        damage: list[Exception] = []
        rows = _until_damage(posts(io.BytesIO(content)), damage)
        for number, text in threads(rows, skipped):
            yield f"{path}#{number}", text
        if damage:
            raise damage[0]


def _until_damage(
    rows: Iterator[dict[str, str]], damage: list[Exception]
) -> Iterator[dict[str, str]]:
    try:
        yield from rows
    except (SyntaxError, ValueError) as error:  # ParseError, and what defusedxml refuses
        damage.append(error)
