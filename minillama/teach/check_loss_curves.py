"""Checks for the exercises of notebook 09 (loss versus tokens, Figure 1)."""

import math
from collections.abc import Callable

import numpy as np

from minillama.teach.checking import exercise, expect, same_number

Curves = dict[str, tuple[int, np.ndarray, np.ndarray]]


def _like(given: object, right: object, tolerance: float = 1e-6) -> bool:
    """Whether both hold the same numbers in the same shape."""
    try:
        actual, expected = np.asarray(given, dtype=float), np.asarray(right, dtype=float)
    except (TypeError, ValueError):
        return False
    return actual.shape == expected.shape and np.allclose(actual, expected, rtol=tolerance)


@exercise
def check_exponential_mean(answer: Callable) -> str:
    """``answer(values, alpha) -> means``, one a value, each with weights that add up to 1.

    The value of age a (0 is the newest) weighs in proportion to ``(1 - alpha)^a``.
    """
    for length, alpha in ((5, 0.5), (40, 0.1), (12, 1.0)):
        values = 7 + np.random.default_rng(length).normal(size=length)
        given = answer(values.copy(), alpha)
        call = f"{length} values, alpha {alpha}"
        expect(given is not None, f"{call}: your function returned None; return the means")
        expect(np.size(given) == length, f"{call}: return one mean for each value")

        def run(alpha: float, first: float, values: np.ndarray = values) -> np.ndarray:
            means, mean = [], first
            for value in values:
                mean += alpha * (value - mean)
                means.append(mean)
            return np.array(means)

        weights = 1 - (1 - alpha) ** np.arange(1, length + 1)
        right = run(alpha, 0.0) / weights
        wrong = {
            "the first means are too small: the weights up to step t add up to only "
            "1 - (1 - alpha)^t; divide by that": run(alpha, 0.0),
            "you started from the first value, which then weighs too much for long: start from 0 "
            "and divide by the sum of the weights": run(alpha, values[0]),
            "alpha and 1 - alpha have changed places: the newest value weighs alpha":
                run(1 - alpha, 0.0) / np.maximum(1 - alpha ** np.arange(1, length + 1), 1e-12),
        }  # fmt: skip
        for hint, values_of in wrong.items():
            expect(_like(values_of, right) or not _like(given, values_of), f"{call}: {hint}")
        expect(_like(given, right), f"{call}: these are not the right means")
    return "no bias at the start: the first mean is the first value, as it should be"


@exercise
def check_noise(answer: Callable) -> str:
    """``answer(losses) -> sigma``, the noise of one step, whatever the trend of the curve."""
    steps = np.arange(4_000)
    for sigma, falls in ((0.2, 0.0), (0.05, 3.0), (0.3, 1.0)):
        noise = np.random.default_rng(7).normal(0, sigma, len(steps))
        losses = 5 - falls * np.log1p(steps) / np.log1p(len(steps)) + noise
        given = answer(losses.copy())
        call = f"noise of {sigma} on a curve that falls by {falls:g}"
        right = float(np.diff(losses).std() / math.sqrt(2))
        hints = {
            f"{call}: the spread of the curve itself holds its fall as well; take differences of "
            "neighbors, in which the fall hardly shows": losses.std(),
            f"{call}: a difference has the noise of two steps: divide its spread by the root of 2":
                math.sqrt(2) * right,
            f"{call}: divide by the root of 2, not by 2": right / math.sqrt(2),
            f"{call}: that is the variance; take its root": right**2,
        }  # fmt: skip
        number = isinstance(given, int | float)
        for hint, value in hints.items():
            close = number and math.isclose(given, float(value), rel_tol=0.01)
            expect(not close or math.isclose(value, right, rel_tol=0.02), hint)
        same_number(given, right, call, tolerance=0.01 * right)
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
        given = answer(tokens.copy(), losses.copy(), beta)
        call = f"floor {floor}, scale {scale}, beta {beta}, noise {sigma}"
        expect(given is not None, f"{call}: your function returned None; return floor and scale")
        expect(np.size(given) == 2, f"{call}: return two numbers: the floor, then the scale")
        slope, constant = np.polyfit(tokens**-beta, losses, 1)
        turned = np.polyfit(tokens**beta, losses, 1)[::-1]
        no_floor = float((losses * tokens**-beta).sum() / (tokens ** (-2 * beta)).sum())
        for hint, wrong in {
            "floor and scale have changed places": (slope, constant),
            "the loss falls with tokens: the second column is tokens to the power of MINUS beta":
                turned,
            "you left the floor out: fit a constant as well": (0.0, no_floor),
        }.items():  # fmt: skip
            expect(not _like(given, wrong), f"{call}: {hint}")
        expect(_like(given, (constant, slope)), f"{call}: a fit with smaller misses exists")
    return "linear once beta is fixed: two columns, one least squares, and a grid does the rest"


