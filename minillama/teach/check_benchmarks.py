"""Checks of notebooks 10 (benchmarks) and 11 (benchmark versus perplexity)."""

from collections.abc import Callable
from itertools import combinations
from math import ceil, comb, copysign, floor, log, sqrt
from statistics import fmean, pstdev, stdev

import numpy as np
from scipy.stats import spearmanr

from minillama.teach.checking import diagnose, exercise

Z = 1.96
"""95% of a normal distribution lies within so many standard deviations."""


def _best(values: np.ndarray) -> int:
    return int(values.argmax())


@exercise
def check_answer_rule(answer: Callable) -> str:
    """``answer(log_likelihoods, bare) -> number of the choice``, by the paper's "Answer:" rule."""
    for after, bare in (
        ([-3.0, -4.0, -6.0], [-9.0, -3.5, -3.0]), ([-9.0, -6.0, -8.0], [-12.0, -6.5, -8.4]),
        ([-40.0, -2.0], [-44.0, -3.0]), ([-5.0, -11.0, -10.0, -9.0], [-4.0, -12.5, -9.0, -8.0]),
    ):  # fmt: skip
        a, b = np.array(after), np.array(bare)
        wrong = {
            "the logarithm of a quotient is a difference, not a quotient": _best(a / b),
            "the logarithm of a quotient is a difference": _best(-a / b),
            "did you rank by P(choice | question) alone?": _best(a),
            "did it happen that you multiplied instead of dividing?": _best(a + b),
        }
        diagnose(answer, (after, bare), _best(a - b), wrong)
    return "a choice that is likely anyway must become likelier still to win"


def _ids(n_context: int, n_completion: int) -> tuple[list[int], list[int]]:
    return [100 + i for i in range(n_context)], [200 + i for i in range(n_completion)]


@exercise
def check_fit(answer: Callable) -> str:
    """``answer(context, completion, length) -> ids`` that fit a model of ``length`` positions."""
    for context, completion, length in (
        (*_ids(3, 2), 8), (*_ids(9, 3), 6), (*_ids(5, 2), 6), (*_ids(20, 1), 4),
    ):  # fmt: skip
        both = context + completion
        wrong = {
            "the completion lost ids; cut the context, from the left": both[: length + 1],
            "one more id fits, because nothing is predicted from the last one": both[-length:],
            f"{len(both)} ids do not fit": both,
            "you kept the context's beginning; the question stands at its end":
                context[: length + 1 - len(completion)] + completion,
        }  # fmt: skip
        diagnose(answer, (context, completion, length), both[-length - 1 :], wrong)
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
        diagnose(answer, (n, choices), Z * error, wrong)
    return "to halve the band, ask four times as many questions"


@exercise
def check_paired_error(answer: Callable) -> str:
    """``answer(first, second) -> standard error`` of the mean difference on the same questions."""
    for first, second in (
        ([1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 1, 1, 1, 0, 1, 0]),
        ([0.5, 0, 1, 1, 0], [1, 0.5, 1, 0, 0]), ([1, 1, 0, 0], [0, 0, 1, 1]),
    ):  # fmt: skip
        n = len(first)
        gap = [b - a for a, b in zip(first, second, strict=True)]
        variances = stdev(first) ** 2 + stdev(second) ** 2
        of_two_sets = sqrt(variances / n)
        wrong = {
            "that is for two different sets of questions; take differences first": of_two_sets,
            "that is the differences' standard deviation; a mean of n varies less": stdev(gap),
            "divide by the root of n, not by n": stdev(gap) / n,
            "that is the difference itself": fmean(gap),
            "divide the squares by n - 1, for the mean was taken from them": pstdev(gap) / sqrt(n),
        }
        diagnose(answer, (first, second), stdev(gap) / sqrt(n), wrong)
    return "what both find easy, and what both find hard, cancels out"


@exercise
def check_all_k(answer: Callable) -> str:
    """``answer(n, correct, k) -> chance`` that *all* of k out of n samples are right."""
    for n, correct, k in ((4, 2, 1), (5, 3, 2), (6, 6, 3), (7, 2, 3), (8, 5, 3)):
        draws = [sum(drawn) for drawn in combinations([1] * correct + [0] * (n - correct), k)]
        right, none = draws.count(k) / len(draws), draws.count(0) / len(draws)
        wrong = {
            "that is pass@k, where one right sample is enough": 1 - none,
            "that draws with replacement: no sample comes twice": (correct / n) ** k,
            "that is the chance that at least one is wrong": 1 - right,
            "that is the chance that all of them are wrong": none,
        }
        diagnose(answer, (n, correct, k), right, wrong)
    return "pass@k asks for luck once; this asks for reliability"


