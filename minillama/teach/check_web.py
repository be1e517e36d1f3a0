"""Checks for the exercises of notebook 01b (cleaning the web)."""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from minillama.teach.checking import (
    ANYTHING_ELSE,
    compare,
    exercise,
    expect,
    number,
    returned,
    without_string_hash,
)

SAME_LINES = (
    ("See also", "SEE ALSO", "in case"),
    ("Straße", "STRASSE", "in case (casefold knows that ß is ss)"),
    ("Copyright, the authors", "copyright the authors.", "in punctuation"),
    ("  • Up: Home", "Up Home", "in punctuation and spaces"),
    ("a table", "atable", "in spaces"),
    ("Release 2.1.9 of May 16", "Release 2.0.7 of May 28", "in which digits they have"),
)
OTHER_LINES = (
    ("Up: Home", "Home", "words that differ"),
    ("listen", "silent", "the same letters in another order"),
    ("Chapter", "Chapter 1", "a line with a digit and one without: read digits as 0, keep them"),
    ("Version 2", "Version 10", "one digit and two: read each as 0, keep them all"),
)


@exercise
def check_line_key(answer: Callable) -> str:
    """``answer(line) -> the 64-bit key by which a line is known again``."""
    with without_string_hash():
        first = returned(answer("See also"), "a number")
        whole = isinstance(number(first), int)
        expect(whole, f"return a whole number, not a {type(first).__name__}")
        for one, other, how in SAME_LINES:
            same = answer(one) == answer(other)
            expect(same, f"{one!r} and {other!r} differ only {how}: their keys must be equal")
        for one, other, why in OTHER_LINES:
            hint = f"{one!r} and {other!r} must have different keys: {why}"
            expect(answer(one) != answer(other), hint)
        keys = [int(answer(f"line {'abcdefghij'[i % 10] * (i // 10 + 1)}")) for i in range(500)]
        expect(min(keys) >= 0 and max(keys) < 2**64, "a key must be from 0 to 2**64 - 1")
        expect(max(keys) >= 2**60, "the keys are too small: use all 64 bits, lines are many")
        expect(len(set(keys)) == len(keys), "different lines have the same key")
    return "8 bytes stand for a line of any length, on every machine"


def _without_spans(pages: list[list[str]]) -> list[list[str]]:
    met: set[tuple[str, ...]] = set()
    result = []
    for page in pages:
        gone: set[int] = set()
        for i in range(len(page) - 2):
            span = tuple(page[i : i + 3])
            if span in met:
                gone |= {i, i + 1, i + 2}
            met.add(span)
        result.append([line for i, line in enumerate(page) if i not in gone])
    return result


SPAN_CASES = (
    ("two pages without a common sentence", ["abcd", "wxyz"]),
    ("two pages that share two sentences in a row", ["abcd", "xbcy"]),
    ("the same three sentences in another order", ["abc", "cab"]),
    ("a page that takes over three sentences", ["abcde", "xbcdy"]),
    ("a page that takes over five sentences", ["abcdefg", "xbcdefy"]),
    ("a page that repeats itself", ["abcxabc"]),
    ("a sentence four times", ["aaaa"]),
    ("pages of one and two sentences", ["ab", "ab", "a", ""]),
    ("three copies of a page", ["abcd", "abcd", "abcd"]),
    ("a span over the border of two pages", ["ab", "cd", "abcd"]),
)
"""Pages of sentences, each sentence written as a letter."""


@exercise
def check_spans(answer: Callable) -> str:
    """``answer(pages) -> the pages without repeated spans of three sentences``."""
    for case, letters in SPAN_CASES:
        pages = [list(page) for page in letters]
        right = _without_spans(pages)
        given = returned(answer([list(page) for page in letters]), "a list of pages")
        counted = isinstance(given, list | tuple) and len(given) == len(pages)
        expect(counted, f"{case}: return a list of as many pages as were given, empty ones too")
        first_gone = right[0] == pages[0] and list(given[0]) != pages[0]
        expect(not first_gone, f"{case}: the first copy of a span stays")
        surplus = sum(map(len, given)) - sum(map(len, right))
        gone = f"sentences are gone: {given} from {pages}"
        expect(surplus >= 0, f"{case}: too many {gone}")
        expect(surplus <= 0, f"{case}: too few {gone}")
        compare(case, [list(page) for page in given], right)
    return "a quotation of three sentences goes, two in common may stay"


