"""The checks of notebook 10: they accept right answers and name the usual mistakes."""

import math
from collections.abc import Callable, Sequence
from statistics import mean, pstdev, stdev

from exercises import (  # noqa: F401
    pytest_generate_tests,
    test_a_mistake_is_named,
    test_a_right_answer_is_accepted,
    test_an_empty_answer_is_no_answer,
)


def best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def rule(combine: Callable[[float, float], float]) -> Callable:
    return lambda after, bare: best([combine(a, b) for a, b in zip(after, bare, strict=True)])


def fit(context: list[int], completion: list[int], length: int) -> list[int]:
    room = max(0, length + 1 - len(completion))
    return context[max(0, len(context) - room) :] + completion


def band(n: int, choices: int) -> float:
    return 1.96 * math.sqrt((choices - 1) / n) / choices


def gaps(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip(first, second, strict=True)]


def paired(first: Sequence[float], second: Sequence[float]) -> float:
    return stdev(gaps(first, second)) / len(first) ** 0.5


def unpaired(first: Sequence[float], second: Sequence[float]) -> float:
    return math.hypot(stdev(first), stdev(second)) / len(first) ** 0.5


def all_k(n: int, correct: int, k: int) -> float:
    chance = 1.0
    for i in range(k):
        chance *= max(0, correct - i) / (n - i)
    return chance


def any_k(n: int, correct: int, k: int) -> float:
    return 1 - all_k(n, n - correct, k)


RIGHT: list[tuple[str, Callable]] = [
    ("check_answer_rule", rule(lambda a, b: a - b)),
    ("check_fit", fit),
    ("check_band", band),
    ("check_paired_error", paired),
    ("check_all_k", all_k),
]

MISTAKES: list[tuple[str, Callable, str]] = [
    ("check_answer_rule", rule(lambda a, b: a / b), "a difference"),
    ("check_answer_rule", rule(lambda a, b: -a / b), "a difference"),
    ("check_answer_rule", rule(lambda a, b: a), "alone"),
    ("check_answer_rule", rule(lambda a, b: a + b), "multiplied"),
    ("check_answer_rule", lambda after, bare: 7, "should be 0"),
    ("check_answer_rule", lambda after, bare: max(after), "number of a choice"),
    ("check_answer_rule", lambda after, bare: None, "returned None"),
    ("check_fit", lambda c, a, n: (c + a)[: n + 1], "cut the context"),
    ("check_fit", lambda c, a, n: (c + a)[-n:], "one more id"),
    ("check_fit", lambda c, a, n: c + a, "do not fit"),
    ("check_fit", lambda c, a, n: c[: n + 1 - len(a)] + a, "context's beginning"),
    ("check_fit", lambda c, a, n: a, "should be"),
    ("check_fit", lambda c, a, n: None, "returned None"),
    ("check_band", lambda n, k: band(n, k) / 1.96, "one standard error"),
    ("check_band", lambda n, k: 100 * band(n, k), "in percent"),
    ("check_band", lambda n, k: 2 * band(n, k), "twice as wide"),
    ("check_band", lambda n, k: band(n, k) ** 2 / 1.96, "square root"),
    ("check_band", lambda n, k: band(1, k), "divide by n"),
    ("check_band", lambda n, k: band(1, k) / n, "not beside it"),
    ("check_band", lambda n, k: 1.96 * math.sqrt(1 / k / n), "p (1 - p)"),
    ("check_band", lambda n, k: band(n, 2), "more than two"),
    ("check_band", lambda n, k: 0.01, "should be"),
    ("check_paired_error", unpaired, "differences first"),
    ("check_paired_error", lambda a, b: stdev(gaps(a, b)), "varies less"),
    ("check_paired_error", lambda a, b: stdev(gaps(a, b)) / len(a), "not by n"),
    ("check_paired_error", lambda a, b: mean(gaps(a, b)), "difference itself"),
    ("check_paired_error", lambda a, b: pstdev(gaps(a, b)) / len(a) ** 0.5, "n - 1"),
    ("check_paired_error", lambda a, b: 7.0, "should be"),
    ("check_all_k", any_k, "one right sample is enough"),
    ("check_all_k", lambda n, c, k: (c / n) ** k, "with replacement"),
    ("check_all_k", lambda n, c, k: 1 - all_k(n, c, k), "at least one is wrong"),
    ("check_all_k", lambda n, c, k: all_k(n, n - c, k), "all of them are wrong"),
    ("check_all_k", lambda n, c, k: 0.3, "should be"),
]
