"""Checks for the exercises of notebooks 00 (the whole paper) and 06 (optimizer and training)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.teach.checking import close, exercise, expect, same_number, same_tensor, seeded


def _is(given: object, value: float) -> bool:
    return isinstance(given, int | float) and math.isclose(given, value, rel_tol=1e-6)


@exercise
def check_windows(answer: Callable) -> str:
    """``answer(ids, seq_len) -> (inputs, targets)``, each ``(n, seq_len)``, of a stream of ids.

    ``ids`` is a vector of ``n seq_len + 1``; every id but the first is a target exactly once.
    """
    for n, seq_len in ((1, 4), (3, 5), (4, 2)):
        ids = 100 + torch.arange(n * seq_len + 1)
        given = answer(ids.clone(), seq_len)
        expect(given is not None, "your function returned None; return inputs and targets")
        pair = isinstance(given, tuple | list) and len(given) == 2
        expect(
            pair and all(isinstance(part, Tensor) for part in given),
            "return a pair of tensors: the inputs, then the targets",
        )
        inputs, targets = given
        call = f"{n * seq_len + 1} ids in windows of {seq_len}"
        expect(
            not torch.equal(inputs, targets),
            f"{call}: a target is the *next* id; yours are the inputs themselves",
        )
        turned = torch.equal(inputs.flatten(), ids[1:]) and torch.equal(targets.flatten(), ids[:-1])
        expect(not turned, f"{call}: inputs and targets have changed places")
        lost = sorted(set(ids[1:].tolist()) - set(targets.flatten().tolist()))
        expect(
            not lost,
            f"{call}: ids number {[i - 100 for i in lost]} are nobody's targets; the "
            "last target of a window is the first input of the next",
        )
        expect(targets.numel() == n * seq_len, f"{call}: some ids are targets more than once")
        for actual, right, what in ((inputs, ids[:-1], "inputs"), (targets, ids[1:], "targets")):
            same_tensor(actual, right.view(n, seq_len), f"{call}: {what}")
    return "every token is predicted once, and none from itself"


@exercise
def check_temperature(answer: Callable) -> str:
    """``answer(logits, temperature) -> probabilities``; temperature 0 takes the likeliest."""
    for temperature in (1.0, 0.5, 2.0, 0.1):
        logits = 3 * seeded(7, seed=int(10 * temperature))
        given = answer(logits.clone(), temperature)
        call = f"the answer at temperature {temperature}"
        right = (logits / temperature).softmax(-1)
        if temperature != 1.0:
            expect(not close(given, logits.softmax(-1)), f"{call} ignores the temperature")
            expect(
                not close(given, (logits * temperature).softmax(-1)),
                f"{call} is turned round: a temperature below 1 must sharpen; divide by it",
            )
            expect(
                not close(given, logits.softmax(-1) / temperature),
                f"{call} adds up to {1 / temperature:g}: divide the logits, not the probabilities",
            )
        expect(not close(given, logits / temperature), f"{call} holds logits: take the softmax")
        same_tensor(given, right, call)
    logits = torch.tensor([1.0, 5.0, -2.0, 4.9], dtype=torch.float64)
    given = answer(logits.clone(), 0)
    finite = not isinstance(given, Tensor) or bool(given.isfinite().all())
    expect(finite, "at temperature 0 you divide by 0: give the likeliest piece probability 1")
    same_tensor(given, torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64), "temperature 0")
    return "from certain (0) over the model's own odds (1) to nearly uniform"


@exercise
def check_half_life(answer: Callable) -> str:
    """``answer(beta) -> steps`` after which a gradient's weight in a moving average has halved."""
    for beta in (0.5, 0.9, 0.95, 0.999):
        given = answer(beta)
        call = f"half_life({beta})"
        right = math.log(0.5) / math.log(beta)
        wrong = {
            "1 / (1 - beta) is the mean age; its weight has then fallen to about 1/e":
                1 / (1 - beta),
            "the sign: both logarithms are negative, so their quotient is not": -right,
            "the quotient is upside down": 1 / right,
            "each step multiplies the weight by beta; find n with beta^n = 1/2": 0.5 / beta,
        }  # fmt: skip
        for hint, value in wrong.items():
            expect(_is(value, right) or not _is(given, value), f"{call}: {hint}")
        rounded = isinstance(given, int) and given == round(right) and not _is(right, given)
        expect(not rounded, f"{call}: do not round")
        same_number(given, right, call, tolerance=1e-6)
    return "13.5 steps for the paper's beta2 of 0.95, and 693 for the usual 0.999"