@exercise
def check_pair_order(answer: Callable) -> str:
    """``answer(x, y) -> tau`` over all pairs: those ordered alike, less the others, as a share."""
    for x, y in (
        ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]), ([3.0, 1.0, 2.0], [1.0, 3.0, 2.0]),
        ([356.0, 158.0, 83.0, 64.0, 33.0], [3.9, 3.6, 3.4, 3.5, 3.0]),
    ):  # fmt: skip
        n, signs = len(x), []
        for i, j in combinations(range(n), 2):
            signs.append(copysign(1, (x[i] - x[j]) * (y[i] - y[j])))
        tau = sum(signs) / comb(n, 2)
        rho = spearmanr(x, y).statistic
        wrong = {
            "that is the number of pairs; divide by all pairs": sum(signs),
            "there are n (n - 1) / 2 pairs, not n (n - 1)": tau / 2,
            "there are n (n - 1) / 2 pairs, none of a value with itself": sum(signs) * 2 / n**2,
            "take off the share ordered differently": signs.count(1) / comb(n, 2),
            "the sign is turned round": -tau,
            "that is Spearman's rho; count pairs instead": rho,
        }
        diagnose(answer, (x, y), tau, wrong)
    return "both measures ask for order alone; this one has a meaning in words"


@exercise
def check_level_each(answer: Callable) -> str:
    """``answer(points, level) -> level`` of each test, so that all together err at ``level``."""
    for points, level in ((12, 0.05), (192, 0.05), (6, 0.1)):
        right = 1 - (1 - level) ** (1 / points)
        wrong = {
            "the chance that any errs if each has the given level": 1 - (1 - level) ** points,
            "that is how many are expected to err": points * level,
            "that is the level for one point alone": level,
            "that is the share that must not err": 1 - right,
            "a safe bound (Bonferroni); for independent points say it exactly": level / points,
            "all of them stay quiet with 1 - level, not with level": 1 - level ** (1 / points),
        }
        diagnose(answer, (points, level), right, wrong)
    return "who looks at many points must ask more of each"


@exercise
def check_questions_needed(answer: Callable) -> str:
    """``answer(rate, confidence) -> n``: so many wrong answers in a row rule out that rate."""
    for rate, confidence in ((0.01, 0.95), (0.001, 0.95), (0.02, 0.99), (0.5, 0.9)):
        exact = log(1 - confidence) / log(1 - rate)
        turned = log(confidence) / log(1 - rate)
        wrong = {
            "return a whole number": exact,
            "that many are not quite enough; round up": floor(exact),
            "1 - confidence must be left over, not confidence": ceil(turned),
            "3 / rate is a rule of thumb; solve (1 - rate)^n = 1 - confidence": 3 / rate,
            "a miss has probability 1 - rate": ceil(log(1 - confidence) / log(rate)),
            "until one hit is expected; it may well fail to come": 1 / rate,
        }
        diagnose(answer, (rate, confidence), ceil(exact), wrong)
    return "nothing found is a measurement too, if one says how long one looked"


@exercise
def check_shifted_accuracy(answer: Callable) -> str:
    """``answer(margins, gain) -> accuracy`` after every right answer's score rose by ``gain``."""
    margins, n = [-0.5, -0.25, -0.25, 0.0, 0.125, 0.5], 6

    def accuracy(gain: float, tie: float = 0.5) -> float:
        moved = [margin + gain for margin in margins]
        return (sum(margin > 0 for margin in moved) + tie * moved.count(0.0)) / n

    for gain in (0.0, 0.25, 0.375, 1.0, -0.125):
        right = accuracy(gain)
        wrong = {
            "two choices that tie share the point; it went to the wrong one": accuracy(gain, 0),
            "two choices that tie share the point; you gave it whole": accuracy(gain, 1),
            "that is the mean margin; a question is right or wrong": sum(margins) / n + gain,
            "divide by the number of questions": n * right,
            "the gain goes to the right answer, so it adds to the margin": accuracy(-gain),
        }
        diagnose(answer, (margins, gain), right, wrong)
    return "every step of this staircase is one question whose margin changes its sign"
