"""Each slice's reader on small inputs in the real format: markup gone, the words still there."""

import bz2
import json
import re

import pytest

from minillama.corpus import books, c4, commoncrawl, github, stackexchange, wikipedia
from minillama.corpus.deduplicate import HashSet


def only(texts):
    """The text of the one document."""
    [(_, text)] = texts
    return text


LICENSE = "This eBook is for the use of anyone anywhere at no cost."
STORY = "CHAPTER I.\n\nIt rained all day — and the miller slept.\n\nIn the end he woke."


@pytest.mark.parametrize(
    "begin, end",
    [
        (
            "*** START OF THIS PROJECT GUTENBERG EBOOK RAIN ***",
            "*** END OF THIS PROJECT GUTENBERG EBOOK",
        ),
        (
            "*** START OF THE PROJECT GUTENBERG EBOOK RAIN ***",
            "*** END OF THE PROJECT GUTENBERG EBOOK",
        ),
        (
            "***START OF THE PROJECT GUTENBERG EBOOK RAIN***",
            "End of the Project Gutenberg EBook of Rain",
        ),
        (
            "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
            "End of Project Gutenberg",
        ),
    ],
)
@pytest.mark.parametrize(
    "encoding, newline", [("utf-8", "\r\n"), ("latin-1", "\n"), ("utf-8", "\r")]
)
def test_gutenberg_licenses_are_stripped(begin, end, encoding, newline):
    story = STORY if encoding == "utf-8" else STORY.replace("—", "é")
    book = f"{LICENSE}\n\n{begin}\n\n\n\n\n{story}   \n\n\n{end}\n\n{LICENSE}\n".replace(
        "\n", newline
    )
    assert only(books.gutenberg([("rain.txt", book.encode(encoding))])) == story


def test_a_book_without_a_license_stays_whole():
    told = "He came to the end of the road. The END OF a book is not this."
    assert only(books.gutenberg([("a.txt", told.encode())])) == told


def test_metadata_is_passed_over():
    files = [("t/hamlet_gut.txt", b"To be"), ("t/metadata.txt", b"x")]
    assert list(books.gutenberg(files)) == [("t/hamlet_gut.txt", "To be")]


def test_bible_verses_become_chapters_of_books():
    verses = [("Genesis", 1, 1, "In the beginning"), ("Genesis", 1, 2, "And the earth"),
              ("Genesis", 2, 1, "Thus the heavens"), ("Jude", 1, 1, "Jude, servant")]  # fmt: skip
    keys = ("book", "chapter", "verse", "text")
    lines = "\n".join(json.dumps(dict(zip(keys, verse, strict=True))) for verse in verses)
    genesis, jude = books.bible([("kjv.jsonl", lines.encode())])
    assert genesis[0] == "kjv.jsonl#Genesis"
    assert genesis[1] == (
        "Genesis\n\nChapter 1\n\n1 In the beginning\n2 And the earth\n"
        "\nChapter 2\n\n1 Thus the heavens"
    )
    assert jude == ("kjv.jsonl#Jude", "Jude\n\nChapter 1\n\n1 Jude, servant")


RST = """\
.. _boats:

.. This is a comment
   over two lines.

===========
About boats
===========

.. index:: boats
.. |logo| image:: logo.png

A *small* boat holds **two** people; see :ref:`the river <river>`, :doc:`mills` and
:meth:`~Boat.row`. Read `the guide <https://example.org/guide>`_ and call ``row(2)``:

:func:`row` returns the speed.

* the oar,
  :class:`Oar` by name.

.. note:: Boats can sink.

.. toctree::
   :maxdepth: 2

.. py:function:: sink(boat)

   Lets the boat go down.

For example::

    >>> Boat().row(2 * 3)

.. code-block:: python

    speed = row(1)

.. image:: boat.png
   :alt: a boat
"""


def test_restructured_text_becomes_prose():
    assert only(c4.rst([("boats.rst", RST.encode())])).split("\n") == [
        "About boats", "",
        "A small boat holds two people; see the river, mills and",
        "Boat.row. Read the guide and call row(2):", "",
        "row returns the speed.", "",
        "* the oar,", "  Oar by name.", "",
        "Boats can sink.", "",
        "sink(boat)", "", "   Lets the boat go down.", "",
        "For example:", "", "    >>> Boat().row(2 * 3)", "",
        "    speed = row(1)",
    ]  # fmt: skip


def test_bytes_that_are_no_utf8_do_not_stop_the_reader():
    assert only(c4.rst([("a.rst", b"A boat\xff.")])) == "A boat\ufffd."


PAGE = """<!doctype html><html><head><title>Rivers</title><style>p {{color: red}}</style>
<script>var secret = 1;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/b">Boats</a></li></ul></nav>
<div id="header"><a href="/">Our site</a></div>
<div role="main"><h1>Rivers<a class="headerlink" href="#rivers">¶</a></h1>
<p>A river is <b>long</b> &amp; wide; {word} flows to the <a href="/sea">sea</a>.
It does so all year, through hills and fields and past the old mill.</p><!-- hidden --></div>
<footer>Copyright, cookies, imprint</footer></body></html>"""


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
def test_html_becomes_its_main_text(encoding):
    page = PAGE.format(word="één").encode(encoding)
    text = only(commoncrawl.html([("rivers.html", page)]))
    assert text.startswith("Rivers\n")
    assert "A river is long & wide; één flows to the sea." in re.sub(r"\s+", " ", text)
    for gone in ("<", "¶", "secret", "color", "Home", "Our site", "cookies", "hidden"):
        assert gone not in text


FUNCTION = "def add(a, b):\n    '''The sum of two numbers.'''\n    return a + b\n"


