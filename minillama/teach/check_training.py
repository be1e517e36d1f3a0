"""Checks of notebooks 00 (the whole paper), 06 (training) and 09 (loss versus tokens)."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.teach.checking import (
    ANYTHING_ELSE,
    compare,
    diagnose,
    exercise,
    expect,
    seeded,
    several,
)


@exercise
def check_windows(answer: Callable) -> str:
    """``answer(ids, seq_len) -> (inputs, targets)``, each ``(n, seq_len)``, of a stream of ids.

    ``ids`` is a vector of ``n seq_len + 1``; every id but the first is a target exactly once.
    """
    for n, seq_len in ((1, 4), (3, 5), (4, 2)):
        ids = 100 + torch.arange(n * seq_len + 1)
        right_inputs, right_targets = ids[:-1].view(n, seq_len), ids[1:].view(n, seq_len)
        inputs, targets = several(answer(ids.clone(), seq_len), 2, "inputs and targets")
        call = f"{n * seq_len + 1} ids in windows of {seq_len}"
        swapped = torch.equal(inputs, right_targets) and torch.equal(targets, right_inputs)
        expect(not swapped, f"{call}: inputs and targets have changed places")
        next_id = f"{call}: a target is the *next* id; yours are the inputs themselves"
        expect(not torch.equal(inputs, targets), next_id)
        counts = [int((targets == number).sum()) for number in ids[1:]]
        lost = [place + 1 for place, count in enumerate(counts) if count == 0]
        reason = "the last target of a window is the first input of the next"
        expect(not lost, f"{call}: ids number {lost} are nobody's targets; {reason}")
        expect(max(counts) == 1, f"{call}: some ids are targets more than once")
        compare(f"{call}: inputs", inputs, right_inputs)
        compare(f"{call}: targets", targets, right_targets)
    return "every token is predicted once, and none from itself"


LOGITS = 3 * seeded(7)


@diagnose(
    (LOGITS, 1.0), (LOGITS, 0.5), (LOGITS, 2.0), (LOGITS, 0.1), (LOGITS, 0),
    praise="from certain (0) over the model's own odds (1) to nearly uniform",
)  # fmt: skip
def check_temperature(logits: Tensor, temperature: float) -> tuple:
    """``answer(logits, temperature) -> probabilities``; temperature 0 takes the likeliest."""
    if temperature == 0:
        certain = F.one_hot(logits.argmax(), len(logits)).double()
        return certain, {"do not divide by 0: give the likeliest piece 1": ANYTHING_ELSE}
    sharp, plain = logits / temperature, logits.softmax(-1)
    turned = (logits * temperature).softmax(-1)
    return sharp.softmax(-1), {
        "it ignores the temperature": plain,
        "it is turned round: a temperature below 1 must sharpen; divide by it": turned,
        "divide the logits, not the probabilities": plain / temperature,
        "it holds logits: take the softmax": sharp,
    }


@diagnose(
    (0.5,), (0.9,), (0.95,), (0.999,), tolerance=1e-6,
    praise="13.5 steps for the paper's beta2 of 0.95, and 693 for the usual 0.999",
)  # fmt: skip
def check_half_life(beta: float) -> tuple:
    """``answer(beta) -> steps`` after which a gradient's weight in a moving average has halved."""
    steps = math.log(0.5) / math.log(beta)
    return steps, {
        "that is the mean age; the weight has then fallen to about 1/e": 1 / (1 - beta),
        "the sign: both logarithms are negative, so their quotient is not": -steps,
        "the quotient is upside down": 1 / steps,
        "each step multiplies the weight by beta; find n with beta^n = 1/2": 0.5 / beta,
        "do not round": round(steps),
    }


RUN = (100, 10, 20, 0.5)
"""Steps of a run, of its warm-up and of its decay, and the rate between."""


@diagnose(
    *((step, *RUN) for step in (1, 5, 10, 100, 11, 50, 79, 80, 90, 81)),
    (1, 4, 0, 0, 1.0), (3, 4, 0, 0, 1.0), (4, 4, 0, 0, 1.0), tolerance=1e-6,
    praise="unlike a cosine it need not know the run's length until the way down begins",
)  # fmt: skip
def check_trapezoid(step: int, total: int, warmup: int, decay: int, peak: float) -> tuple:
    """``answer(step, total, warmup, decay, peak) -> rate``: up, level, and down to 10% of it.

    Updates are counted from 1. Update ``warmup`` is the first at the peak, update ``total - decay``
    the last, and update ``total`` has a tenth of it.
    """
    hint = "between warm-up and decay the rate stays at the peak"
    right = peak
    if step < warmup:
        right = peak * step / warmup
        hint = "the warm-up is a straight line: it rises by peak / warmup at every update"
    elif step > total - decay:
        right = peak * (1 - 0.9 * (step - total + decay) / decay)
        hint = "the way down is a straight line from the peak to a tenth of it"
    lost = "update 1 is lost: count updates from 1" if step == 1 else "a tenth of the peak is left"
    return right, {f"the rate is 0; {lost}": 0.0, hint: ANYTHING_ELSE}


