"""The checks of notebook 11: they accept right answers and name the usual mistakes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from exercises import (  # noqa: F401
    pytest_generate_tests,
    test_a_mistake_is_named,
    test_a_right_answer_is_accepted,
    test_an_empty_answer_is_no_answer,
)

Values = Sequence[float]


def pairs(x: Values, y: Values) -> float:
    a, b = np.array(x), np.array(y)
    return float((np.sign(a[:, None] - a) * np.sign(b[:, None] - b)).sum() / 2)


def tau(x: Values, y: Values) -> float:
    return pairs(x, y) / math.comb(len(x), 2)


def rho(x: Values, y: Values) -> float:
    a, b = (np.argsort(np.argsort(values)) for values in (x, y))
    n = len(a)
    return 1 - 6 * float(((a - b) ** 2).sum()) / (n * (n * n - 1))


def each(points: int, level: float) -> float:
    return -math.expm1(math.log1p(-level) / points)


def needed(rate: float, confidence: float) -> int:
    n, quiet = 0, 1.0
    while quiet > 1 - confidence:
        n, quiet = n + 1, quiet * (1 - rate)
    return n


def exactly(rate: float, confidence: float) -> float:
    return math.log(1 - confidence, 1 - rate)


def shifted(margins: Values, gain: float, tie: float = 0.5) -> float:
    return sum(1 if m > -gain else tie * (m == -gain) for m in margins) / len(margins)


RIGHT: list[tuple[str, Callable]] = [
    ("check_pair_order", tau),
    ("check_level_each", each),
    ("check_questions_needed", needed),
    ("check_shifted_accuracy", shifted),
]

MISTAKES: list[tuple[str, Callable, str]] = [
    ("check_pair_order", pairs, "divide by all pairs"),
    ("check_pair_order", lambda x, y: tau(x, y) / 2, "not n (n - 1)"),
    ("check_pair_order", lambda x, y: 2 * pairs(x, y) / len(x) ** 2, "with itself"),
    ("check_pair_order", lambda x, y: (1 + tau(x, y)) / 2, "ordered differently"),
    ("check_pair_order", lambda x, y: -tau(x, y), "turned round"),
    ("check_pair_order", rho, "Spearman"),
    ("check_pair_order", lambda x, y: 0.1, "should be"),
    ("check_level_each", lambda k, a: 1 - (1 - a) ** k, "that any errs"),
    ("check_level_each", lambda k, a: k * a, "expected to err"),
    ("check_level_each", lambda k, a: a, "one point alone"),
    ("check_level_each", lambda k, a: 1 - each(k, a), "must not err"),
    ("check_level_each", lambda k, a: a / k, "Bonferroni"),
    ("check_level_each", lambda k, a: 1 - a ** (1 / k), "stay quiet"),
    ("check_level_each", lambda k, a: 0.2, "should be"),
    ("check_questions_needed", exactly, "whole number"),
    ("check_questions_needed", lambda p, c: int(exactly(p, c)), "round up"),
    ("check_questions_needed", lambda p, c: math.ceil(exactly(p, 1 - c)), "left over"),
    ("check_questions_needed", lambda p, c: 3 / p, "rule of thumb"),
    ("check_questions_needed", lambda p, c: math.ceil(math.log(1 - c, p)), "a miss"),
    ("check_questions_needed", lambda p, c: round(1 / p), "one hit is expected"),
    ("check_questions_needed", lambda p, c: 12, "should be"),
    ("check_shifted_accuracy", lambda m, g: shifted(m, g, 0), "to the wrong one"),
    ("check_shifted_accuracy", lambda m, g: shifted(m, g, 1), "gave it whole"),
    ("check_shifted_accuracy", lambda m, g: sum(m) / len(m) + g, "the mean margin"),
    ("check_shifted_accuracy", lambda m, g: len(m) * shifted(m, g), "divide by"),
    ("check_shifted_accuracy", lambda m, g: shifted(m, -g), "adds to the margin"),
    ("check_shifted_accuracy", lambda m, g: 0.9, "should be"),
]