NAMES = ("head", "middle", "tail")


def _pages(mean_surprises: Sequence[float], lengths: Sequence[int]) -> list[list[float]]:
    """Return pages of a given mean surprise and length; single pieces vary around the mean."""
    generator = random.Random(0)
    pages = []
    for mean, length in zip(mean_surprises, lengths, strict=True):
        noise = [generator.uniform(-0.1, 0.1) for _ in range(length)]
        shift = sum(noise) / length
        pages.append([-(mean + x - shift) for x in noise])
    return pages


@exercise
def check_buckets(answer: Callable) -> str:
    """``answer(log_probabilities) -> the bucket of each page``."""
    surprises = [4.0, 1.0, 2.5, 3.5, 1.5, 3.0, 5.0, 2.0, 4.5]
    names = [NAMES[int(rank) // 3] for rank in np.argsort(np.argsort(surprises))]
    equal = _pages(surprises, [20] * 9)
    longer_is_likelier = _pages(surprises, [5, 60, 40, 8, 50, 10, 4, 45, 6])
    spiky = [[-2.0] * 8, [-0.5] * 7 + [-20.0], [-1.0] * 8]
    cases = [
        ("nine pages of 20 pieces", equal, names, f"it should be {names}"),
        ("nine pages of 4 to 60 pieces", longer_is_likelier, names,
         "divide by the number of pieces: a long page is not worse for being long"),
        ("a page with one great surprise", spiky, ["middle", "tail", "head"],
         "take the mean of the logarithms, not of the probabilities"),
        ("one page without pieces", [[], *equal], ["tail", *names],
         "a page without pieces is 'tail', and the others are cut into thirds without it"),
    ]  # fmt: skip
    for case, pages, right, hint in cases:
        given = list(returned(answer(pages), "a list of names"))
        wrong = {
            "upside down: head is what surprises least":
                [NAMES[2 - NAMES.index(name)] for name in right],
            "return one of head, middle, tail for each page": [name.upper() for name in right],
            hint: ANYTHING_ELSE,
        }  # fmt: skip
        compare(case, given, right, wrong)
    return "a third each, and the unreadable at the end"


THRESHOLD_CASES = (
    ([0.9, 0.8, 0.7, 0.6, 0.3, 0.2], [1, 1, 0, 1, 0, 0], 0.7),
    ([0.2, 0.6, 0.9, 0.3, 0.8, 0.7], [0, 1, 1, 0, 1, 0], 1.0),
    ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0, 1, 1, 1, 1, 0], 0.75),
    ([0.4, 0.3, 0.2, 0.1], [1, 1, 0, 0], 0.9),
    ([0.9, 0.5, 0.5, 0.5, 0.1], [1, 1, 1, 0, 0], 0.75),
    ([0.9, 0.8, 0.7], [0, 1, 0], 0.8),
)


def _kept(scores: list[float], labels: list[int], threshold: float) -> tuple[int, float]:
    """Return how many references stay at this threshold, and the precision."""
    kept = [label for score, label in zip(scores, labels, strict=True) if score >= threshold]
    precision = sum(kept) / len(kept) if kept else 1.0
    return sum(kept), precision


@exercise
def check_threshold(answer: Callable) -> str:
    """``answer(scores, labels, precision) -> the threshold with most references kept``."""
    for scores, labels, wanted in THRESHOLD_CASES:
        given = returned(answer(list(scores), list(labels), wanted), "a threshold")
        call = f"scores {scores}, labels {labels}, precision {wanted:g}"
        threshold = number(given)
        numeric = threshold is not None and threshold == threshold
        expect(numeric, f"{call}: return a number, not {given!r}")
        reached = [_kept(scores, labels, score) for score in scores]
        best = max((n for n, precision in reached if precision >= wanted), default=0)
        possible = best > 0 or threshold == math.inf
        expect(possible, f"{call}: no threshold will do; return math.inf")
        n, precision = _kept(scores, labels, threshold)
        low = f"at {threshold:g} the precision is only {precision:.2f}"
        expect(precision >= wanted, f"{call}: {low}")
        few = f"at {threshold:g} you keep {n} references, and {best} are possible"
        again = "precision may rise again further down, so look at every score"
        expect(n == best, f"{call}: {few}; {again}")
    return "as lenient as the wanted precision allows"
