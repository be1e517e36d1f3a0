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
    """``answer(ids, seq_len) -> (inputs, targets)``, each ``(n, seq_len)``, of a stream of ids."""
    for n, seq_len in ((1, 4), (3, 5), (4, 2)):
        ids = 100 + torch.arange(n * seq_len + 1)
        right_inputs, right_targets = ids[:-1].view(n, seq_len), ids[1:].view(n, seq_len)
        inputs, targets = several(answer(ids.clone(), seq_len), 2, "inputs and targets")
        call = f"{n * seq_len + 1} ids in windows of {seq_len}"
        wrong = {"inputs and targets have changed places": right_targets}
        compare(f"{call}: inputs", inputs, right_inputs, wrong)
        wrong = {
            "a target is the *next* id; yours are the inputs themselves": right_inputs,
            "the last target of a window is the first input of the next": right_inputs.roll(-1, 1),
        }
        compare(f"{call}: targets", targets, right_targets, wrong)
    return "every token is predicted once, and none from itself"


@exercise
def check_temperature(answer: Callable) -> str:
    """``answer(logits, temperature) -> probabilities``; temperature 0 takes the likeliest."""
    logits = 3 * seeded(7)
    plain = logits.softmax(-1)
    for temperature in (1.0, 0.5, 2.0, 0.1):
        sharp = logits / temperature
        turned = (logits * temperature).softmax(-1)
        wrong = {
            "it ignores the temperature": plain,
            "it is turned round: a temperature below 1 must sharpen; divide by it": turned,
            "divide the logits, not the probabilities": plain / temperature,
            "it holds logits: take the softmax": sharp,
        }
        diagnose(answer, (logits, temperature), sharp.softmax(-1), wrong)
    certain = F.one_hot(logits.argmax(), 7).double()
    wrong = {"do not divide by 0: give the likeliest piece probability 1": ANYTHING_ELSE}
    diagnose(answer, (logits, 0), certain, wrong)
    return "from certain (0) over the model's own odds (1) to nearly uniform"


@exercise
def check_half_life(answer: Callable) -> str:
    """``answer(beta) -> steps`` after which a gradient's weight in a moving average has halved."""
    for beta in (0.5, 0.9, 0.95, 0.999):
        steps = math.log(0.5) / math.log(beta)
        wrong = {
            "that is the mean age; the weight has then fallen to about 1/e": 1 / (1 - beta),
            "the sign: both logarithms are negative, so their quotient is not": -steps,
            "the quotient is upside down": 1 / steps,
            "each step multiplies the weight by beta; find n with beta^n = 1/2": 0.5 / beta,
            "do not round": round(steps),
        }
        diagnose(answer, (beta,), steps, wrong, tolerance=1e-6)
    return "13.5 steps for the paper's beta2 of 0.95, and 693 for the usual 0.999"


@exercise
def check_trapezoid(answer: Callable) -> str:
    """``answer(step, total, warmup, decay, peak) -> rate``: up, level, and down to 10% of it."""
    # The pieces of the curve, and updates on each.
    up = "the warm-up is a straight line: it rises by peak / warmup at every update"
    level = "between warm-up and decay the rate stays at the peak"
    down = "the way down is a straight line from the peak to a tenth of it"
    lost = {1: "update 1 is lost: count updates from 1", 100: "a tenth of the peak is left"}
    for step, right, hint in (
        (1, 0.05, up), (5, 0.25, up), (10, 0.5, up), (100, 0.05, down), (11, 0.5, level),
        (50, 0.5, level), (79, 0.5, level), (80, 0.5, level), (90, 0.275, down), (81, 0.4775, down),
    ):  # fmt: skip
        wrong = {f"the rate is 0; {lost.get(step)}": 0.0, hint: ANYTHING_ELSE}
        diagnose(answer, (step, 100, 10, 20, 0.5), right, wrong, tolerance=1e-6)
    for step in (1, 3, 4):
        wrong = {"without warm-up and decay the rate is level": ANYTHING_ELSE}
        diagnose(answer, (step, 4, 0, 0, 1.0), 1.0, wrong, tolerance=1e-6)
    return "unlike a cosine it need not know the run's length until the way down begins"


