"""Minimal pairs: English against not English, and nothing but grammar tells which."""

import hashlib
import re
from collections import Counter
from random import Random

import pytest
from benchmarks import make_wheel

from minillama.evaluate.multiple_choice import Requests
from minillama.evaluate.scoring import credits, summarize
from minillama.evaluate.tasks import TASKS, load_questions, open_library
from minillama.evaluate.tasks.minimal_pairs import PAIRS, PHENOMENA, TABLES, make_pairs

TASK = TASKS["minimal_pairs"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return load_questions(TASK, open_library(**make_wheel(tmp_path_factory.mktemp("wheel"))))


def test_a_hundred_different_pairs_of_each_phenomenon(questions):
    assert Counter(q.group for q in questions) == dict.fromkeys(PHENOMENA, PAIRS)
    assert len(questions) == TASK.n == len({q.id for q in questions}) == len(set(questions))
    for question in questions:
        (context, first), (_, second) = question.requests
        assert context == "" and first != second
        for sentence in (first, second):
            assert re.fullmatch(r"[A-Z][A-Za-z ]+\.", sentence) and "  " not in sentence


@pytest.mark.parametrize("phenomenon", PHENOMENA)
def test_the_templates_say_what_is_english(phenomenon):
    """Written out by hand for the first row of every table."""
    words = {"person": "man", "people": "men", "other": "woman", "others": "women"}
    words |= {"thing": "book", "things": "books", "object": "house", "objects": "houses"}
    for forms, table in TABLES.items():
        row = re.split(r",\s+", table)[0].split("/")
        for form, word in zip(forms.split("/"), row, strict=True):
            words.setdefault(form, word)
    expected = {
        "subject-verb agreement": ("The man walks there.", "The men walk there."),
        "agreement across a phrase": (
            "The book near the houses is old.", "The books near the house are old."),
        "agreement across a clause": (
            "The book that the men liked is old.", "The books that the man liked are old."),
        "coordination": (
            "The man and the woman are happy.", "The man near the woman is happy."),
        "determiner and noun": ("The man liked this book.", "The man liked these books."),
        "reflexives": ("The man helped himself.", "The men helped themselves."),
        "case of pronouns": ("Then he helped the man.", "Then the man helped him."),
        "irregular past": ("The man saw the river.", "The man had seen the river."),
        "do-support": ("The man did not see the river.", "The man saw the river."),
        "a and an": ("The man liked a dog.", "The man liked an egg."),
        "word order": ("The old book is near the house.", "The man is near the old book."),
        "negative polarity": (
            "I think no man that the women helped has ever seen the river.",
            "I think no man near the book has ever seen the river."),
        "filler and gap": (
            "The man knows what the woman found.", "The man knows that the woman found the gold."),
    }  # fmt: skip
    right = [
        re.sub(r"\[([^|]*)\|[^]]*\]", r"\1", template).format_map(words)
        for template in PHENOMENA[phenomenon]
    ]
    assert tuple(right) == expected[phenomenon]


def knows_words_only(sentence, seed):
    """The log-probability of a model with a random frequency for each word."""
    return sum(Random(f"{seed} {word}").uniform(-9, -1) for word in sentence.strip(".").split())


@pytest.mark.parametrize("seed", range(5))
def test_frequent_words_and_length_give_nothing_away(questions, seed):
    """Exactly half right in every phenomenon, whatever the frequencies; and by length."""

    class NoTokenizer:
        def encode(self, text, bos):
            return [1, *text.encode()]

    requests = Requests(NoTokenizer(), questions)
    texts = [bytes(ids[1:]).decode() for ids, _ in requests.encoded]
    for score in (lambda text: round(knows_words_only(text, seed), 3), lambda text: -len(text)):
        rows = requests.rows("minimal_pairs", [score(text) for text in texts])
        result = summarize(rows, TASK.normalizer)
        assert result["accuracy"] == result["majority"] == result["chance"] == 0.5
        assert {group["accuracy"] for group in result["groups"].values()} == {0.5}
        assert sum(credits(rows, "none")) == len(rows) / 2


def test_the_same_pairs_on_every_machine(questions):
    text = "\n".join(sentence for q in questions for _, sentence in q.requests)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a3203faff12740e7"
    assert make_pairs("do-support", seed=1) != make_pairs("do-support", seed=0)
    assert make_pairs("do-support", 10) == make_pairs("do-support", 40)[:10]
