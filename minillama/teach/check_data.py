"""Checks for the exercises of notebook 01 (data)."""

from collections.abc import Callable

import numpy as np

from minillama.paper import TABLE1
from minillama.teach.checking import diagnose, exercise, expect, returned, without_string_hash


@exercise
def check_unique_tokens(answer: Callable) -> str:
    """``answer(share, epochs, total) -> different tokens that a slice holds``."""
    cases = [(row["share"], row["epochs"], 1.4e12) for row in TABLE1.values()]
    for share, epochs, total in [*cases, (0.2, 4.0, 1e6)]:
        right = share * total / epochs
        wrong = {
            "a slice that is read more often holds fewer different tokens: divide":
                share * total * epochs,
            "those are the tokens read from the slice; some of them were read before":
                share * total,
            "only a share of the run comes from this slice": total / epochs,
            "the share is a fraction here, not percent": 100 * right,
            "the share is a fraction already, do not divide it by 100": right / 100,
        }  # fmt: skip
        call = f"unique_tokens({share:g}, {epochs:g}, {total:g})"
        diagnose(call, answer(share, epochs, total), right, wrong)
    return "the paper read its 28 billion tokens of books 2.23 times, its code only in part"


def _grams(parts: list[str] | str, n: int) -> set[tuple[str, ...]]:
    return {tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)}


@exercise
def check_similarity(answer: Callable) -> str:
    """``answer(first, second, n) -> shared n-grams of words over all n-grams of words``."""
    song = "row row row your boat gently down the stream row row row your boat"
    cases = [
        ("a b c d e f", "a b c d x f", 2), (song, song + " ashore", 3), (song, song, 5),
        ("one two three", "four five six", 1), (song, "gently down the stream", 2),
        ("too short", "shorter", 5),
    ]  # fmt: skip
    for first, second, n in cases:
        a, b = _grams(first.split(), n), _grams(second.split(), n)
        letters, others = _grams(first, n), _grams(second, n)
        in_either = "divide by the n-grams that are in either text, each counted once"
        wrong = {
            f"those are runs of {n} letters; take runs of {n} words":
                len(letters & others) / max(1, len(letters | others)),
            in_either: len(a & b) / max(1, len(a)),
            f"{in_either}, not by the second text's": len(a & b) / max(1, len(b)),
            f"{in_either}; those in both count once": len(a & b) / max(1, len(a) + len(b)),
        }  # fmt: skip
        call = f"similarity({first!r}, {second!r}, {n})"
        diagnose(call, answer(first, second, n), len(a & b) / max(1, len(a | b)), wrong)
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
        call = f"step {step} of {batch} sequences on {world} processes"
        given = [answer(step, rank, world, batch) for rank in range(world)]
        returned(given[0], "a list of numbers")
        parts = [[int(number) for number in part] for part in given]
        joined = sum(parts, [])
        right = list(range(step * batch, (step + 1) * batch))

        # Typical mistakes, the coarsest first.
        expect(world == 1 or parts[0] != parts[1], f"{call}: ranks 0 and 1 read the same data")
        first_step = step > 0 and sorted(joined) == list(range(batch))
        again = "these are the sequences of step 0; every step reads new ones"
        expect(not first_step, f"{call}: {again}")
        counts = sorted({len(part) for part in parts})
        local = batch // world
        uneven = f"the ranks read {counts} sequences each instead of {local}"
        expect(counts == [local], f"{call}: {uneven}")
        missing, foreign = sorted(set(right) - set(joined)), sorted(set(joined) - set(right))
        lost = f"missing {missing[:5]}, of other steps {foreign[:5]}"
        expect(sorted(joined) == right, f"{call}: {lost}")
        expect(
            joined == right,
            f"{call}: together the ranks read the right sequences, but not in order: give each "
            "rank one unbroken stretch",
        )
    return "no gap and no overlap, on 1, 2, 4 and 8 processes"


def _longest_run(first: list | str, second: list | str) -> int:
    """Return the longest stretch that two sequences share, by the usual table."""
    best, above = 0, [0] * (len(second) + 1)
    for here in first:
        row = [0]
        for j, there in enumerate(second):
            row.append(above[j] + 1 if here == there else 0)
        best, above = max(best, *row), row
    return best


def _in_order(first: list[str], second: list[str]) -> int:
    """Return the longest common subsequence, in which other words may stand between."""
    above = [0] * (len(second) + 1)
    for here in first:
        row = [0]
        for j, there in enumerate(second):
            row.append(above[j] + 1 if here == there else max(above[j + 1], row[j]))
        above = row
    return above[-1]


def _at_one_place(first: list[str], second: list[str]) -> int:
    """Return the longest run that stands at the same place of both."""
    best = now = 0
    for here, there in zip(first, second, strict=False):
        now = now + 1 if here == there else 0
        best = max(best, now)
    return best


@exercise
def check_longest_run(answer: Callable) -> str:
    """``answer(first, second) -> most words in a row that both texts have``."""
    song = "row row row your boat gently down the stream"
    cases = [
        ("what goes up must come down", "he said what goes up must fall", 4),
        ("to be or not", "not or be to", 1), ("One two THREE four", "one TWO three five", 3),
        ("a b c d e", "a x b y c z", 1), (song, "down the stream row row row your boat", 5),
        (song, "row row", 2), ("cat", "catalog", 0), ("", "nothing here", 0),
        (f"{song} . {song} merrily", f"he sang {song} merrily", 10),
    ]  # fmt: skip
    for first, second, right in cases:
        a, b = first.lower().split(), second.lower().split()
        wrong = {
            "capitals do not count: compare in lower case":
                _longest_run(first.split(), second.split()),
            "those words stand in the same order, but not without others between them":
                _in_order(a, b),
            "those are words that both texts have; they must stand in a row": len(set(a) & set(b)),
            "a run may stand at different places of the two texts": _at_one_place(a, b),
            "those are letters in a row; count words": _longest_run(first.lower(), second.lower()),
        }  # fmt: skip
        given, call = answer(first, second), f"longest_run({first!r}, {second!r})"
        counted = not isinstance(given, str | list | tuple)
        expect(counted, f"{call}: return how many words, a number")
        diagnose(call, given, right, wrong)
    return "a document shares a run of 13 words with an exam if this is 13 or more"
