"""Checks for the exercises of notebook 01 (data)."""

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

import numpy as np

from minillama.paper import TABLE1
from minillama.teach.checking import (
    compare,
    diagnose,
    exercise,
    expect,
    returned,
    without_string_hash,
)


@exercise
def check_unique_tokens(answer: Callable) -> str:
    """``answer(share, epochs, total) -> different tokens that a slice holds``."""
    for share, epochs, total in (
        *((row["share"], row["epochs"], 1.4e12) for row in TABLE1.values()), (0.2, 4.0, 1e6),
    ):  # fmt: skip
        read = share * total
        wrong = {
            "what is read more often holds fewer different tokens: divide": read * epochs,
            "those are the tokens read; some of them were read before": read,
            "only a share of the run comes from this slice": total / epochs,
            "the share is a fraction already; do not divide it by 100": read / epochs / 100,
        }
        diagnose(answer, (share, epochs, total), read / epochs, wrong)
    return "the paper read its 28 billion tokens of books 2.23 times, its code only in part"


SONG = "row row row your boat gently down the stream row row row your boat"


def _grams(parts: list[str] | str, n: int) -> set[tuple[str, ...]]:
    return {tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)}


def _jaccard(a: set, b: set) -> float:
    return len(a & b) / max(1, len(a | b))


@exercise
def check_similarity(answer: Callable) -> str:
    """``answer(first, second, n) -> shared n-grams of words over all n-grams of words``."""
    for first, second, n in (
        ("a b c d e f", "a b c d x f", 2), (SONG, SONG + " ashore", 3), (SONG, SONG, 5),
        ("one two three", "four five six", 1), (SONG, "gently down the stream", 2),
        ("too short", "shorter", 5),
    ):  # fmt: skip
        a, b = _grams(first.split(), n), _grams(second.split(), n)
        letters, others = _grams(first, n), _grams(second, n)
        wrong = {
            f"those are runs of {n} letters; take runs of {n} words": _jaccard(letters, others),
            "divide by the n-grams that are in either text": len(a & b) / max(1, len(a)),
            "those in either text count once each": len(a & b) / max(1, len(a) + len(b)),
        }
        diagnose(answer, (first, second, n), _jaccard(a, b), wrong)
    return "1 for equal texts, 0 for strangers, and close to 1 for the copy that a hash overlooks"


@exercise
def check_held_out(answer: Callable) -> str:
    """``answer(text, share) -> bool``: does this document belong to the validation split?"""
    texts = [f"Document {i}. It tells of {i % 7} ships and {i * i} stars." for i in range(3000)]
    with without_string_hash():
        first = [returned(answer(text, 0.1), "True or False") for text in texts]
        binary = all(isinstance(flag, bool | np.bool_) for flag in first)
        expect(binary, "return True or False for every document")
        again = [answer(text, 0.1) for text in reversed(texts)]
        expect(
            first == again[::-1],
            "the same text went to both sides: decide by the text alone, without chance or memory",
        )
        for share in (0.1, 0.5):
            held = sum(bool(answer(text, share)) for text in texts) / len(texts)
            hint = f"with share {share:g} you hold out {held:.1%} of the documents"
            expect(0.8 * share < held < 1.2 * share, hint)
        copies = [answer("  " + text.upper().replace(" ", "\n"), 0.1) for text in texts]
        expect(
            first == copies,
            "a copy with other spacing or capitals lands on the other side: "
            "a leak; hash what is left when these are removed",
        )
    return "the text alone decides, and near copies stay together"


@exercise
def check_rank_sequences(answer: Callable) -> str:
    """``answer(step, rank, world, batch) -> numbers of the sequences that this process reads``."""
    for step, world, batch in ((0, 1, 4), (0, 2, 8), (3, 4, 8), (10, 8, 16)):
        local = batch // world
        first = step * batch
        numbers = list(range(first, first + batch))
        right = [numbers[i : i + local] for i in range(0, batch, local)]
        wrong = {
            "all ranks read the same data": [right[0]] * world,
            "these are the sequences of step 0; every step reads new ones":
                [[number - first for number in part] for part in right],
            "right together, but give each rank one unbroken stretch":
                [numbers[rank::world] for rank in range(world)],
        }  # fmt: skip
        given = []
        for rank in range(world):
            part = returned(answer(step, rank, world, batch), "a list of numbers")
            given.append([int(number) for number in part])
        call = f"step {step} of {batch} sequences on {world} processes, rank by rank,"
        compare(call, given, right, wrong)
    return "no gap and no overlap, on 1, 2, 4 and 8 processes"


def _longest_run(first: Sequence, second: Sequence) -> int:
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.find_longest_match().size


def _in_order(first: list[str], second: list[str]) -> int:
    """Return the longest common subsequence, in which other words may stand between."""
    above = [0] * (len(second) + 1)
    for here in first:
        row = [0]
        for j, there in enumerate(second):
            row.append(above[j] + 1 if here == there else max(above[j + 1], row[j]))
        above = row
    return above[-1]


@exercise
def check_longest_run(answer: Callable) -> str:
    """``answer(first, second) -> most words in a row that both texts have``."""
    for first, second in (
        ("what goes up must come down", "he said what goes up must fall"),
        ("to be or not", "not or be to"), ("One two THREE four", "one TWO three five"),
        ("a b c d e", "a x b y c z"), (SONG, "down the stream row row row your boat"),
        (SONG, "row row"), ("cat", "catalog"), ("", "nothing here"),
        (f"{SONG} . {SONG} merrily", f"he sang {SONG} merrily"),
    ):  # fmt: skip
        a, b = first.lower().split(), second.lower().split()
        cased = _longest_run(first.split(), second.split())
        wrong = {
            "capitals do not count: compare in lower case": cased,
            "those words stand in the same order, but not without others between": _in_order(a, b),
            "those are words that both texts have; they must stand in a row": len(set(a) & set(b)),
            "a run may stand at different places of the two texts": _longest_run(
                list(enumerate(a)), list(enumerate(b))
            ),
            "those are letters in a row; count words": _longest_run(first.lower(), second.lower()),
        }
        diagnose(answer, (first, second), _longest_run(a, b), wrong)
    return "a document shares a run of 13 words with an exam if this is 13 or more"
