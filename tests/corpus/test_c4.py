"""C4's rules: each does what its name says, and only that, and can be off."""

import dataclasses
from collections import Counter

import pytest

from minillama.corpus.c4 import (
    C4Rules,
    clean_page,
    drop_repeated_spans,
    sentences,
)
from minillama.corpus.deduplicate import HashSet

GOOD = "Llamas live in the high Andes.\nThey carry loads for people there.\nWool is cut every year."
OFF = C4Rules(
    terminal_punctuation=False, min_words=0, javascript=False, policies=False, citations=False,
    lorem_ipsum=False, curly_brackets=False, min_sentences=0,
)  # fmt: skip


def test_a_good_page_stays_as_it_is():
    dropped = Counter()
    assert clean_page(GOOD, C4Rules(), dropped) == (GOOD, None) and not dropped


@pytest.mark.parametrize(
    "field, line, reason",
    [
        ("terminal_punctuation", "Home About us Contact our team now", "no terminal punctuation"),
        ("terminal_punctuation", "Read more about all of this...", "no terminal punctuation"),
        ("min_words", "Only four words here.", "too few words"),
        ("javascript", "Please switch on JavaScript to see this page.", "javascript"),
        ("policies", "This site uses cookies to make your visit better.", "policies"),
    ],
)  # fmt: skip
def test_each_rule_for_lines_drops_its_line_and_can_be_off(field, line, reason):
    page = GOOD.replace("\n", f"\n{line}\n", 1)
    dropped = Counter()
    assert clean_page(page, C4Rules(), dropped) == (GOOD, None)
    assert dropped == {reason: 1}
    on = dataclasses.replace(OFF, **{field: getattr(C4Rules(), field)})
    dropped.clear()
    assert clean_page(page, on, dropped) == (GOOD, None) and dropped == {reason: 1}
    off = dataclasses.replace(C4Rules(), **{field: 0})
    assert clean_page(page, off, Counter()) == (page, None)


@pytest.mark.parametrize(
    "field, page, reason",
    [
        ("lorem_ipsum", GOOD + "\nLorem ipsum dolor sit amet.", "lorem ipsum"),
        ("curly_brackets", GOOD + "\nThe function f(x) { return x; } is short.", "curly brackets"),
        ("min_sentences", "Llamas live in the Andes.\nThey carry loads for people.",
         "too few sentences"),
        ("bad_words", GOOD + "\nThis is a Bad-Word for llamas.", "bad words"),
    ],
)  # fmt: skip
def test_each_rule_for_pages_drops_its_page_and_can_be_off(field, page, reason):
    rules = C4Rules(bad_words=frozenset({"bad-word", "worse"}))
    assert clean_page(page, rules, Counter())[1] == reason
    on = dataclasses.replace(OFF, **{field: getattr(rules, field)})
    assert clean_page(page, on, Counter())[1] == reason
    off = dataclasses.replace(rules, **{field: frozenset() if field == "bad_words" else 0})
    assert clean_page(page, off, Counter()) == (page, None)


def test_bad_words_are_whole_words():
    rules = C4Rules(bad_words=frozenset({"ass"}))
    assert clean_page(GOOD + "\nThe class of grass is a mass.", rules, Counter())[1] is None


def test_citation_marks_are_removed_and_text_in_brackets_stays():
    page = GOOD.replace("Andes.", "Andes[12] [sic][citation needed].")
    assert clean_page(page, C4Rules(), Counter())[0] == GOOD.replace("Andes.", "Andes [sic].")


def test_sentences():
    assert sentences("One. Two? Three! 3.5 litres, e.g. this. (Four.) Five\n\nsix") == [
        "One.", "Two?", "Three!", "3.5 litres, e.g. this.", "(Four.)", "Five", "six",
    ]  # fmt: skip


def numbered(start: int, stop: int) -> str:
    return " ".join(f"This is sentence {i}." for i in range(start, stop))


def test_a_repeated_passage_stays_only_where_it_was_met_first():
    seen = HashSet()
    first = numbered(0, 8)
    assert drop_repeated_spans(first, seen) == (first, 0)
    page = f"{numbered(20, 23)}\n{numbered(2, 7)}\n{numbered(30, 33)}"
    text, spans = drop_repeated_spans(page, seen)
    assert text == f"{numbered(20, 23)}\n{numbered(30, 33)}"
    assert spans == 3
    assert drop_repeated_spans(first, seen) == ("", 6)


def test_two_repeated_sentences_are_no_span_and_short_texts_stay():
    seen = HashSet()
    drop_repeated_spans(numbered(0, 9), seen)
    page = numbered(50, 52) + " " + numbered(3, 5) + " " + numbered(60, 62)
    assert drop_repeated_spans(page, seen) == (page, 0)
    assert drop_repeated_spans(numbered(0, 2), seen) == (numbered(0, 2), 0)


def test_lines_without_repeated_spans_keep_their_spaces():
    seen = HashSet()
    code = "Call it so:\n\n    boat.row(2)  # twice\n\n" + numbered(0, 5)
    assert drop_repeated_spans(code, seen) == (code, 0)
