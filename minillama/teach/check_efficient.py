"""Checks for the exercises of notebook 07 (efficient implementation)."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.config import ModelConfig
from minillama.parallel.memory import flops_per_token
from minillama.teach.checking import (
    close,
    exercise,
    expect,
    is_number,
    same_number,
    same_tensor,
    seeded,
)


@exercise
def check_merge_attention(answer: Callable) -> str:
    """``answer(out_a, lse_a, out_b, lse_b) -> (out, lse)`` of attention over both sets of keys.

    ``out (queries, head_dim)`` is attention over one set of keys and ``lse (queries,)`` the
    logarithm of the sum of exp(score) over it.
    """
    for keys_a, keys_b, size in ((3, 3, 1.0), (1, 6, 1.0), (5, 2, 1000.0), (2, 4, -1000.0)):
        scores, values = seeded(4, keys_a + keys_b, seed=1) + size, seeded(keys_a + keys_b, 5)
        parts = scores.split((keys_a, keys_b), dim=1), values.split((keys_a, keys_b))
        (out_a, lse_a), (out_b, lse_b) = (
            (s.softmax(-1) @ v, s.logsumexp(-1)) for s, v in zip(*parts, strict=True)
        )
        given = answer(out_a.clone(), lse_a.clone(), out_b.clone(), lse_b.clone())
        expect(given is not None, "your function returned None; return the output and its lse")
        pair = isinstance(given, tuple | list) and len(given) == 2
        expect(pair, "return a pair: the output, then the logsumexp")
        finite = all(isinstance(part, Tensor) and bool(part.isfinite().all()) for part in given)
        expect(
            finite or abs(size) < 100,
            "large logsumexps overflow or vanish: subtract the larger one before exp()",
        )
        call = f"{keys_a} and {keys_b} keys"
        expect(
            not close(given[0], (out_a + out_b) / 2),
            f"{call}: the plain mean of the two outputs; a part counts by its sum of exp(score)",
        )
        by_keys = (keys_a * out_a + keys_b * out_b) / (keys_a + keys_b)
        expect(
            not close(given[0], by_keys),
            f"{call}: the number of keys does not matter, the sum of exp(score) does",
        )
        unweighted = out_a * lse_a[:, None] + out_b * lse_b[:, None]
        expect(
            not close(given[0], unweighted / (lse_a + lse_b)[:, None]),
            f"{call}: you weighted by the logarithms; take exp() of them",
        )
        same_tensor(given[0], scores.softmax(-1) @ values, f"the output of {call}")
        expect(
            not close(given[1], lse_a + lse_b),
            f"{call}: logarithms were added, which multiplies the sums",
        )
        same_tensor(given[1], scores.logsumexp(-1), f"the logsumexp of {call}")
    return "keys may be split over blocks, kernels or machines: parts merge exactly"


@exercise
def check_layer_norm_backward(answer: Callable) -> str:
    """``answer(unit, scale, weight, grad) -> gradients of (x, weight, bias)`` of LayerNorm.

    ``unit = (x - mean) * scale`` and ``scale (..., 1) = 1 / standard deviation`` are what the
    forward kept; the output was ``unit * weight + bias``.
    """
    for shape in ((6,), (3, 8), (2, 4, 5)):
        x = (seeded(*shape, seed=1) + 0.5).requires_grad_()
        weight = seeded(shape[-1], seed=2).requires_grad_()
        bias, grad = torch.zeros_like(weight).requires_grad_(), seeded(*shape, seed=3)
        output = F.layer_norm(x, shape[-1:], weight, bias, eps=1e-6)
        of_x, of_weight, of_bias = torch.autograd.grad(output, (x, weight, bias), grad)
        with torch.no_grad():
            centered = x - x.mean(-1, keepdim=True)
            scale = (centered.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
            unit, g = centered * scale, grad * weight
            given = answer(unit.clone(), scale.clone(), weight.clone(), grad.clone())
            along = unit * (g * unit).mean(-1, keepdim=True)
            hints = {
                "the slope through the scale is missing: g is not all; x also moves the deviation":
                    g - g.mean(-1, keepdim=True),
                "that is RMSNorm's: x moves the mean too, so the mean of g is to be taken away":
                    g - along,
                "mean and deviation both depend on x; you held them constant": g,
                "the gradient of the output is multiplied by the weight on its way to unit":
                    grad - grad.mean(-1, keepdim=True)
                    - unit * (grad * unit).mean(-1, keepdim=True),
            }  # fmt: skip
        expect(given is not None, "your function returned None; return three gradients")
        three = isinstance(given, tuple | list) and len(given) == 3
        expect(three, "return three gradients: of x, of the weight, of the bias")
        for hint, wrong in hints.items():
            expect(not close(given[0], wrong * scale), f"in the gradient of x: {hint}")
        expect(not close(given[0], of_x / scale), "the gradient of x lacks the scale")
        same_tensor(given[0], of_x, f"the gradient of x for x of shape {shape}")
        names = ("weight", of_weight, grad * unit), ("bias", of_bias, grad)
        for (name, right, unsummed), mine in zip(names, given[1:], strict=True):
            apart = len(shape) > 1 and close(mine, unsummed)
            expect(not apart, f"one {name} serves all positions: sum its gradient over them")
            same_tensor(mine, right, f"the gradient of the {name} for x of shape {shape}")
    return "two directions carry no gradient: along the input, and along (1, 1, ..., 1)"


CHEAP: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("unit_x", ("x",)),
    ("x", ("unit_x",)),
    ("x", ("h", "o")),
    ("a", ("x",)),
    ("q", ("q_flat",)),
    ("q_flat", ("q",)),
    ("k", ("k_flat",)),
    ("k_flat", ("k",)),
    ("h", ("x", "o")),
    ("h", ("unit_h",)),
    ("o", ("x", "h")),
    ("unit_h", ("h",)),
    ("b", ("h",)),
    ("silu", ("gate",)),
    ("product", ("gate", "up")),
)
"""Results of a block, and from what each can be had without a product of matrices.