def source(header, body=FUNCTION * 4):
    text = only(github.python([("a.py", (header + body).encode()), ("README", b"x")]))
    return github.clean_code(text)


@pytest.mark.parametrize(
    "header",
    [
        "# Copyright (C) the miller\n# All rights reserved.\n#\n\n",
        "#!/usr/bin/env python\n# tools/add.py\n# Licensed under MIT.\n",
        "#!/usr/bin/env python\r\n#\r\n# This module is under the MIT license\r\n",
    ],
)
def test_license_headers_leave_the_code(header):
    assert source(header) == FUNCTION * 4


def test_other_comments_stay():
    assert source("# Sums, as the miller does them.\n").startswith("# Sums")
    later = FUNCTION * 4 + "# copyright is a word\n"
    assert source("", later) == later


@pytest.mark.parametrize(
    "body",
    [
        "x = '" + "word " * 300 + "'\n" + FUNCTION * 4,  # a line beyond 1,000 characters
        ("value = " + "some_name + " * 12 + "1\n") * 5,  # lines of more than 100 on average
        "(){}[]..::!?\n" * 40,  # hardly a letter
        "x = 1\n",  # too short
    ],
)
def test_data_and_generated_code_are_left_out(body):
    assert source("", body) is None


def test_code_in_another_encoding_is_refused():
    with pytest.raises(UnicodeDecodeError):
        list(github.python([("a.py", (FUNCTION * 4).encode() + b"# \xe9\n")]))


def test_conversations_become_questions_and_answers():
    yml = """
categories: [mills]
conversations:
- - What does a mill do?
  - It grinds.
- - How many?
  - 12
  - A dozen.
- A question whose answers are missing
"""
    assert only(stackexchange.conversations([("mills.yml", yml.encode())])) == (
        "Q: What does a mill do?\nA: It grinds.\n\nQ: How many?\nA: 12\nA: A dozen."
    )


WIKITEXT = """\
{{Infobox mill|name=Old Mill|image={{nested|x}}}}
[[File:Mill.jpg|thumb|A [[windmill]] in the hills]]
The '''mill''' is an ''old'' [[building|house]] on the [[Rhine]]<ref name="a">A Book</ref>.<!--no-->
It has 3&nbsp;sails<ref name="a" /> and a [https://example.org web page].

== History ==
Built in 1712 ({{lang-de|Mühle}}), it burned.
{| class="wikitable"
! Year !! Sails
|-
| 1712 || 4
|}
* one item
# another

== See also ==
* [[Boat]]

== References ==
{{reflist}}
[[Category:Mills]]
"""


def test_wikitext_becomes_prose():
    text = wikipedia.clean_wikitext(WIKITEXT)
    assert text.split("\n")[:2] == [
        "The mill is an old house on the Rhine.",
        "It has 3\N{NO-BREAK SPACE}sails and a web page.",
    ]
    assert "History\nBuilt in 1712, it burned." in text
    assert "one item\nanother" in text
    for gone in ("[", "]", "{", "}", "<", "''", "==", "|", "thumb", "1712 ", "Boat", "Category",
                 "Infobox", "reflist", "Book", "example.org"):  # fmt: skip
        assert gone not in text


def dump(*pages):
    body = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns>{extra}<revision><text>{text}</text></revision></page>"
        for title, ns, extra, text in pages
    )
    space = "http://www.mediawiki.org/xml/export-0.10/"
    return f'<mediawiki xmlns="{space}"><siteinfo/>{body}</mediawiki>'.encode()


def test_dumps_give_articles_only():
    content = dump(
        ("Mill", 0, "", "A '''mill''' &amp; its sails."),
        ("Talk:Mill", 1, "", "I think so."),
        ("Mills", 0, '<redirect title="Mill"/>', "#REDIRECT [[Mill]]"),
        ("Old mills", 0, "", "#redirect [[Mill]]"),
        ("Empty", 0, "", ""),
        ("Boat", 0, "", "A boat."),
    )
    found = list(wikipedia.wikipedia([("dump.xml.bz2", bz2.compress(content))]))
    assert found == [
        ("dump.xml.bz2#Mill", "Mill\n\nA mill & its sails."),
        ("dump.xml.bz2#Empty", "Empty\n\n"),
        ("dump.xml.bz2#Boat", "Boat\n\nA boat."),
    ]


def test_entity_bombs_are_refused():
    bomb = b'<!DOCTYPE m [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>' + dump(("M", 0, "", "&b;"))
    with pytest.raises(ValueError, match="EntitiesForbidden"):
        list(wikipedia.wikipedia([("dump.xml.bz2", bz2.compress(bomb))]))


def test_lines_met_before_are_dropped_in_later_pages():
    seen = HashSet()
    pages = [
        "Home\nRivers are long.\nRelease 1.2",
        "HOME!\nBoats float.\nrelease 3.4\nBoats float.",
        "Rivers are long.\n\nMills turn.",
    ]
    assert [commoncrawl.drop_repeated_lines(page, seen) for page in pages] == [
        ("Home\nRivers are long.\nRelease 1.2", 0), ("Boats float.", 3), ("Mills turn.", 1)
    ]  # fmt: skip


def test_wrapped_paragraphs_become_lines_and_code_does_not():
    wrapped = (
        "A boat that is rowed by two people is much faster than\none that is rowed by one.\n\n"
        "* An oar is made of the wood of an ash tree, and the\n  blade is flat.\n* A seat.\n\n"
        "    for oar in oars:\n        oar.pull()\n"
    )
    assert c4.unwrap(wrapped) == (
        "A boat that is rowed by two people is much faster than one that is rowed by one.\n\n"
        "* An oar is made of the wood of an ash tree, and the blade is flat.\n* A seat.\n\n"
        "    for oar in oars:\n        oar.pull()\n"
    )
