"""The checks of notebooks 10 and 11: right answers pass, typical mistakes are named."""

import math
from collections.abc import Callable, Sequence
from statistics import mean, pstdev, stdev

import numpy as np
from exercises import *  # noqa: F403


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
    ("check_answer_rule", lambda after, bare: max(after), "should be 0"),
    ("check_answer_rule", lambda after, bare: None, "is None"),
    ("check_fit", lambda c, a, n: (c + a)[: n + 1], "cut the context"),
    ("check_fit", lambda c, a, n: (c + a)[-n:], "one more id"),
    ("check_fit", lambda c, a, n: c + a, "do not fit"),
    ("check_fit", lambda c, a, n: c[: n + 1 - len(a)] + a, "context's beginning"),
    ("check_fit", lambda c, a, n: a, "should be"),
    ("check_fit", lambda c, a, n: None, "is None"),
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


RIGHT += [
    ("check_pair_order", tau),
    ("check_level_each", each),
    ("check_questions_needed", needed),
    ("check_shifted_accuracy", shifted),
]

MISTAKES += [
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