The norms' scales, one number a token, are taken as kept: so x / rms(x) gives x.
"""

DEAR: dict[str, str] = {
    "q": "a product with wq",
    "k": "a product with wk",
    "v": "a product with wv",
    "mixed": "attention once more",
    "h": "a product with wo",
    "gate": "a product with w1",
    "up": "a product with w3",
    "x": "the whole block before this one",
}
"""What it takes to have again, from nothing, what the backward cannot do without."""

NEEDED = ("unit_x", "a", "q", "k", "v", "mixed", "unit_h", "b", "gate", "up", "silu", "product")
"""Results that the gradients of a block are made of."""

ALL_RESULTS = {*NEEDED, *(name for name, _ in CHEAP), "y"}


def within_reach(kept: Iterable[str]) -> set[str]:
    """The results that follow from those kept without a product of matrices."""
    known = set(kept)
    while True:
        more = {name for name, sources in CHEAP if known.issuperset(sources)} - known
        if not more:
            return known
        known |= more


@exercise
def check_what_to_keep(answer: Callable) -> str:
    """``answer() -> names`` of results to keep, as few numbers as no repeated product allows."""
    given = answer()
    expect(given is not None, "your function returned None; return a set of names")
    listed = isinstance(given, set | frozenset | list | tuple)
    expect(listed and all(isinstance(name, str) for name in given), "return a set of names")
    unknown = sorted(set(given) - ALL_RESULTS)
    expect(not unknown, f"{unknown} are not among the names of the table")
    known = within_reach(given)
    lost = next((name for name in NEEDED if name not in known), None)
    if lost is not None:
        cause = {"unit_x": "x", "a": "x", "unit_h": "h", "b": "h", "silu": "gate"}.get(lost, lost)
        expect(False, f"the backward needs '{lost}'; with what you keep it takes {DEAR[cause]}")
    for name in sorted(given):
        rest = set(given) - {name}
        spare = all(needed in within_reach(rest) for needed in NEEDED)
        follows = name in within_reach(rest)
        why = "it follows cheaply from the others" if follows else "no gradient needs it"
        expect(not spare, f"'{name}' need not be kept: {why}")
    return "6d + 2f numbers a token instead of 10d + 4f, and no matrix multiplied twice"


@exercise
def check_grouped_query_numbers(answer: Callable) -> str:
    """``answer(dim, hidden_dim, n_heads, n_kv_heads, recompute) -> numbers kept`` a token, a layer.

    ``recompute`` is "none" or "selective"; keys and values have ``n_kv_heads`` heads.
    """
    for d, f, heads, groups in ((64, 192, 4, 4), (8192, 28672, 64, 8), (4096, 14336, 32, 8)):
        small = d * groups // heads
        for recompute, whole, after in (
            ("none", 10 * d + 4 * f, 8 * d + 2 * small + 4 * f),
            ("selective", 6 * d + 2 * f, 4 * d + 2 * small + 2 * f),
        ):
            given = answer(d, f, heads, groups, recompute)
            call = f"grouped_query_numbers({d}, {f}, {heads}, {groups}, '{recompute}')"
            wrong = {
                "keys and values have fewer heads than the queries; you counted all": whole,
                "only two of the d-sized results shrink: keys and values": whole * groups / heads,
                "keys shrink, and values too": whole - d + small,
                "queries keep all their heads": after - d + small,
                "the width of keys and values is n_kv_heads times the head's dim":
                    whole - 2 * d + 2 * groups,
            }  # fmt: skip
            for hint, value in wrong.items():
                same = is_number(value, after)
                expect(same or not is_number(given, value), f"{call}: {hint}")
            other = 16 * d + 6 * f - whole - 2 * (d - small)
            expect(not is_number(given, other), f"{call}: that is the other choice of recompute")
            same_number(given, after, call)
    return "shared keys and values save little in training; the cache is what they are for"


@exercise
def check_training_days(answer: Callable) -> str:
    """``answer(tokens, gpus, flop_per_token, flops_per_second, recompute) -> days``.

    ``flop_per_token`` is forward and backward without repetition; ``flops_per_second`` is what one
    GPU executes, repeated work included; ``recompute`` is "none" or "full".
    """
    per_token = flops_per_token(ModelConfig.from_name("65b"), 2048)
    for tokens, gpus, cost, rate in ((1.4e12, 2048, per_token, 152e12), (3e9, 4, 6e9, 1e14)):
        for recompute, factor in (("none", 1.0), ("full", 4 / 3)):
            given = answer(tokens, gpus, cost, rate, recompute)
            call = f"days of {tokens:.1e} tokens on {gpus} GPUs, recompute '{recompute}'"
            plain = tokens * cost / (gpus * rate) / 86400
            right = plain * factor
            wrong = {
                "that is in seconds": right * 86400,
                "that is in hours": right * 24,
                "the GPUs share the work": right * gpus,
                "more arithmetic takes longer, not shorter": plain / factor,
                "only the forward is repeated, one part of three; you doubled all": plain * 2,
                "the forward is a third of the work, not a half; the backward costs two forwards":
                    plain * 1.5,
                "the forward once more, which is a third of the work, is missing": plain,
            }  # fmt: skip
            for hint, value in wrong.items():
                same = is_number(value, right)
                expect(same or not is_number(given, value), f"{call}: {hint}")
            same_number(given, right, call, tolerance=1e-6)
    return "the paper's 21 days would have been 28: what the hand-written backward is worth"
