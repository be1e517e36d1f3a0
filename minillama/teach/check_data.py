"""Checks for the exercises of notebook 01 (data)."""

from collections.abc import Callable

import numpy as np

from minillama.paper import TABLE1
from minillama.teach.checking import (
    exercise,
    expect,
    is_number,
    same_number,
    without_string_hash,
)


@exercise
def check_unique_tokens(answer: Callable) -> str:
    """``answer(share, epochs, total) -> different tokens that a slice holds``."""
    cases = [(row["share"], row["epochs"], 1.4e12) for row in TABLE1.values()] + [(0.2, 4.0, 1e6)]
    for share, epochs, total in cases:
        given = answer(share, epochs, total)
        call = f"unique_tokens({share:g}, {epochs:g}, {total:g})"
        right = share * total / epochs
        expect(
            epochs == 1 or not is_number(given, share * total * epochs),
            f"{call}: a slice that is read more often holds fewer different tokens: divide",
        )
        expect(
            epochs == 1 or not is_number(given, share * total),
            f"{call}: those are the tokens read from the slice; some of them were read before",
        )
        expect(
            not is_number(given, total / epochs),
            f"{call}: only a share of the run comes from this slice",
        )
        expect(
            not is_number(given, 100 * right) and not is_number(given, right / 100),
            f"{call}: the share is a fraction here, not percent",
        )
        same_number(given, right, call)
    return "the paper read its 28 billion tokens of books 2.23 times, its code only in part"


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _runs(text: str, n: int) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


@exercise
def check_similarity(answer: Callable) -> str:
    """``answer(first, second, n) -> shared n-grams of words over all n-grams of words``."""
    song = "row row row your boat gently down the stream row row row your boat"
    pairs = [
        ("a b c d e f", "a b c d x f", 2), (song, song + " ashore", 3), (song, song, 5),
        ("one two three", "four five six", 1), (song, "gently down the stream", 2),
        ("too short", "shorter", 5),
    ]  # fmt: skip
    for first, second, n in pairs:
        mine, theirs = _grams(first, n), _grams(second, n)
        both, either = mine & theirs, mine | theirs
        right = len(both) / len(either) if either else 0.0
        call = f"similarity({first!r}, {second!r}, {n})"
        given = answer(first, second, n)
        letters, others = _runs(first, n), _runs(second, n)
        by_letters = len(letters & others) / max(1, len(letters | others))
        expect(
            not is_number(given, by_letters) or by_letters == right,
            f"{call}: those are runs of {n} letters; take runs of {n} words",
        )
        for size in (len(mine), len(theirs), len(mine) + len(theirs)):
            expect(
                size == len(either) or not both or not is_number(given, len(both) / size),
                f"{call}: divide by the n-grams that are in either text, each counted once",
            )
        same_number(given, right, call)
    return "1 for equal texts, 0 for strangers, and close to 1 for the copy that a hash overlooks"


@exercise
def check_held_out(answer: Callable) -> str:
    """``answer(text, share) -> bool``: does this document belong to the validation split?"""
    texts = [f"Document {i}. It tells of {i % 7} ships and {i * i} stars." for i in range(3000)]
    with without_string_hash():
        first = [answer(text, 0.1) for text in texts]
        expect(first[0] is not None, "your function returned None; return True or False")
        binary = all(isinstance(flag, bool | np.bool_) for flag in first)
        expect(binary, "return True or False for every document")
        again = [answer(text, 0.1) for text in reversed(texts)][::-1]
        expect(
            first == again,
            "the same text went to both sides: decide by the text alone, without chance or memory",
        )
        for share in (0.1, 0.5):
            held = sum(bool(answer(text, share)) for text in texts) / len(texts)
            expect(
                0.8 * share < held < 1.2 * share,
                f"with share {share:g} you hold out {held:.1%} of the documents",
            )
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
        call = f"step {step} of {batch} sequences on {world} processes"
        given = [answer(step, rank, world, batch) for rank in range(world)]
        expect(given[0] is not None, "your function returned None; return a list of numbers")
        parts = [[int(number) for number in part] for part in given]
        joined = [number for part in parts for number in part]
        right = list(range(step * batch, (step + 1) * batch))
        expect(world == 1 or parts[0] != parts[1], f"{call}: ranks 0 and 1 read the same data")
        expect(
            step == 0 or sorted(joined) != list(range(batch)),
            f"{call}: these are the sequences of step 0; every step reads new ones",
        )
        counts = sorted({len(part) for part in parts})
        expect(
            counts == [batch // world],
            f"{call}: the ranks read {counts} sequences each instead of {batch // world}",
        )
        expect(
            joined == right or sorted(joined) != right,
            f"{call}: together the ranks read the right sequences, but not in order: give each "
            "rank one unbroken stretch",
        )
        missing, foreign = sorted(set(right) - set(joined)), sorted(set(joined) - set(right))
        expect(joined == right, f"{call}: missing {missing[:5]}, of other steps {foreign[:5]}")
    return "no gap and no overlap, on 1, 2, 4 and 8 processes"


def _longest_run(first: list, second: list) -> int:
    """The longest stretch that two sequences share, by the usual table."""
    best, above = 0, [0] * (len(second) + 1)
    for here in first:
        row = [0] * (len(second) + 1)
        for j, there in enumerate(second):
            row[j + 1] = above[j] + 1 if here == there else 0
        best, above = max(best, *row), row
    return best


@exercise
def check_longest_run(answer: Callable) -> str:
    """``answer(first, second) -> most words in a row that both texts have``."""
    song = "row row row your boat gently down the stream"
    pairs = [
        ("what goes up must come down", "he said what goes up must fall", 4),
        ("to be or not", "not or be to", 1), ("One two THREE four", "one TWO three five", 3),
        ("a b c d e", "a x b y c z", 1), (song, "down the stream row row row your boat", 5),
        (song, "row row", 2), ("cat", "catalog", 0), ("", "nothing here", 0),
        (f"{song} . {song} merrily", f"he sang {song} merrily", 10),
    ]  # fmt: skip
    for first, second, right in pairs:
        mine, theirs = first.lower().split(), second.lower().split()
        call, given = f"longest_run({first!r}, {second!r})", answer(first, second)
        common = len(set(mine) & set(theirs))
        expect(
            not isinstance(given, str | list | tuple), f"{call}: return how many words, a number"
        )
        wrong = {
            _longest_run(list(first.lower()), list(second.lower())): "those are letters in a row;"
            " count words",
            _longest_run(first.split(), second.split()): "capitals do not count: compare in lower"
            " case",
            common: "those are words that both texts have; they must stand in a row",
            _in_order(mine, theirs): "those words stand in the same order, but not without others"
            " between them",
            _at_one_place(mine, theirs): "a run may stand at different places of the two texts",
        }  # fmt: skip
        for value, hint in wrong.items():
            expect(value == right or not is_number(given, value), f"{call}: {hint}")
        same_number(given, right, call)
    return "a document shares a run of 13 words with an exam if this is 13 or more"


def _in_order(first: list[str], second: list[str]) -> int:
    """The longest common subsequence, in which other words may stand between."""
    above = [0] * (len(second) + 1)
    for here in first:
        row = [0]
        for j, there in enumerate(second):
            row.append(above[j] + 1 if here == there else max(above[j + 1], row[j]))
        above = row
    return above[-1]


def _at_one_place(first: list[str], second: list[str]) -> int:
    """The longest run that stands at the same place of both."""
    best = now = 0
    for here, there in zip(first, second, strict=False):
        now = now + 1 if here == there else 0
        best = max(best, now)
    return best
