"""Checks for the exercises of notebook 10 (benchmarks)."""

import math
from collections.abc import Callable
from itertools import combinations
from statistics import fmean, stdev

from minillama.teach.checking import exercise, expect, is_number, same_number

Z = 1.96
"""95% of a normal distribution lies within so many standard deviations."""


@exercise
def check_answer_rule(answer: Callable) -> str:
    """``answer(log_likelihoods, bare) -> number of the choice``, by the paper's "Answer:" rule.

    P(choice | question) / P(choice | "Answer:"); both lists hold natural logarithms.
    """
    cases = [
        ([-3.0, -4.0, -6.0], [-9.0, -3.5, -3.0], 0),
        ([-9.0, -6.0, -8.0], [-12.0, -6.5, -8.4], 0),
        ([-40.0, -2.0], [-44.0, -3.0], 0),
        ([-5.0, -11.0, -10.0, -9.0], [-4.0, -12.5, -9.0, -8.0], 1),
    ]
    for after, bare, right in cases:
        given = answer(list(after), list(bare))
        call = f"after the question {after}, bare {bare}"
        expect(given is not None, "your function returned None; return the choice's number")
        whole = isinstance(given, int) and not isinstance(given, bool)
        expect(whole, f"return the number of a choice, from 0, not {given!r}")
        if given != right:
            pairs = list(zip(after, bare, strict=True))
            ranked = {
                "you divided the logarithms; the logarithm of a quotient is a difference":
                    [(a / b, -a / b) for a, b in pairs],
                "you ranked by P(choice | question) alone": [(a,) for a in after],
                "you multiplied instead of dividing": [(a + b,) for a, b in pairs],
            }  # fmt: skip
            for hint, columns in ranked.items():
                picked = [_argmax(column) for column in zip(*columns, strict=True)]
                expect(given not in picked, f"{call}: choice {given}. Did it happen that {hint}?")
        expect(given == right, f"{call}: choice {given} and should be {right}")
    return "a choice that is likely anyway must become likelier still to win"


def _argmax(values: tuple[float, ...]) -> int:
    return values.index(max(values))


@exercise
def check_fit(answer: Callable) -> str:
    """``answer(context, completion, length) -> ids`` that a model of ``length`` positions is given.

    The two lists of ids become one that keeps all of the completion and as much of the context's
    end as fits. The last id is only predicted, so that ``length + 1`` ids fit.
    """
    for n_context, n_completion, length in ((3, 2, 8), (9, 3, 6), (5, 2, 6), (20, 1, 4)):
        context = [100 + i for i in range(n_context)]
        completion = [200 + i for i in range(n_completion)]
        given = answer(list(context), list(completion), length)
        call = f"{n_context} + {n_completion} ids for {length} positions"
        expect(given is not None, "your function returned None; return the list of ids")
        given = list(given)
        both = context + completion
        right = both[-length - 1 :]
        lost = [i for i in completion if i not in given]
        expect(
            not lost, f"{call}: the completion lost its ids {lost}; cut the context, from the left"
        )
        expect(
            len(both) <= length or given != both[-length:],
            f"{call}: one more id fits, because nothing is predicted from the last one",
        )
        expect(len(given) <= length + 1, f"{call}: {len(given)} ids do not fit")
        head = context[: length + 1 - n_completion] + completion
        expect(
            given != head or head == right,
            f"{call}: you kept the context's beginning; the question stands at its end",
        )
        expect(given == right, f"{call}: {given} and should be {right}")
    return "the first examples of a prompt go first, and the question stays"


@exercise
def check_band(answer: Callable) -> str:
    """``answer(n, choices) -> width``: 95% of all guessers lie within 1/choices +- width.

    n questions with so many choices each; a fraction, with 1.96 standard errors.
    """
    for n, choices in ((1_954, 3), (500, 4), (1_267, 2)):
        given = answer(n, choices)
        p = 1 / choices
        error = math.sqrt(p * (1 - p) / n)
        call = f"the width for {n:,} questions with {choices} choices"
        wrong = {
            "that is one standard error; 95% lie within 1.96 of them": error,
            "that is in percent; give a fraction": 100 * Z * error,
            "take the square root of p (1 - p) / n": Z * error**2,
            "divide by n under the root": Z * math.sqrt(p * (1 - p)),
            "divide by n under the root, not beside it": Z * math.sqrt(p * (1 - p)) / n,
            "the whole band is twice as wide; give one side": 2 * Z * error,
            "a guesser's variance is p (1 - p), not p": Z * math.sqrt(p / n),
        }  # fmt: skip
        if choices != 2:
            wrong["a guesser among more than two is not right half of the time"] = Z * math.sqrt(
                0.25 / n
            )
        for hint, value in wrong.items():
            expect(not is_number(given, value), f"{call}: {hint}")
        same_number(given, Z * error, call, tolerance=1e-9)
    return "to halve the band, ask four times as many questions"


@exercise
def check_paired_error(answer: Callable) -> str:
    """``answer(first, second) -> standard error`` of the mean difference on the same questions."""
    cases = [
        ([1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 1, 1, 1, 0, 1, 0]),
        ([0.5, 0, 1, 1, 0], [1, 0.5, 1, 0, 0]),
        ([1, 1, 0, 0], [0, 0, 1, 1]),
    ]
    for first, second in cases:
        given = answer(list(first), list(second))
        n, gap = len(first), [b - a for a, b in zip(first, second, strict=True)]
        spread = stdev(gap)
        call = f"the error for first {first}, second {second}"
        wrong = {
            "that is the error for two different sets of questions; take differences first":
                math.sqrt((stdev(first) ** 2 + stdev(second) ** 2) / n),
            "that is the differences' standard deviation; a mean of n varies less": spread,
            "divide by the root of n, not by n": spread / n,
            "that is the difference itself": fmean(gap),
        }  # fmt: skip
        for hint, value in wrong.items():
            told = is_number(given, value) and not is_number(value, spread / math.sqrt(n))
            expect(not told, f"{call}: {hint}")
        population = spread * math.sqrt((n - 1) / n) / math.sqrt(n)
        expect(
            not is_number(given, population),
            f"{call}: divide the squares by n - 1, for the mean was taken from the same numbers",
        )
        same_number(given, spread / math.sqrt(n), call, tolerance=1e-9)
    return "what both find easy, and what both find hard, cancels out"


@exercise
def check_all_k(answer: Callable) -> str:
    """``answer(n, correct, k) -> chance`` that *all* of k out of n samples are right.

    Drawn without replacement: the mean over all ways to take k of the n.
    """
    for n, correct, k in ((4, 2, 1), (5, 3, 2), (6, 6, 3), (7, 2, 3), (8, 5, 3)):
        given = answer(n, correct, k)
        draws = [sum(drawn) for drawn in combinations([1] * correct + [0] * (n - correct), k)]
        right = fmean(total == k for total in draws)
        call = f"the chance with n = {n}, {correct} right, k = {k}"
        wrong = {
            "that is pass@k, where one right sample is enough": fmean(total > 0 for total in draws),
            "that draws with replacement: the second sample is not the first one again":
                (correct / n) ** k,
            "that is the chance that at least one is wrong": 1 - right,
            "that is the chance that all of them are wrong": fmean(total == 0 for total in draws),
        }  # fmt: skip
        for hint, value in wrong.items():
            expect(not is_number(given, value) or is_number(value, right), f"{call}: {hint}")
        same_number(given, right, call, tolerance=1e-9)
    return "pass@k asks for luck once; this asks for reliability"