@exercise
def check_trapezoid(answer: Callable) -> str:
    """``answer(step, total, warmup, decay, peak) -> rate``: up, level, and down to 10% of it.

    Updates are counted from 1. Update ``warmup`` is the first at the peak, update ``total - decay``
    the last, and update ``total`` has a tenth of it.
    """
    total, warmup, decay, peak = 100, 10, 20, 0.5

    def rate(step: int) -> object:
        return answer(step, total, warmup, decay, peak)

    def at(step: int, right: float, hint: str) -> None:
        given = rate(step)
        if isinstance(given, int | float) and not _is(given, right):
            expect(False, f"update {step} has rate {given:g} and should have {right:g}: {hint}")
        same_number(given, right, f"the rate of update {step}", tolerance=1e-6)

    first = rate(1)
    expect(not _is(first, 0.0), "update 1 has rate 0 and is lost: count updates from 1")
    at(1, peak / warmup, "the warm-up rises by peak / warmup at every update")
    at(5, peak / 2, "the warm-up is a straight line")
    at(warmup, peak, "the last update of the warm-up is at the peak")
    for step in (11, 50, 79, 80):
        at(step, peak, "between warm-up and decay the rate stays at the peak")
    expect(not _is(rate(total), 0.0), "the last update has rate 0; a tenth of the peak is left")
    at(total, 0.1 * peak, "the last update is a tenth of the peak")
    at(90, 0.55 * peak, "half-way down a straight line from the peak to a tenth of it")
    at(81, peak * (1 - 0.9 / 20), "the way down is a straight line")
    for step in (1, 3, 4):
        expect(_is(answer(step, 4, 0, 0, 1.0), 1.0), "without warm-up and decay the rate is level")
    return "unlike a cosine it need not know the run's length until the way down begins"


class _Toy(nn.Module):
    """A model of the same form as Llama: logits, or with targets the mean loss."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(seeded(6, 6, seed=4))

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = self.table[tokens]
        return (
            logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        )


def _gradient(weigh: Callable[[list[Tensor], list[int]], Tensor], parts: list) -> Tensor:
    model = _Toy()
    losses = [model(tokens, targets=targets) for tokens, targets in parts]
    weigh(losses, [int((targets != -100).sum()) for _, targets in parts]).backward()
    return model.table.grad


@exercise
def check_accumulate(answer: Callable) -> str:
    """``answer(model, parts)`` leaves the gradient of the mean loss over all counted targets.

    ``parts`` are ``(tokens, targets)``; targets of -100 are not counted.
    """
    generator = torch.Generator().manual_seed(8)
    for counted in ((4, 4), (8, 1, 3), (1, 8)):
        parts = []
        for number in counted:
            tokens, targets = torch.randint(0, 6, (2, 2, 4), generator=generator)
            targets.view(-1)[number:] = -100
            parts.append((tokens, targets))
        model = _Toy()
        answer(model, [(tokens.clone(), targets.clone()) for tokens, targets in parts])
        given = model.table.grad
        expect(given is not None, "no gradient was left: call backward() on the loss of each part")
        last = _gradient(lambda losses, n: losses[-1], parts)
        expect(
            not close(given, last),
            "only the last part's gradient is left: do not set the gradients to zero between parts",
        )
        added = _gradient(lambda losses, n: sum(losses), parts)
        expect(
            not close(given, added),
            f"the gradients of {len(parts)} means were added: that is no mean any more",
        )
        if len(set(counted)) > 1:
            equal = _gradient(lambda losses, n: sum(losses) / len(losses), parts)
            expect(
                not close(given, equal),
                "you took the mean of the means, but the parts count "
                f"{counted} targets: one target must weigh the same in each",
            )
        right = _gradient(
            lambda losses, n: sum(x * k for x, k in zip(losses, n, strict=True)) / sum(n), parts
        )
        same_tensor(given, right, f"the gradient over parts with {counted} targets")
    return "one target, one vote, however the batch is cut"


@exercise
def check_loss_gradient(answer: Callable) -> str:
    """``answer(logits, targets) -> gradient`` of the mean loss; targets of -100 do not count."""
    for rows, vocab, skipped, scale in ((3, 5, 0, 1.0), (6, 4, 2, 1.0), (4, 9, 1, 300.0)):
        logits = scale * seeded(rows, vocab, seed=rows)
        targets = torch.arange(rows) % vocab
        targets[:skipped] = -100
        given = answer(logits.clone(), targets.clone())
        leaf = logits.clone().requires_grad_()
        F.cross_entropy(leaf, targets).backward()
        right, share = leaf.grad, logits.softmax(-1)
        counted = rows - skipped
        finite = not isinstance(given, Tensor) or bool(given.isfinite().all())
        expect(finite, "large logits overflow: subtract the largest of each row before exp()")
        if not skipped:
            expect(
                not close(given, right * counted),
                "the loss is a mean: divide by the number of targets",
            )
            expect(not close(given, -right), "the sign is turned round: softmax minus one-hot")
            expect(
                not close(given, share / rows),
                "the true piece is missing: subtract 1 from its probability",
            )
        else:
            expect(
                not close(given, right * counted / rows),
                f"divide by the {counted} targets that count, not by all {rows}",
            )
            ignored = isinstance(given, Tensor) and given.shape == right.shape
            expect(
                not ignored or not bool(given[:skipped].any()),
                "a target of -100 does not count: its row of the gradient is zero",
            )
        same_tensor(given, right, f"the gradient for {rows} positions and {vocab} pieces")
    return "softmax minus one-hot, shared among the targets that count"