class _Toy(nn.Module):
    """A model of the same form as Llama: logits, or with targets the mean loss."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(seeded(6, 6, seed=4))

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = self.table[tokens]
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@exercise
def check_accumulate(answer: Callable) -> str:
    """``answer(model, parts)`` leaves the gradient of the mean loss over all counted targets.

    ``parts`` are ``(tokens, targets)``; targets of -100 are not counted.
    """
    generator = torch.Generator().manual_seed(8)
    for counted in ((4, 4), (8, 1, 3), (1, 8)):
        parts, gradients = [], []
        for n in counted:
            tokens, targets = torch.randint(0, 6, (2, 2, 4), generator=generator)
            targets.view(-1)[n:] = -100
            parts.append((tokens, targets))
            model = _Toy()
            model(tokens, targets=targets).backward()
            gradients.append(model.table.grad)
        weighted = [n * gradient for n, gradient in zip(counted, gradients, strict=True)]
        wrong = {
            "only the last part's is left: do not set the gradients to zero between": gradients[-1],
            "the gradients of means were added: that is no mean any more": sum(gradients),
            "you took the mean of the means; one target must weigh the same in each":
                sum(gradients) / len(parts),
        }  # fmt: skip
        model = _Toy()
        answer(model, [(tokens.clone(), targets.clone()) for tokens, targets in parts])
        left = model.table.grad is not None
        expect(left, "no gradient was left: call backward() on the loss of each part")
        call = f"the gradient over parts with {counted} targets"
        compare(call, model.table.grad, sum(weighted) / sum(counted), wrong)
    return "one target, one vote, however the batch is cut"


@diagnose(
    (seeded(3, 5), torch.tensor([0, 1, 2])),
    (seeded(6, 4), torch.tensor([-100, -100, 2, 3, 0, 1])),
    (1000 * seeded(4, 9), torch.tensor([-100, 1, 2, 3])),
    praise="softmax minus one-hot, shared among the targets that count",
)
def check_loss_gradient(logits: Tensor, targets: Tensor) -> tuple:
    """``answer(logits, targets) -> gradient`` of the mean loss; targets of -100 do not count."""
    leaf, counted = logits.clone().requires_grad_(), int((targets >= 0).sum())
    F.cross_entropy(leaf, targets).backward()
    right, rows, share = leaf.grad, len(logits), logits.softmax(-1)
    unmasked = share - F.one_hot(targets.clamp(min=0), logits.shape[1])
    return right, {
        "the loss is a mean: divide by the number of targets": right * counted,
        "the sign is turned round: softmax minus one-hot": -right,
        "the true piece is missing: subtract 1 from its probability": share / rows,
        f"divide by the {counted} targets that count, not by all {rows}": right * counted / rows,
        "a target of -100 does not count: its row of the gradient is zero": unmasked / counted,
    }


def _values(n: int) -> np.ndarray:
    return 7 + np.random.default_rng(n).normal(size=n)


def _running_means(values: np.ndarray, alpha: float, first: float = 0.0) -> Tensor:
    means = [first]
    for value in values:
        means.append(means[-1] + alpha * (value - means[-1]))
    return torch.tensor(means[1:], dtype=torch.float64)


@diagnose(
    (_values(5), 0.5), (_values(40), 0.1), (_values(12), 1.0),
    praise="no bias at the start: the first mean is the first value, as it should be",
)  # fmt: skip
def check_exponential_mean(values: np.ndarray, alpha: float) -> tuple:
    """``answer(values, alpha) -> means``, one a value, each with weights that add up to 1.

    The value of age a (0 is the newest) weighs in proportion to ``(1 - alpha)^a``.
    """
    steps = torch.arange(1, len(values) + 1)
    biased, swapped = _running_means(values, alpha), _running_means(values, 1 - alpha)
    return biased / (1 - (1 - alpha) ** steps), {
        "the first means are too small: the weights up to step t add up to only "
        "1 - (1 - alpha)^t; divide by that": biased,
        "you started from the first value, which then weighs too much for long: start from 0 "
        "and divide by the sum of the weights": _running_means(values, alpha, values[0]),
        "alpha and 1 - alpha have changed places: the newest value weighs alpha":
            swapped / (1 - alpha**steps).clamp(min=1e-12),
    }  # fmt: skip


def _noisy_curve(sigma: float, falls: float) -> np.ndarray:
    steps = np.arange(4_000)
    noise = np.random.default_rng(7).normal(0, sigma, len(steps))
    return 5 - falls * np.log1p(steps) / np.log1p(len(steps)) + noise


@diagnose(
    (_noisy_curve(0.2, 0.0),), (_noisy_curve(0.05, 3.0),), (_noisy_curve(0.3, 1.0),),
    praise="the trend drops out of differences, and nobody has to know the true curve",
    tolerance=5e-4,
)  # fmt: skip
def check_noise(losses: np.ndarray) -> tuple:
    """``answer(losses) -> sigma``, the noise of one step, whatever the trend of the curve."""
    jump = float(np.diff(losses).std())
    return jump / math.sqrt(2), {
        "the spread of the curve itself holds its fall as well; take differences of neighbors":
            losses.std(),
        "a difference has the noise of two steps: divide by the root of 2": jump,
        "divide by the root of 2, not by 2": jump / 2,
        "that is the variance; take its root": jump**2 / 2,
    }  # fmt: skip


TOKENS = np.geomspace(0.2, 5.0, 30)


def _power_law(floor: float, scale: float, beta: float, sigma: float) -> tuple:
    noise = np.random.default_rng(3).normal(0, sigma, len(TOKENS))
    return TOKENS, floor + scale * TOKENS**-beta + noise, beta


@diagnose(
    _power_law(2.0, 1.5, 0.4, 0.0),
    _power_law(1.0, 3.0, 0.1, 0.05),
    praise="linear once beta is fixed: two columns, one least squares, and a grid does the rest",
)
def check_power_law(tokens: np.ndarray, losses: np.ndarray, beta: float) -> tuple:
    """``answer(tokens, losses, beta) -> (floor, scale)`` of ``floor + scale / tokens**beta``.

    The two that make the sum of squared misses least, for the ``beta`` that is given.
    """
    column = tokens**-beta
    best = torch.tensor(np.polyfit(column, losses, 1)[::-1].copy())
    turned = torch.tensor(np.polyfit(1 / column, losses, 1)[::-1].copy())
    only_scale = torch.tensor([0.0, column @ losses / (column @ column)])
    return best, {
        "floor and scale have changed places": best.flip(0),
        "the loss falls with tokens: take tokens to the power of MINUS beta": turned,
        "you left the floor out: fit a constant as well": only_scale,
        "a fit with smaller misses exists; return two numbers, floor and scale": ANYTHING_ELSE,
    }


@diagnose(
    (3.0, 2.0, 2.0, 0.5), (2.1, 1.7, 5.0, 0.3), (2.0, 2.0, 2.0, 0.5), (1.5, 2.0, 2.0, 0.5),
    tolerance=1e-6,
    praise="a power law is dear: halving the distance to the floor takes 2^(1/beta) times the "
    "tokens",
)  # fmt: skip
def check_tokens_to_reach(loss: float, floor: float, scale: float, beta: float) -> tuple:
    """``answer(loss, floor, scale, beta) -> tokens``; ``math.inf`` for what is never reached."""
    if loss <= floor:
        never = "a loss at or below the floor is never reached: return math.inf"
        return math.inf, {never: ANYTHING_ELSE}
    share = scale / (loss - floor)
    return share ** (1 / beta), {
        "subtract the floor from the loss first": (scale / loss) ** (1 / beta),
        "tokens^beta = scale / (loss - floor); the root is 1 / beta, not with beta": share**beta,
        "upside down: a loss nearer to the floor takes more tokens": share ** (-1 / beta),
    }


BUDGETS = {
    24.0: ("small", "at equal compute small has read four times as many tokens as large: "
                    "3.4 against 3.8; look each up at flops / (6 parameters)"),
    6.0: ("small", "large has no point so early (it starts at 24); a curve must not be "
                   "continued, and np.interp does so in silence: it repeats the end"),
    48.0: ("large", "small is at the end of its curve, with 3.3, and large at 3.2"),
    42.0: ("small", "between two points go in a straight line: small 3.325, large 3.35"),
    192.0: ("large", "small ended long before: it does not count"),
    1000.0: (None, "all runs ended before that: return None"),
}  # fmt: skip
"""FLOP, to the best size and why."""


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
    for flops, (right, hint) in BUDGETS.items():
        given = answer(flops, dict(curves))
        nothing = given is None and right is not None
        expect(not nothing, f"with {flops:g} FLOP your answer is None, but {right} has read so far")
        known = given is None or given in curves
        expect(known, f"return a name of {list(curves)} or None, not {given!r}")
        expect(given == right, f"with {flops:g} FLOP you answer {given!r}: {hint}")
    return "small sizes win small budgets: each size has its stretch of compute"
