"""Checks for the exercises of notebook 09 (loss versus tokens, Figure 1)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from minillama.teach.checking import diagnose, exercise, expect


def _numbers(given: object, n: int, hint: str) -> Tensor:
    """Return ``n`` numbers of any kind of list as a tensor."""
    expect(np.size(given) == n, hint)
    return torch.tensor(np.array(given, dtype=float))


def _running_means(values: np.ndarray, alpha: float, first: float = 0.0) -> Tensor:
    means = [first]
    for value in values:
        means.append(means[-1] + alpha * (value - means[-1]))
    return torch.tensor(means[1:], dtype=torch.float64)


@exercise
def check_exponential_mean(answer: Callable) -> str:
    """``answer(values, alpha) -> means``, one a value, each with weights that add up to 1.

    The value of age a (0 is the newest) weighs in proportion to ``(1 - alpha)^a``.
    """
    for length, alpha in ((5, 0.5), (40, 0.1), (12, 1.0)):
        values = 7 + np.random.default_rng(length).normal(size=length)
        steps = torch.arange(1, length + 1)
        swapped = _running_means(values, 1 - alpha) / (1 - alpha**steps).clamp(min=1e-12)
        wrong = {
            "the first means are too small: the weights up to step t add up to only "
            "1 - (1 - alpha)^t; divide by that": _running_means(values, alpha),
            "you started from the first value, which then weighs too much for long: start from 0 "
            "and divide by the sum of the weights": _running_means(values, alpha, values[0]),
            "alpha and 1 - alpha have changed places: the newest value weighs alpha": swapped,
        }
        given = answer(values.copy(), alpha)
        call = f"{length} values, alpha {alpha}"
        expect(given is not None, f"{call}: your function returned None; return the means")
        means = _numbers(given, length, f"{call}: return one mean for each value")
        right = _running_means(values, alpha) / (1 - (1 - alpha) ** steps)
        diagnose(call, means, right, wrong)
    return "no bias at the start: the first mean is the first value, as it should be"


@exercise
def check_noise(answer: Callable) -> str:
    """``answer(losses) -> sigma``, the noise of one step, whatever the trend of the curve."""
    steps = np.arange(4_000)
    for sigma, falls in ((0.2, 0.0), (0.05, 3.0), (0.3, 1.0)):
        noise = np.random.default_rng(7).normal(0, sigma, len(steps))
        losses = 5 - falls * np.log1p(steps) / np.log1p(len(steps)) + noise
        right = float(np.diff(losses).std() / math.sqrt(2))
        wrong = {
            "the spread of the curve itself holds its fall as well; take differences of "
            "neighbors, in which the fall hardly shows": losses.std(),
            "a difference has the noise of two steps: divide its spread by the root of 2":
                math.sqrt(2) * right,
            "divide by the root of 2, not by 2": right / math.sqrt(2),
            "that is the variance; take its root": right**2,
        }  # fmt: skip
        call = f"noise of {sigma} on a curve that falls by {falls:g}"
        diagnose(call, answer(losses.copy()), right, wrong, tolerance=0.01 * right)
    return "the trend drops out of differences, and nobody has to know the true curve"


@exercise
def check_power_law(answer: Callable) -> str:
    """``answer(tokens, losses, beta) -> (floor, scale)`` of ``floor + scale / tokens**beta``.

    The two that make the sum of squared misses least, for the ``beta`` that is given.
    """
    tokens = np.geomspace(0.2, 5.0, 30)
    for floor, scale, beta, sigma in ((2.0, 1.5, 0.4, 0.0), (1.0, 3.0, 0.1, 0.05)):
        noise = np.random.default_rng(3).normal(0, sigma, len(tokens))
        losses = floor + scale * tokens**-beta + noise
        slope, constant = np.polyfit(tokens**-beta, losses, 1)
        turned_slope, turned_constant = np.polyfit(tokens**beta, losses, 1)
        without = float((losses * tokens**-beta).sum() / (tokens ** (-2 * beta)).sum())
        wrong = {
            "floor and scale have changed places": torch.tensor([slope, constant]),
            "the loss falls with tokens: the second column is tokens to the power of MINUS beta":
                torch.tensor([turned_constant, turned_slope]),
            "you left the floor out: fit a constant as well": torch.tensor([0.0, without]),
        }  # fmt: skip
        given = answer(tokens.copy(), losses.copy(), beta)
        call = f"floor {floor}, scale {scale}, beta {beta}, noise {sigma}"
        expect(given is not None, f"{call}: your function returned None; return floor and scale")
        both = _numbers(
            given, 2, f"{call}: return two numbers: the floor, then the scale"
        ).flatten()
        diagnose(call, both, torch.tensor([constant, slope]), wrong)
    return "linear once beta is fixed: two columns, one least squares, and a grid does the rest"


@exercise
def check_tokens_to_reach(answer: Callable) -> str:
    """``answer(loss, floor, scale, beta) -> tokens``; ``math.inf`` for what is never reached."""
    for loss, floor, scale, beta in ((3.0, 2.0, 2.0, 0.5), (2.1, 1.7, 5.0, 0.3)):
        share = scale / (loss - floor)
        right = share ** (1 / beta)
        wrong = {
            "subtract the floor from the loss first": (scale / loss) ** (1 / beta),
            "tokens^beta = scale / (loss - floor); take the root with 1 / beta, not with beta":
                share**beta,
            "upside down: a loss nearer to the floor takes more tokens, not fewer": 1 / right,
        }  # fmt: skip
        call = f"loss {loss} on {floor} + {scale} / tokens^{beta}"
        diagnose(call, answer(loss, floor, scale, beta), right, wrong, tolerance=1e-6)
    for loss in (2.0, 1.5):
        hint = "a loss at or below the floor is never reached: return math.inf"
        expect(answer(loss, 2.0, 2.0, 0.5) == math.inf, f"loss {loss}, floor 2.0: {hint}")
    return (
        "a power law is dear: halving the distance to the floor takes 2^(1/beta) times the tokens"
    )


BUDGETS = (
    (24.0, "small", "at equal compute small has read four times as many tokens as large: "
                    "3.4 against 3.8; look each up at flops / (6 parameters)"),
    (6.0, "small", "large has no point so early (it starts at 24); a curve must not be "
                   "continued, and np.interp does so in silence: it repeats the end"),
    (48.0, "large", "small is at the end of its curve, with 3.3, and large at 3.2"),
    (42.0, "small", "between two points go in a straight line: small 3.325, large 3.35"),
    (192.0, "large", "small ended long before: it does not count"),
    (1000.0, None, "all runs ended before that: return None"),
)  # fmt: skip


@exercise
def check_best_size(answer: Callable) -> str:
    """``answer(flops, curves) -> name`` of the size with the least loss at that compute.

    ``curves`` is a dictionary of ``name: (parameters, tokens, losses)``; a run has used
    ``6 * parameters * tokens``. A run that has no point so early, or none so late, does not count;
    None if no run is left.
    """
    tokens = np.array([1.0, 2.0, 4.0, 8.0])
    curves = {
        "small": (1, tokens, np.array([4.0, 3.6, 3.4, 3.3])),
        "large": (4, tokens, np.array([3.8, 3.2, 2.8, 2.5])),
    }
    for flops, right, hint in BUDGETS:
        given = answer(flops, dict(curves))
        nothing = given is None and right is not None
        expect(not nothing, f"with {flops:g} FLOP your answer is None, but {right} has read so far")
        known = given is None or given in curves
        expect(known, f"return a name of {list(curves)} or None, not {given!r}")
        expect(given == right, f"with {flops:g} FLOP you answer {given!r}: {hint}")
    return "small sizes win small budgets: each size has its stretch of compute"
