"""Checks for the exercises of notebooks 00 (the whole paper) and 06 (optimizer and training)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.teach.checking import diagnose, exercise, expect, number, same, seeded, several


@exercise
def check_windows(answer: Callable) -> str:
    """``answer(ids, seq_len) -> (inputs, targets)``, each ``(n, seq_len)``, of a stream of ids.

    ``ids`` is a vector of ``n seq_len + 1``; every id but the first is a target exactly once.
    """
    for n, seq_len in ((1, 4), (3, 5), (4, 2)):
        ids = 100 + torch.arange(n * seq_len + 1)
        given = several(answer(ids.clone(), seq_len), 2, "inputs and targets")
        tensors = all(isinstance(part, Tensor) for part in given)
        expect(tensors, "return a pair of tensors: the inputs, then the targets")
        inputs, targets = given
        call = f"{n * seq_len + 1} ids in windows of {seq_len}"
        expect(
            not torch.equal(inputs, targets),
            f"{call}: a target is the *next* id; yours are the inputs themselves",
        )
        turned = torch.equal(inputs.flatten(), ids[1:]) and torch.equal(targets.flatten(), ids[:-1])
        expect(not turned, f"{call}: inputs and targets have changed places")
        counts = [int((targets == number).sum()) for number in ids[1:]]
        lost = [place + 1 for place, count in enumerate(counts) if count == 0]
        expect(
            not lost,
            f"{call}: ids number {lost} are nobody's targets; the "
            "last target of a window is the first input of the next",
        )
        expect(max(counts) == 1, f"{call}: some ids are targets more than once")
        diagnose(f"{call}: inputs", inputs, ids[:-1].view(n, seq_len))
        diagnose(f"{call}: targets", targets, ids[1:].view(n, seq_len))
    return "every token is predicted once, and none from itself"


@exercise
def check_temperature(answer: Callable) -> str:
    """``answer(logits, temperature) -> probabilities``; temperature 0 takes the likeliest."""
    for temperature in (1.0, 0.5, 2.0, 0.1):
        logits = 3 * seeded(7, seed=int(10 * temperature))
        sharp, plain = logits / temperature, logits.softmax(-1)
        wrong = {
            "it ignores the temperature": plain,
            "it is turned round: a temperature below 1 must sharpen; divide by it":
                (logits * temperature).softmax(-1),
            f"it adds up to {1 / temperature:g}: divide the logits, not the probabilities":
                plain / temperature,
            "it holds logits: take the softmax": sharp,
        }  # fmt: skip
        given, call = (
            answer(logits.clone(), temperature),
            f"the answer at temperature {temperature}",
        )
        diagnose(call, given, sharp.softmax(-1), wrong)
    given = answer(torch.tensor([1.0, 5.0, -2.0, 4.9], dtype=torch.float64), 0)
    finite = not isinstance(given, Tensor) or given.isfinite().all()
    expect(finite, "at temperature 0 you divide by 0: give the likeliest piece probability 1")
    diagnose("temperature 0", given, torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    return "from certain (0) over the model's own odds (1) to nearly uniform"


@exercise
def check_half_life(answer: Callable) -> str:
    """``answer(beta) -> steps`` after which a gradient's weight in a moving average has halved."""
    for beta in (0.5, 0.9, 0.95, 0.999):
        right = math.log(0.5) / math.log(beta)
        wrong = {
            "1 / (1 - beta) is the mean age; its weight has then fallen to about 1/e":
                1 / (1 - beta),
            "the sign: both logarithms are negative, so their quotient is not": -right,
            "the quotient is upside down": 1 / right,
            "each step multiplies the weight by beta; find n with beta^n = 1/2": 0.5 / beta,
            "do not round": round(right),
        }  # fmt: skip
        diagnose(f"half_life({beta})", answer(beta), right, wrong, tolerance=1e-6)
    return "13.5 steps for the paper's beta2 of 0.95, and 693 for the usual 0.999"


