"""Checks for the exercises of notebook 11 (benchmark versus perplexity)."""

from collections.abc import Callable
from itertools import combinations
from math import ceil, comb, copysign, floor, log

import numpy as np

from minillama.teach.checking import diagnose, exercise


@exercise
def check_pair_order(answer: Callable) -> str:
    """``answer(x, y) -> tau`` over all pairs: those ordered alike, less the others, as a share."""
    cases = [
        ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]),
        ([3.0, 1.0, 2.0], [1.0, 3.0, 2.0]),
        ([356.0, 158.0, 83.0, 64.0, 33.0], [3.9, 3.6, 3.4, 3.5, 3.0]),
    ]
    for x, y in cases:
        n = len(x)
        signs = [copysign(1, (x[i] - x[j]) * (y[i] - y[j])) for i, j in combinations(range(n), 2)]
        right = sum(signs) / comb(n, 2)
        x_places, y_places = (np.argsort(np.argsort(values)) for values in (x, y))
        wrong = {
            "that is the number of pairs; divide by all pairs": sum(signs),
            "there are n (n - 1) / 2 pairs, not n (n - 1)": right / 2,
            "there are n (n - 1) / 2 pairs, for none is of a value with itself":
                sum(signs) * 2 / n**2,
            "that is the share ordered alike; take off the share ordered differently":
                signs.count(1) / comb(n, 2),
            "the sign is turned round": -right,
            "that is Spearman's rho; count pairs instead": np.corrcoef(x_places, y_places)[0, 1],
        }  # fmt: skip
        diagnose(f"x {x}, y {y}", answer(list(x), list(y)), right, wrong)
    return "both measures ask for order alone; this one has a meaning in words"


@exercise
def check_level_each(answer: Callable) -> str:
    """``answer(points, level) -> level`` of each test, so that all together err at ``level``."""
    for points, level in ((12, 0.05), (192, 0.05), (6, 0.1)):
        right = 1 - (1 - level) ** (1 / points)
        wrong = {
            "that is the chance that any errs if each has the given level":
                1 - (1 - level) ** points,
            "that is how many are expected to err": points * level,
            "that is the level for one point alone": level,
            "that is the share that must not err": 1 - right,
            "level / points is a safe bound (Bonferroni); for independent points say it exactly":
                level / points,
            "all of them stay quiet with 1 - level, not with level": 1 - level ** (1 / points),
        }  # fmt: skip
        given = answer(points, level)
        diagnose(f"{points} points, together {level}", given, right, wrong)
    return "who looks at many points must ask more of each"


@exercise
def check_questions_needed(answer: Callable) -> str:
    """``answer(rate, confidence) -> n``: so many wrong answers in a row rule out that rate."""
    for rate, confidence in ((0.01, 0.95), (0.001, 0.95), (0.02, 0.99), (0.5, 0.9)):
        exact = log(1 - confidence) / log(1 - rate)
        wrong = {
            "return a whole number": exact,
            "that many are not quite enough; round up": floor(exact),
            "1 - confidence must be left over, not confidence":
                ceil(log(confidence) / log(1 - rate)),
            "3 / rate is a rule of thumb; solve (1 - rate)^n = 1 - confidence": 3 / rate,
            "a miss has probability 1 - rate": ceil(log(1 - confidence) / log(rate)),
            "that is the number until one hit is expected; it may well fail to come": 1 / rate,
        }  # fmt: skip
        call = f"a rate of {rate} with {confidence} confidence"
        diagnose(call, answer(rate, confidence), ceil(exact), wrong)
    return "nothing found is a measurement too, if one says how long one looked"


@exercise
def check_shifted_accuracy(answer: Callable) -> str:
    """``answer(margins, gain) -> accuracy`` after every right answer's score rose by ``gain``."""
    margins = [-0.5, -0.25, -0.25, 0.0, 0.125, 0.5]
    n = len(margins)

    def points(gain: float, tie: float = 0.5) -> float:
        moved = [margin + gain for margin in margins]
        return sum(margin > 0 for margin in moved) + tie * moved.count(0.0)

    for gain in (0.0, 0.25, 0.375, 1.0, -0.125):
        wrong = {
            "two choices that tie share the point; you gave it to the wrong one":
                points(gain, tie=0) / n,
            "two choices that tie share the point; you gave it whole": points(gain, tie=1) / n,
            "that is the mean margin; a question counts as right or wrong": sum(margins) / n + gain,
            "divide by the number of questions": points(gain),
            "the gain goes to the right answer, so it adds to the margin": points(-gain) / n,
        }  # fmt: skip
        call = f"margins {margins} and a gain of {gain}"
        diagnose(call, answer(list(margins), gain), points(gain) / n, wrong)
    return "every step of this staircase is one question whose margin changes its sign"
