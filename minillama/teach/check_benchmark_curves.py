"""Checks for the exercises of notebook 11 (benchmark versus perplexity)."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np

from minillama.teach.checking import exercise, expect, is_number, same_number


@exercise
def check_pair_order(answer: Callable) -> str:
    """``answer(x, y) -> tau``: pairs that both order alike, less those ordered differently.

    Over all pairs, so that it lies between -1 and 1 (Kendall, 1938). No value comes twice.
    """
    cases = [
        ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]),
        ([3.0, 1.0, 2.0], [1.0, 3.0, 2.0]),
        ([356.0, 158.0, 83.0, 64.0, 33.0], [3.9, 3.6, 3.4, 3.5, 3.0]),
    ]
    for x, y in cases:
        given = answer(list(x), list(y))
        n = len(x)
        signs = [
            math.copysign(1, (x[i] - x[j]) * (y[i] - y[j])) for i, j in combinations(range(n), 2)
        ]
        right, alike = sum(signs) / len(signs), signs.count(1) / len(signs)
        places = [np.argsort(np.argsort(values)) for values in (x, y)]
        call = f"x {x}, y {y}"
        wrong = {
            "that is the number of pairs; divide by all pairs": sum(signs),
            "there are n (n - 1) / 2 pairs, not n (n - 1)": right / 2,
            "there are n (n - 1) / 2 pairs, for none is of a value with itself":
                sum(signs) * 2 / n**2,
            "that is the share ordered alike; take off the share ordered differently": alike,
            "the sign is turned round": -right,
            "that is Spearman's rho; count pairs instead": float(np.corrcoef(*places)[0, 1]),
        }  # fmt: skip
        for hint, value in wrong.items():
            told = is_number(given, value) and not is_number(value, right)
            expect(not told, f"{call}: {hint}")
        same_number(given, right, call)
    return "both measures ask for order alone; this one has a meaning in words"


@exercise
def check_level_each(answer: Callable) -> str:
    """``answer(points, level) -> level`` of each test, so that all together err at ``level``.

    At most one chance in 1 / level that any of so many independent points errs.
    """
    for points, level in ((12, 0.05), (192, 0.05), (6, 0.1)):
        given = answer(points, level)
        right = 1 - (1 - level) ** (1 / points)
        call = f"{points} points, together {level}"
        wrong = {
            "that is the chance that any errs if each has the given level":
                1 - (1 - level) ** points,
            "that is how many are expected to err": points * level,
            "that is the level for one point alone": level,
            "that is the share that must not err": 1 - right,
            "level / points is a safe bound (Bonferroni); for independent points say it exactly":
                level / points,
            "all of them stay quiet with 1 - level, not with level":
                1 - level ** (1 / points),
        }  # fmt: skip
        for hint, value in wrong.items():
            expect(not is_number(given, value), f"{call}: {hint}")
        same_number(given, right, call, tolerance=1e-12)
    return "who looks at many points must ask more of each"


@exercise
def check_questions_needed(answer: Callable) -> str:
    """``answer(rate, confidence) -> n``: so many wrong answers in a row rule out that rate.

    The least whole n at which no hit at all would be rarer than 1 - confidence.
    """
    for rate, confidence in ((0.01, 0.95), (0.001, 0.95), (0.02, 0.99), (0.5, 0.9)):
        given = answer(rate, confidence)
        exact = math.log(1 - confidence) / math.log(1 - rate)
        call = f"a rate of {rate} with {confidence} confidence"
        right = math.ceil(exact)
        wrong = {
            "return a whole number": exact,
            "that many are not quite enough; round up": math.floor(exact),
            "1 - confidence must be left over, not confidence":
                math.ceil(math.log(confidence) / math.log(1 - rate)),
            "3 / rate is a rule of thumb; solve (1 - rate)^n = 1 - confidence": 3 / rate,
            "a miss has probability 1 - rate": math.ceil(math.log(1 - confidence) / math.log(rate)),
            "that is the number until one hit is expected; it may well fail to come": 1 / rate,
        }  # fmt: skip
        for hint, value in wrong.items():
            told = is_number(given, value) and not is_number(value, right)
            expect(not told, f"{call}: {hint}")
        same_number(given, right, call)
    return "nothing found is a measurement too, if one says how long one looked"


@exercise
def check_shifted_accuracy(answer: Callable) -> str:
    """``answer(margins, gain) -> accuracy`` after every right answer's score rose by ``gain``.

    Of two choices each, so that a tie (a margin of exactly 0) counts a half.
    """
    margins = [-0.5, -0.25, -0.25, 0.0, 0.125, 0.5]
    for gain in (0.0, 0.25, 0.375, 1.0, -0.125):
        given = answer(list(margins), gain)
        moved = [value + gain for value in margins]
        n = len(moved)
        above, ties = sum(value > 0 for value in moved), moved.count(0.0)
        right = (above + ties / 2) / n
        call = f"margins {margins} and a gain of {gain}"
        wrong = {
            "two choices that tie share the point; you gave it to the wrong one": above / n,
            "two choices that tie share the point; you gave it whole": (above + ties) / n,
            "that is the mean margin; a question counts as right or wrong": sum(moved) / n,
            "divide by the number of questions": above + ties / 2,
            "the gain goes to the right answer, so it adds to the margin": sum(
                (value - gain > 0) + (value == gain) / 2 for value in margins) / n,
        }  # fmt: skip
        for hint, value in wrong.items():
            told = is_number(given, value) and not is_number(value, right)
            expect(not told, f"{call}: {hint}")
        same_number(given, right, call)
    return "every step of this staircase is one question whose margin changes its sign"