@exercise
def check_tokens_to_reach(answer: Callable) -> str:
    """``answer(loss, floor, scale, beta) -> tokens``; ``math.inf`` for what is never reached."""
    for loss, floor, scale, beta in ((3.0, 2.0, 2.0, 0.5), (2.1, 1.7, 5.0, 0.3)):
        given = answer(loss, floor, scale, beta)
        call = f"loss {loss} on {floor} + {scale} / tokens^{beta}"
        right = (scale / (loss - floor)) ** (1 / beta)
        for hint, wrong in {
            "subtract the floor from the loss first": (scale / loss) ** (1 / beta),
            "tokens^beta = scale / (loss - floor); take the root with 1 / beta, not with beta":
                (scale / (loss - floor)) ** beta,
            "upside down: a loss nearer to the floor takes more tokens, not fewer": 1 / right,
        }.items():  # fmt: skip
            number = isinstance(given, int | float)
            expect(not (number and math.isclose(given, wrong, rel_tol=1e-6)), f"{call}: {hint}")
        same_number(given, right, call, tolerance=1e-6)
    for loss in (2.0, 1.5):
        never = answer(loss, 2.0, 2.0, 0.5)
        hint = "a loss at or below the floor is never reached: return math.inf"
        expect(isinstance(never, float) and never == math.inf, f"loss {loss}, floor 2.0: {hint}")
    return (
        "a power law is dear: halving the distance to the floor takes 2^(1/beta) times the tokens"
    )


@exercise
def check_best_size(answer: Callable) -> str:
    """``answer(flops, curves) -> name`` of the size with the least loss at that compute.

    ``curves`` is a dictionary of ``name: (parameters, tokens, losses)``; a run has used
    ``6 * parameters * tokens``. A run that has no point so early, or none so late, does not count;
    None if no run is left.
    """
    tokens = np.array([1.0, 2.0, 4.0, 8.0])
    curves: Curves = {
        "small": (1, tokens, np.array([4.0, 3.6, 3.4, 3.3])),
        "large": (4, tokens, np.array([3.8, 3.2, 2.8, 2.5])),
    }
    cases = (
        (24.0, "small", "at equal compute small has read four times as many tokens as large: "
                        "3.4 against 3.8; look each up at flops / (6 parameters)"),
        (6.0, "small", "large has no point so early (it starts at 24); a curve must not be "
                       "continued, and np.interp does so in silence: it repeats the end"),
        (48.0, "large", "small is at the end of its curve, with 3.3, and large at 3.2"),
        (42.0, "small", "between two points go in a straight line: small 3.325, large 3.35"),
        (192.0, "large", "small ended long before: it does not count"),
        (1000.0, None, "all runs ended before that: return None"),
    )  # fmt: skip
    for flops, right, hint in cases:
        given = answer(flops, {name: curves[name] for name in curves})
        nothing = given is None and right is not None
        expect(not nothing, f"with {flops:g} FLOP your answer is None, but {right} has read so far")
        known = given is None or given in curves
        expect(known, f"return a name of {list(curves)} or None, not {given!r}")
        told = "None" if given is None else f"'{given}'"
        expect(given == right, f"with {flops:g} FLOP you answer {told}: {hint}")
    return "small sizes win small budgets: each size has its stretch of compute"