@exercise
def check_trapezoid(answer: Callable) -> str:
    """``answer(step, total, warmup, decay, peak) -> rate``: up, level, and down to 10% of it.

    Updates are counted from 1. Update ``warmup`` is the first at the peak, update ``total - decay``
    the last, and update ``total`` has a tenth of it.
    """
    total, warmup, decay, peak = 100, 10, 20, 0.5
    level = "between warm-up and decay the rate stays at the peak"
    points = [
        (1, peak / warmup, "the warm-up rises by peak / warmup at every update"),
        (5, peak / 2, "the warm-up is a straight line"),
        (warmup, peak, "the last update of the warm-up is at the peak"),
        *((step, peak, level) for step in (11, 50, 79, 80)),
        (total, 0.1 * peak, "the last update is a tenth of the peak"),
        (90, 0.55 * peak, "half-way down a straight line from the peak to a tenth of it"),
        (81, peak * (1 - 0.9 / 20), "the way down is a straight line"),
    ]
    lost = {
        1: "update 1 has rate 0 and is lost: count updates from 1",
        total: "the last update has rate 0; a tenth of the peak is left",
    }
    for step, right, hint in points:
        given = answer(step, total, warmup, decay, peak)
        rate, call = number(given), f"the rate of update {step}"
        expect(rate != 0 or step not in lost, lost.get(step, ""))
        near = rate is None or same(rate, right, 1e-6)
        expect(near, f"update {step} has rate {rate} and should have {right:g}: {hint}")
        diagnose(call, given, right, tolerance=1e-6)
    for step in (1, 3, 4):
        flat = same(answer(step, 4, 0, 0, 1.0), 1.0, 1e-6)
        expect(flat, "without warm-up and decay the rate is level")
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
        wrong = {
            "only the last part's gradient is left: do not set the gradients to zero between parts":
                gradients[-1],
            f"the gradients of {len(parts)} means were added: that is no mean any more":
                sum(gradients),
            f"you took the mean of the means, but the parts count {counted} targets: one target "
            "must weigh the same in each": sum(gradients) / len(parts),
        }  # fmt: skip
        weighted = [n * gradient for n, gradient in zip(counted, gradients, strict=True)]
        model = _Toy()
        answer(model, [(tokens.clone(), targets.clone()) for tokens, targets in parts])
        left = model.table.grad is not None
        expect(left, "no gradient was left: call backward() on the loss of each part")
        call = f"the gradient over parts with {counted} targets"
        diagnose(call, model.table.grad, sum(weighted) / sum(counted), wrong)
    return "one target, one vote, however the batch is cut"


@exercise
def check_loss_gradient(answer: Callable) -> str:
    """``answer(logits, targets) -> gradient`` of the mean loss; targets of -100 do not count."""
    for rows, vocab, skipped, scale in ((3, 5, 0, 1.0), (6, 4, 2, 1.0), (4, 9, 1, 300.0)):
        logits = scale * seeded(rows, vocab, seed=rows)
        targets = torch.arange(rows) % vocab
        targets[:skipped] = -100
        leaf, counted = logits.clone().requires_grad_(), rows - skipped
        F.cross_entropy(leaf, targets).backward()
        right, share = leaf.grad, logits.softmax(-1)
        wrong = {
            "the loss is a mean: divide by the number of targets": right * counted,
            "the sign is turned round: softmax minus one-hot": -right,
            "the true piece is missing: subtract 1 from its probability": share / rows,
            f"divide by the {counted} targets that count, not by all {rows}":
                right * counted / rows,
        }  # fmt: skip
        given = answer(logits.clone(), targets.clone())
        tensor = isinstance(given, Tensor) and given.shape == right.shape
        finite = not tensor or given.isfinite().all()
        expect(finite, "large logits overflow: subtract the largest of each row before exp()")
        ignored = not tensor or not given[:skipped].any()
        expect(ignored, "a target of -100 does not count: its row of the gradient is zero")
        diagnose(f"the gradient for {rows} positions and {vocab} pieces", given, right, wrong)
    return "softmax minus one-hot, shared among the targets that count"
