"""StackExchange's Posts.xml in its real schema, small."""

import io
import tracemalloc
from collections import Counter
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import quoteattr

import pytest
from defusedxml import EntitiesForbidden
from tiny import prose

from minillama.corpus.recipes import READERS
from minillama.corpus.stackexchange import (
    largest_sites,
    post_text,
    posts,
    read_site,
    thread,
    threads,
)


def row(**attributes) -> str:
    return "  <row " + " ".join(f"{k}={quoteattr(str(v))}" for k, v in attributes.items()) + " />\n"


def dump(*rows: str) -> bytes:
    return (
        f'\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n{"".join(rows)}</posts>'.encode()
    )


def question(number: int, title: str, body: str, **more) -> str:
    return row(Id=number, PostTypeId=1, CreationDate="2010-08-05T19:15:41.243", Score=3,
               Body=body, Title=title, Tags="<python>", AnswerCount=2, **more)  # fmt: skip


def answer(number: int, parent: int, score: int, body: str) -> str:
    return row(Id=number, PostTypeId=2, ParentId=parent, Score=score, Body=body)


CODE = (
    "<p>Use a loop:</p>\n<pre><code>for i in x:\n    if i &lt; 3:\n        print(i)\n</code></pre>"
)
SITE = dump(
    question(1, "How to print?", "<p>I <b>want</b> to <a href='http://x'>print</a>.</p>",
             AcceptedAnswerId=3),
    question(2, "Nobody knows", "<p>Why?</p>"),
    answer(3, 1, 5, "<p>Accepted, but second.</p>"),
    row(Id=4, PostTypeId=5, Body="a wiki"),
    answer(5, 1, -2, "<p>Last.</p>"),
    answer(6, 1, 9, CODE),
    answer(7, 1, 5, "<p>Third: as many points, later.</p>"),
    answer(8, 99, 1, "<p>To a question that was deleted.</p>"),
    row(Id="x", PostTypeId=1, Body="no number"), row(PostTypeId=2, Id=9, Score=1, Body="no parent"),
)  # fmt: skip


def test_answers_follow_their_question_by_score():
    assert list(threads(posts(io.BytesIO(SITE)))) == [
        ("1", "Q: How to print?\n\nI want to print.\n\n"
              "A: Use a loop:\n\nfor i in x:\n    if i < 3:\n        print(i)\n\n"
              "A: Accepted, but second.\n\nA: Third: as many points, later.\n\nA: Last."),
    ]  # fmt: skip


def test_answers_may_stand_before_their_question():
    site = dump(answer(2, 5, 1, "<p>a</p>"), question(5, "t", "<p>q</p>"))
    assert list(threads(posts(io.BytesIO(site)))) == [("5", "Q: t\n\nq\n\nA: a")]


def test_entities_are_refused():
    bomb = b'<!DOCTYPE p [<!ENTITY a "aaaa">]><posts><row Id="1" Body="&a;"/></posts>'
    with pytest.raises(EntitiesForbidden):
        list(posts(io.BytesIO(bomb)))


def test_a_dump_cut_short_gives_its_rows_and_then_says_so():
    rows, seen = posts(io.BytesIO(SITE[: SITE.index(b'Id="6"')])), []
    with pytest.raises(ParseError):
        seen.extend(r["Id"] for r in rows)
    assert seen == ["1", "2", "3", "4", "5"]


def test_html_that_is_no_html_gives_its_text():
    assert post_text("a < b & c <unknown>d</p></p>") == "a < b & c d"
    assert thread("", "<p></p>", ["<p>x</p>"]) == "Q: \n\nA: x"


def test_memory_does_not_grow_with_the_site(tmp_path):
    def peak(count: int) -> int:
        rows = [question(2 * i, f"t{i}", prose(i)) + answer(2 * i + 1, 2 * i, 1, prose(i))
                for i in range(count)]  # fmt: skip
        path = tmp_path / "Posts.xml"
        path.write_bytes(dump(*rows))
        del rows
        tracemalloc.start()
        assert sum(1 for _ in read_site(path)) == count
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(10)
    assert peak(1_000) < 1.3 * peak(100)


def test_the_largest_sites(tmp_path):
    for name, size in {"small": 1, "large": 3, "middle": 2}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "Posts.xml").write_bytes(b"x" * size)
    (tmp_path / "empty").mkdir()
    assert [file.parent.name for file in largest_sites(tmp_path, 2)] == ["large", "middle"]


def test_a_dump_that_breaks_off_gives_the_questions_before(tmp_path):
    skipped = Counter()
    whole, cut = SITE, SITE[: SITE.index(b'Id="7"')]
    members = [("a/Posts.xml", cut), ("b/Posts.xml", whole), ("c/Posts.xml", b"no XML")]
    found = dict(READERS["posts"](members, skipped))
    assert set(found) == {"a/Posts.xml#1", "b/Posts.xml#1"}
    assert "Last." in found["a/Posts.xml#1"] and "Third" not in found["a/Posts.xml#1"]
    assert skipped == {
        "malformed (ParseError)": 2, "questions without an answer": 2, "posts without a number": 2,
        "answers without their question": 1,
    }  # fmt: skip
