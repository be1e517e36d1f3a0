"""The StackExchange slice: questions and answers, the highest score first.

Section 2.1: data "from the 28 largest websites", "removed the HTML tags from text and sorted the
answers by score (from highest to lowest)". A dump is a ``Posts.xml`` for each site, in which
questions and answers lie far apart, so they are brought together in a database on disk: memory does
not grow with the site. The nano corpus has ChatterBot's conversations, of the same shape.
"""

import io
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import yaml
from defusedxml.ElementTree import iterparse
from yaml.events import AliasEvent

from minillama.corpus.commoncrawl import extract_text
from minillama.corpus.document import Members, Texts, tidy
from minillama.corpus.skip_errors import counted
from minillama.errors import DataError

SITES = 28
QUESTION, ANSWER = "1", "2"
MAX_DEPTH = 20
Rows = Iterator[dict[str, str]]

POSTS = "CREATE TABLE post (id INTEGER PRIMARY KEY, question INT, score INT, title TEXT, body TEXT)"
BY_SCORE = "CREATE INDEX answers ON post (question, score DESC, id)"
ADD_POST = "INSERT OR IGNORE INTO post VALUES (?, ?, ?, ?, ?)"
COUNT_POSTS = "SELECT COUNT(*) FROM post"
COUNT_LOST = f"""{COUNT_POSTS} WHERE question IS NOT NULL AND question NOT IN
                 (SELECT id FROM post WHERE question IS NULL)"""
QUESTIONS = "SELECT id, title, body FROM post WHERE question IS NULL ORDER BY id"
ANSWERS = "SELECT body FROM post WHERE question = ? ORDER BY score DESC, id"


def largest_sites(folder: Path, count: int = SITES) -> list[Path]:
    """The ``count`` largest ``SITE/Posts.xml`` of a folder of unpacked dumps, largest first."""
    files = sorted(folder.glob("*/Posts.xml"))
    return sorted(files, key=lambda file: -file.stat().st_size)[:count]


def posts(stream: IO[bytes]) -> Rows:
    """The rows of a dump, one in memory at a time. Raises ``ParseError`` where it is malformed."""
    root = None
    for event, element in iterparse(stream, events=("start", "end")):
        if root is None:
            root = element
        elif event == "end" and element.tag == "row":
            yield dict(element.attrib)
            root.clear()


def threads(rows: Rows, skipped: Counter[str] | None = None) -> Texts:
    """One document a question that has an answer: its number, and its text with the answers.

    ``skipped`` counts what is left out. Raises ``DataError`` without room for the database.
    """
    skipped = Counter() if skipped is None else skipped
    try:
        with (
            tempfile.NamedTemporaryFile(suffix=".db") as file,
            closing(sqlite3.connect(file.name)) as database,
        ):
            _store_posts(database, rows, skipped)
            yield from _stored_threads(database, skipped)
    except sqlite3.OperationalError as error:
        message = f"the posts cannot be sorted in {tempfile.gettempdir()}: {error}"
        raise DataError(message, "make room there, or name another folder in TMPDIR") from None


def _store_posts(database: sqlite3.Connection, rows: Rows, skipped: Counter[str]) -> None:
    database.execute(POSTS)
    met = 0
    for row in rows:
        if row.get("PostTypeId") not in (QUESTION, ANSWER):
            continue  # wikis, tags and notes are no posts
        try:
            database.execute(ADD_POST, _record(row))
            met += 1
        except (KeyError, ValueError, OverflowError):  # SQLite counts to 2^63
            skipped["posts without a number"] += 1
    [held] = database.execute(COUNT_POSTS).fetchone()
    skipped += Counter({"posts with a number met before": met - held})
    database.execute(BY_SCORE)
    [lost] = database.execute(COUNT_LOST).fetchone()
    skipped += Counter({"answers without their question": lost})


def _record(row: dict[str, str]) -> tuple[int, int | None, int, str, str]:
    question = int(row["ParentId"]) if row["PostTypeId"] == ANSWER else None
    score = int(row.get("Score", 0))
    return int(row["Id"]), question, score, row.get("Title", ""), row.get("Body", "")


def _stored_threads(database: sqlite3.Connection, skipped: Counter[str]) -> Texts:
    for number, title, body in database.execute(QUESTIONS):
        answers = [answer for (answer,) in database.execute(ANSWERS, (number,))]
        if not answers:
            skipped["questions without an answer"] += 1
            continue
        with counted(skipped):
            yield str(number), thread(title, body, answers)


def thread(title: str, question: str, answers: list[str]) -> str:
    """A question and its answers as plain text."""
    parts = [f"Q: {title}", post_text(question)]
    parts += [f"A: {post_text(answer)}" for answer in answers]
    return "\n\n".join(part for part in parts if part)


def post_text(body: str) -> str:
    """The HTML of a post as text: paragraphs, list marks and code keep their lines."""
    return tidy(extract_text(body, main_content=False))


def read_site(path: Path) -> Texts:
    """The documents of one site's ``Posts.xml``."""
    with open(path, "rb") as stream:
        yield from threads(posts(stream))


def stackexchange(members: Members, skipped: Counter[str] | None = None) -> Texts:
    """One document a question of each site's ``Posts.xml``; ``skipped`` counts what is left out.

    A file that is malformed raises its error after the questions before that place.
    """
    for path, content in members:
        damage: list[Exception] = []
        rows = _until_damage(posts(io.BytesIO(content)), damage)
        for number, text in threads(rows, skipped):
            yield f"{path}#{number}", text
        for error in damage:
            raise error


def _until_damage(rows: Rows, damage: list[Exception]) -> Rows:
    try:
        yield from rows
    except (SyntaxError, ValueError) as error:  # ParseError, and what defusedxml refuses
        damage.append(error)


class Plain(yaml.SafeLoader):
    """YAML without aliases, which can make a few bytes stand for any number, and without depths."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what conversations do not need."""
        if self.check_event(AliasEvent) or self.depth > MAX_DEPTH:
            raise yaml.YAMLError("an alias, or lists in lists in lists")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def conversations(members: Members) -> Texts:
    """One document a topic: each question followed by its answers."""
    for path, content in members:
        parts = []
        for turns in yaml.load(content, Plain)["conversations"]:
            if isinstance(turns, str):  # a question whose answers are missing
                continue
            question, *answers = (str(turn).strip() for turn in turns)
            lines = [f"Q: {question}"] + [f"A: {answer}" for answer in answers]
            parts.append("\n".join(lines))
        yield path, tidy("\n\n".join(parts))