class _Toy(nn.Module):
    """A model of the same form as Llama: logits, or with targets the mean loss."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(seeded(6, 6, seed=4))

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = self.table[tokens]
        if targets is None:
            return logits
        rows = logits.flatten(0, 1)
        return F.cross_entropy(rows, targets.flatten())


@exercise
def check_accumulate(answer: Callable) -> str:
    """``answer(model, parts)`` leaves the gradient of the mean loss over all counted targets."""
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


@exercise
def check_loss_gradient(answer: Callable) -> str:
    """``answer(logits, targets) -> gradient`` of the mean loss; targets of -100 do not count."""
    for logits, targets in (
        (seeded(3, 5), torch.tensor([0, 1, 2])),
        (seeded(6, 4), torch.tensor([-100, -100, 2, 3, 0, 1])),
        (1000 * seeded(4, 9), torch.tensor([-100, 1, 2, 3])),
    ):
        leaf, counted = logits.clone().requires_grad_(), int((targets >= 0).sum())
        F.cross_entropy(leaf, targets).backward()
        right, rows = leaf.grad, len(logits)
        share = logits.softmax(-1)
        true = F.one_hot(targets.clamp(min=0), logits.shape[1])
        unmasked = share - true
        wrong = {
            "the loss is a mean: divide by the number of targets": right * counted,
            "the sign is turned round: softmax minus one-hot": -right,
            "the true piece is missing: subtract 1 from its probability": share / rows,
            f"divide by the {counted} that count, not by all {rows}": right * counted / rows,
            "a target of -100 does not count: its row of the gradient is zero": unmasked / counted,
        }
        diagnose(answer, (logits, targets), right, wrong)
    return "softmax minus one-hot, shared among the targets that count"


def _values(n: int) -> np.ndarray:
    return 7 + np.random.default_rng(n).normal(size=n)


def _running_means(values: np.ndarray, alpha: float, first: float = 0.0) -> Tensor:
    means = [first]
    for value in values:
        means.append(means[-1] + alpha * (value - means[-1]))
    return torch.tensor(means[1:], dtype=torch.float64)


@exercise
def check_exponential_mean(answer: Callable) -> str:
    """``answer(values, alpha) -> means``, one a value, each with weights that add up to 1."""
    for values, alpha in ((_values(5), 0.5), (_values(40), 0.1), (_values(12), 1.0)):
        steps = torch.arange(1, len(values) + 1)
        biased, swapped = _running_means(values, alpha), _running_means(values, 1 - alpha)
        wrong = {
            "the first means are too small: the weights up to step t add up to only "
            "1 - (1 - alpha)^t; divide by that": biased,
            "you started from the first value, which then weighs too much for long: start from 0 "
            "and divide by the sum of the weights": _running_means(values, alpha, values[0]),
            "alpha and 1 - alpha have changed places: the newest value weighs alpha":
                swapped / (1 - alpha**steps).clamp(min=1e-12),
        }  # fmt: skip
        diagnose(answer, (values, alpha), biased / (1 - (1 - alpha) ** steps), wrong)
    return "no bias at the start: the first mean is the first value, as it should be"


def _noisy_curve(sigma: float, falls: float) -> np.ndarray:
    steps = np.arange(4_000)
    noise = np.random.default_rng(7).normal(0, sigma, len(steps))
    return 5 - falls * np.log1p(steps) / np.log1p(len(steps)) + noise


@exercise
def check_noise(answer: Callable) -> str:
    """``answer(losses) -> sigma``, the noise of one step, whatever the trend of the curve."""
    for losses in (_noisy_curve(0.2, 0.0), _noisy_curve(0.05, 3.0), _noisy_curve(0.3, 1.0)):
        jump = float(np.diff(losses).std())
        wrong = {
            "the spread of the curve itself holds its fall as well; take differences of neighbors":
                losses.std(),
            "a difference has the noise of two steps: divide by the root of 2": jump,
            "divide by the root of 2, not by 2": jump / 2,
            "that is the variance; take its root": jump**2 / 2,
        }  # fmt: skip
        diagnose(answer, (losses,), jump / math.sqrt(2), wrong, tolerance=5e-4)
    return "the trend drops out of differences, and nobody has to know the true curve"


TOKENS = np.geomspace(0.2, 5.0, 30)


def _power_law(floor: float, scale: float, beta: float, sigma: float) -> tuple:
    noise = np.random.default_rng(3).normal(0, sigma, len(TOKENS))
    return TOKENS, floor + scale * TOKENS**-beta + noise, beta


@exercise
def check_power_law(answer: Callable) -> str:
    """``answer(tokens, losses, beta) -> (floor, scale)`` of ``floor + scale / tokens**beta``."""
    for tokens, losses, beta in (_power_law(2.0, 1.5, 0.4, 0.0), _power_law(1.0, 3.0, 0.1, 0.05)):
        column = tokens**-beta
        scale, floor = np.polyfit(column, losses, 1)
        best = torch.tensor([floor, scale])
        scale, floor = np.polyfit(1 / column, losses, 1)
        turned = torch.tensor([floor, scale])
        only_scale = torch.tensor([0.0, column @ losses / (column @ column)])
        wrong = {
            "floor and scale have changed places": best.flip(0),
            "the loss falls with tokens: take tokens to the power of MINUS beta": turned,
            "you left the floor out: fit a constant as well": only_scale,
            "a fit with smaller misses exists; return two numbers, floor and scale": ANYTHING_ELSE,
        }
        diagnose(answer, (tokens, losses, beta), best, wrong)
    return "linear once beta is fixed: two columns, one least squares, and a grid does the rest"


@exercise
def check_tokens_to_reach(answer: Callable) -> str:
    """``answer(loss, floor, scale, beta) -> tokens``; ``math.inf`` for what is never reached."""
    for loss, floor, scale, beta in ((3.0, 2.0, 2.0, 0.5), (2.1, 1.7, 5.0, 0.3)):
        share = scale / (loss - floor)
        wrong = {
            "subtract the floor from the loss first": (scale / loss) ** (1 / beta),
            "tokens^beta = scale / (loss - floor); the root is 1 / beta, not with beta":
                share**beta,
            "upside down: a loss nearer to the floor takes more tokens": share ** (-1 / beta),
        }  # fmt: skip
        diagnose(answer, (loss, floor, scale, beta), share ** (1 / beta), wrong, tolerance=1e-6)
    for loss in (2.0, 1.5):
        wrong = {"a loss at or below the floor is never reached: return math.inf": ANYTHING_ELSE}
        diagnose(answer, (loss, 2.0, 2.0, 0.5), math.inf, wrong)
    return (
        "a power law is dear: halving the distance to the floor takes 2^(1/beta) times the tokens"
    )


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
    """``answer(flops, curves) -> name`` of the size with the least loss at that compute."""
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
