"""The checks of notebook 09: they accept right answers and name the usual mistakes."""

import math
from collections.abc import Callable

import numpy as np
from exercises import (  # noqa: F401
    pytest_generate_tests,
    test_a_mistake_is_named,
    test_a_right_answer_is_accepted,
    test_an_empty_answer_is_no_answer,
)

from minillama import teach


def exponential_mean(values: np.ndarray, alpha: float) -> list[float]:
    """By the definition: every mean is a weighted sum over all values so far."""
    means = []
    for step in range(1, len(values) + 1):
        weights = [alpha * (1 - alpha) ** (step - 1 - i) for i in range(step)]
        means.append(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))
    return means


def recursive(values: np.ndarray, alpha: float, first: float) -> list[float]:
    means = [first]
    for value in values:
        means.append((1 - alpha) * means[-1] + alpha * value)
    return means[1:]


def step_noise(losses: np.ndarray) -> float:
    jumps = losses[1:] - losses[:-1]
    return math.sqrt(float((jumps**2).mean()) / 2)


def power_law(tokens: np.ndarray, losses: np.ndarray, beta: float) -> np.ndarray:
    columns = np.stack([np.ones_like(tokens), tokens**-beta], axis=1)
    return np.linalg.solve(columns.T @ columns, columns.T @ losses)


def turned(tokens: np.ndarray, losses: np.ndarray, beta: float) -> np.ndarray:
    return power_law(1 / tokens, losses, beta)


def without_floor(tokens: np.ndarray, losses: np.ndarray, beta: float) -> tuple[float, float]:
    x = tokens**-beta
    return 0.0, float(x @ losses / (x @ x))


def from_the_ends(tokens: np.ndarray, losses: np.ndarray, beta: float) -> tuple[float, float]:
    x = tokens**-beta
    scale = (losses[0] - losses[-1]) / (x[0] - x[-1])
    return losses[0] - scale * x[0], scale


def tokens_to_reach(loss: float, floor: float, scale: float, beta: float) -> float:
    return math.exp(math.log(scale / (loss - floor)) / beta) if loss > floor else math.inf


def best_size(kind: str) -> Callable:
    def answer(flops: float, curves: dict) -> str | None:
        found = {}
        for name, (parameters, tokens, losses) in curves.items():
            count = flops / (6 * parameters) if kind != "tokens" else flops / 6
            if kind == "nearest" and tokens[0] <= count <= tokens[-1]:
                found[name] = losses[np.abs(tokens - count).argmin()]
            elif kind == "continued" or tokens[0] <= count <= tokens[-1]:
                found[name] = np.interp(count, tokens, losses)
        if kind == "first":
            return next(iter(curves))
        return min(found, key=lambda name: found[name]) if found or kind == "no None" else None

    return answer


RIGHT: list[tuple[str, Callable]] = [
    ("check_exponential_mean", exponential_mean),
    ("check_exponential_mean", lambda v, a: np.array(exponential_mean(v, a))),
    ("check_noise", step_noise),
    ("check_noise", lambda losses: np.std(np.diff(losses)) / 2**0.5),
    ("check_power_law", power_law),
    ("check_power_law", lambda d, y, b: tuple(np.polyfit(d**-b, y, 1)[::-1])),
    ("check_tokens_to_reach", tokens_to_reach),
    ("check_best_size", best_size("right")),
]

MISTAKES: list[tuple[str, Callable, str]] = [
    ("check_exponential_mean", lambda v, a: None, "returned None"),
    ("check_exponential_mean", lambda v, a: exponential_mean(v, a)[-1], "one mean for each"),
    ("check_exponential_mean", lambda v, a: recursive(v, a, 0.0), "first means are too small"),
    ("check_exponential_mean", lambda v, a: recursive(v, a, v[0]), "started from the first"),
    ("check_exponential_mean", lambda v, a: exponential_mean(v, 1 - a), "changed places"),
    ("check_exponential_mean", lambda v, a: np.cumsum(v) / np.arange(1, len(v) + 1), "the values"),
    ("check_noise", lambda losses: None, "return None"),
    ("check_noise", lambda losses: losses.std(), "holds its fall"),
    ("check_noise", lambda losses: math.sqrt(2) * step_noise(losses), "noise of two steps"),
    ("check_noise", lambda losses: step_noise(losses) / math.sqrt(2), "not by 2"),
    ("check_noise", lambda losses: step_noise(losses) ** 2, "the variance"),
    ("check_power_law", lambda d, y, b: None, "returned None"),
    ("check_power_law", lambda d, y, b: 2.0, "two numbers"),
    ("check_power_law", lambda d, y, b: power_law(d, y, b)[::-1], "changed places"),
    ("check_power_law", turned, "MINUS beta"),
    ("check_power_law", without_floor, "left the floor out"),
    ("check_power_law", from_the_ends, "not the values"),
    ("check_tokens_to_reach", lambda x, e, b, beta: None, "return None"),
    ("check_tokens_to_reach", lambda x, e, b, beta: (b / x) ** (1 / beta), "subtract the floor"),
    ("check_tokens_to_reach", lambda x, e, b, beta: (b / (x - e)) ** beta, "not with beta"),
    ("check_tokens_to_reach", lambda x, e, b, beta: ((x - e) / b) ** (1 / beta), "upside down"),
    ("check_tokens_to_reach", lambda x, e, b, beta: abs(b / (x - e)) ** (1 / beta), "Zero"),
    ("check_tokens_to_reach",
     lambda x, e, b, beta: tokens_to_reach(x, e, b, beta) if x != e else 0.0, "never reached"),
    ("check_best_size", lambda flops, curves: None, "your answer is None"),
    ("check_best_size", best_size("continued"), "np.interp"),
    ("check_best_size", best_size("tokens"), "four times as many"),
    ("check_best_size", best_size("nearest"), "straight line"),
    ("check_best_size", best_size("first"), "end of its curve"),
    ("check_best_size", best_size("no None"), "ValueError"),
    ("check_best_size", lambda flops, curves: 0, "return a name"),
]  # fmt: skip


def test_every_check_of_this_notebook_is_tested_both_ways() -> None:
    import minillama.teach.check_loss_curves as module

    names = {name for name in vars(module) if name.startswith("check_")}
    assert names == {name for name, _ in RIGHT} == {name for name, *_ in MISTAKES}
    assert names <= set(teach.checks())
