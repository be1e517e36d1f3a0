"""Checks for the exercises of notebook 10 (benchmarks)."""

from collections.abc import Callable, Iterable
from itertools import combinations
from math import sqrt
from statistics import fmean, pstdev, stdev

from minillama.teach.checking import diagnose, exercise, expect, number, returned

Z = 1.96
"""95% of a normal distribution lies within so many standard deviations."""


@exercise
def check_answer_rule(answer: Callable) -> str:
    """``answer(log_likelihoods, bare) -> number of the choice``, by the paper's "Answer:" rule."""
    cases = [
        ([-3.0, -4.0, -6.0], [-9.0, -3.5, -3.0], 0),
        ([-9.0, -6.0, -8.0], [-12.0, -6.5, -8.4], 0),
        ([-40.0, -2.0], [-44.0, -3.0], 0),
        ([-5.0, -11.0, -10.0, -9.0], [-4.0, -12.5, -9.0, -8.0], 1),
    ]
    for after, bare, right in cases:
        given = returned(answer(list(after), list(bare)), "the choice's number")
        choice = number(given)
        expect(isinstance(choice, int), f"return the number of a choice, from 0, not {given!r}")
        quotients = [a / b for a, b in zip(after, bare, strict=True)]
        picked = {
            "you divided the logarithms; the logarithm of a quotient is a difference":
                (_best(quotients), _best(-value for value in quotients)),
            "you ranked by P(choice | question) alone": (_best(after),),
            "you multiplied instead of dividing": (_best(map(sum, zip(after, bare, strict=True))),),
        }  # fmt: skip
        for hint, choices in picked.items():
            mistaken = choice != right and choice in choices
            expect(
                not mistaken,
                f"after {after}, bare {bare}: choice {choice}. Did it happen that {hint}?",
            )
        diagnose(f"the choice after the question {after}, bare {bare},", given, right)
    return "a choice that is likely anyway must become likelier still to win"


def _best(values: Iterable[float]) -> int:
    values = list(values)
    return values.index(max(values))


@exercise
def check_fit(answer: Callable) -> str:
    """``answer(context, completion, length) -> ids`` that a model of ``length`` positions is given.

    All of the completion, and as much of the context's end as fits: ``length + 1`` ids together,
    because nothing is predicted from the last one.
    """
    for n_context, n_completion, length in ((3, 2, 8), (9, 3, 6), (5, 2, 6), (20, 1, 4)):
        context = [100 + i for i in range(n_context)]
        completion = [200 + i for i in range(n_completion)]
        both = context + completion
        given = list(returned(answer(list(context), list(completion), length), "the list of ids"))
        call = f"{n_context} + {n_completion} ids for {length} positions"
        lost = [i for i in completion if i not in given]
        cut = f"the completion lost its ids {lost}; cut the context, from the left"
        expect(not lost, f"{call}: {cut}")
        expect(len(given) <= length + 1, f"{call}: {len(given)} ids do not fit")
        wrong = {
            "one more id fits, because nothing is predicted from the last one": both[-length:],
            "you kept the context's beginning; the question stands at its end":
                context[: length + 1 - n_completion] + completion,
        }  # fmt: skip
        diagnose(call, given, both[-length - 1 :], wrong)
    return "the first examples of a prompt go first, and the question stays"


@exercise
def check_band(answer: Callable) -> str:
    """``answer(n, choices) -> width``: 95% of all guessers lie within 1 / choices +- width."""
    for n, choices in ((1_954, 3), (500, 4), (1_267, 2)):
        p = 1 / choices
        error = sqrt(p * (1 - p) / n)
        wrong = {
            "that is one standard error; 95% lie within 1.96 of them": error,
            "that is in percent; give a fraction": 100 * Z * error,
            "take the square root of p (1 - p) / n": Z * error**2,
            "divide by n under the root": Z * error * sqrt(n),
            "divide by n under the root, not beside it": Z * error / sqrt(n),
            "the whole band is twice as wide; give one side": 2 * Z * error,
            "a guesser's variance is p (1 - p), not p": Z * sqrt(p / n),
            "a guesser among more than two is not right half of the time": Z * sqrt(0.25 / n),
        }
        call = f"the width for {n:,} questions with {choices} choices"
        diagnose(call, answer(n, choices), Z * error, wrong)
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
        n, gap = len(first), [b - a for a, b in zip(first, second, strict=True)]
        wrong = {
            "that is the error for two different sets of questions; take differences first":
                sqrt((stdev(first) ** 2 + stdev(second) ** 2) / n),
            "that is the differences' standard deviation; a mean of n varies less": stdev(gap),
            "divide by the root of n, not by n": stdev(gap) / n,
            "that is the difference itself": fmean(gap),
            "divide the squares by n - 1, for the mean was taken from the same numbers":
                pstdev(gap) / sqrt(n),
        }  # fmt: skip
        call = f"the error for first {first}, second {second}"
        diagnose(call, answer(list(first), list(second)), stdev(gap) / sqrt(n), wrong)
    return "what both find easy, and what both find hard, cancels out"


@exercise
def check_all_k(answer: Callable) -> str:
    """``answer(n, correct, k) -> chance`` that *all* of k out of n samples are right."""
    for n, correct, k in ((4, 2, 1), (5, 3, 2), (6, 6, 3), (7, 2, 3), (8, 5, 3)):
        draws = [sum(drawn) for drawn in combinations([1] * correct + [0] * (n - correct), k)]
        right = draws.count(k) / len(draws)
        none = draws.count(0) / len(draws)
        wrong = {
            "that is pass@k, where one right sample is enough": 1 - none,
            "that draws with replacement: the second sample is not the first one again":
                (correct / n) ** k,
            "that is the chance that at least one is wrong": 1 - right,
            "that is the chance that all of them are wrong": none,
        }  # fmt: skip
        call = f"the chance with n = {n}, {correct} right, k = {k}"
        diagnose(call, answer(n, correct, k), right, wrong)
    return "pass@k asks for luck once; this asks for reliability"
