"""Checks for the exercises of notebook 07 (efficient implementation)."""

from collections.abc import Callable, Iterable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.config import ModelConfig
from minillama.parallel.memory import flops_per_token
from minillama.teach.checking import compare, diagnose, exercise, expect, returned, seeded, several


def _attend(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    return scores.softmax(-1) @ values, scores.logsumexp(-1)


@exercise
def check_merge_attention(answer: Callable) -> str:
    """``answer(out_a, lse_a, out_b, lse_b) -> (out, lse)`` of attention over both sets of keys."""
    for n_a, n_b, size in ((3, 3, 1.0), (1, 6, 1.0), (5, 2, 1000.0), (2, 4, -1000.0)):
        scores, values = seeded(4, n_a + n_b, seed=1) + size, seeded(n_a + n_b, 5)
        right, right_lse = _attend(scores, values)
        out_a, lse_a = _attend(scores[:, :n_a], values[:n_a])
        out_b, lse_b = _attend(scores[:, n_a:], values[n_a:])
        given = answer(out_a.clone(), lse_a.clone(), out_b.clone(), lse_b.clone())
        out, lse = several(given, 2, "the output and its lse")
        finite = out.isfinite().all() and lse.isfinite().all()
        overflow = "large logsumexps overflow or vanish: subtract the larger one before exp()"
        expect(finite, overflow)
        by_logarithms = out_a * lse_a[:, None] + out_b * lse_b[:, None]
        wrong = {
            "the plain mean of the two outputs; a part counts by its sum of exp(score)":
                (out_a + out_b) / 2,
            "the number of keys does not matter, the sum of exp(score) does":
                (n_a * out_a + n_b * out_b) / (n_a + n_b),
            "you weighted by the logarithms; take exp() of them":
                by_logarithms / (lse_a + lse_b)[:, None],
        }  # fmt: skip
        call = f"{n_a} and {n_b} keys"
        compare(f"the output of {call}", out, right, wrong)
        wrong = {"logarithms were added, which multiplies the sums": lse_a + lse_b}
        compare(f"the logsumexp of {call}", lse, right_lse, wrong)
    return "keys may be split over blocks, kernels or machines: parts merge exactly"


def _without_mean(t: Tensor) -> Tensor:
    return t - t.mean(-1, keepdim=True)


def _without(t: Tensor, direction: Tensor) -> Tensor:
    return t - direction * (t * direction).mean(-1, keepdim=True)


@exercise
def check_layer_norm_backward(answer: Callable) -> str:
    """``answer(unit, scale, weight, grad) -> gradients of (x, weight, bias)`` of LayerNorm."""
    for shape in ((6,), (3, 8), (2, 4, 5)):
        x, grad = seeded(*shape, seed=1) + 0.5, seeded(*shape, seed=3)
        weight = seeded(shape[-1], seed=2)
        leaves = [t.requires_grad_() for t in (x, weight, torch.zeros_like(weight))]
        output = F.layer_norm(x, shape[-1:], *leaves[1:], eps=1e-6)
        of_x, of_weight, of_bias = torch.autograd.grad(output, leaves, grad)
        x, weight = x.detach(), weight.detach()

        # What the answer is handed, and by hand the gradients of typical mistakes.
        centered = _without_mean(x)
        scale = (centered.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        unit, g = centered * scale, grad * weight
        wrong = {
            "the slope through the scale is missing: g is not all; x also moves the deviation":
                scale * _without_mean(g),
            "that is RMSNorm's: x moves the mean too, so the mean of g is to be taken away":
                scale * _without(g, unit),
            "mean and deviation both depend on x; you held them constant": scale * g,
            "the gradient of the output is multiplied by the weight on its way to unit":
                scale * _without(_without_mean(grad), unit),
            "it lacks the scale": of_x / scale,
        }  # fmt: skip
        given = answer(unit.clone(), scale.clone(), weight.clone(), grad.clone())
        for_x, for_weight, for_bias = several(given, 3, "three gradients")
        where = f"for x of shape {shape}"
        compare(f"the gradient of x {where}", for_x, of_x, wrong)
        wrong = {"one weight serves all positions: sum its gradient over them": grad * unit}
        compare(f"the gradient of the weight {where}", for_weight, of_weight, wrong)
        wrong = {"one bias serves all positions: sum its gradient over them": grad}
        compare(f"the gradient of the bias {where}", for_bias, of_bias, wrong)
    return "two directions carry no gradient: along the input, and along (1, 1, ..., 1)"


CHEAP: tuple[tuple[str, set[str]], ...] = (
    ("unit_x", {"x"}), ("x", {"unit_x"}), ("x", {"h", "o"}), ("a", {"x"}),
    ("q", {"q_flat"}), ("q_flat", {"q"}), ("k", {"k_flat"}), ("k_flat", {"k"}),
    ("h", {"x", "o"}), ("h", {"unit_h"}), ("o", {"x", "h"}), ("unit_h", {"h"}),
    ("b", {"h"}), ("silu", {"gate"}), ("product", {"gate", "up"}),
)  # fmt: skip
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
    """Return the results that follow from those kept without a product of matrices."""
    known, before = set(kept), -1
    while len(known) > before:
        before = len(known)
        known |= {name for name, sources in CHEAP if sources <= known}
    return known


@exercise
def check_what_to_keep(answer: Callable) -> str:
    """``answer() -> names`` of results to keep, as few numbers as no repeated product allows."""
    given = returned(answer(), "a set of names")
    listed = isinstance(given, set | frozenset | list | tuple)
    expect(listed and all(isinstance(name, str) for name in given), "return a set of names")
    unknown = sorted(set(given) - ALL_RESULTS)
    expect(not unknown, f"{unknown} are not among the names of the table")

    known = within_reach(given)
    for lost in NEEDED:
        cause = {"unit_x": "x", "a": "x", "unit_h": "h", "b": "h", "silu": "gate"}.get(lost, lost)
        dear = f"with what you keep it takes {DEAR.get(cause)}"
        expect(lost in known, f"the backward needs '{lost}'; {dear}")
    for name in sorted(given):
        rest = within_reach(set(given) - {name})
        why = "it follows cheaply from the others" if name in rest else "no gradient needs it"
        expect(not rest.issuperset(NEEDED), f"'{name}' need not be kept: {why}")
    return "6d + 2f numbers a token instead of 10d + 4f, and no matrix multiplied twice"


@exercise
def check_grouped_query_numbers(answer: Callable) -> str:
    """``answer(dim, hidden_dim, n_heads, n_kv_heads, recompute) -> numbers`` kept a token."""
    sizes = ((64, 192, 4, 4), (8192, 28672, 64, 8), (4096, 14336, 32, 8))
    for (d, f, heads, groups), recompute in product(sizes, ("none", "selective")):
        small = d * groups // heads
        saved = d - small  # by the keys, and as much by the values
        full = 10 * d + 4 * f
        other = 6 * d + 2 * f
        if recompute == "selective":
            full, other = other, full
        wrong = {
            "keys and values have fewer heads than the queries; you counted all": full,
            "only two of the d-sized results shrink: keys and values": full * groups / heads,
            "keys shrink, and values too": full - saved,
            "queries keep all their heads": full - 3 * saved,
            "that is the other choice of recompute": other - 2 * saved,
        }
        diagnose(answer, (d, f, heads, groups, recompute), full - 2 * saved, wrong)
    return "shared keys and values save little in training; the cache is what they are for"


PER_TOKEN = flops_per_token(ModelConfig.from_name("65b"), 2048)


@exercise
def check_training_days(answer: Callable) -> str:
    """``answer(tokens, gpus, flop_per_token, flops_per_second, recompute) -> days``."""
    for tokens, gpus, cost, rate, again in (
        (1.4e12, 2048, PER_TOKEN, 152e12, "none"), (1.4e12, 2048, PER_TOKEN, 152e12, "full"),
        (3e9, 4, 6e9, 1e14, "none"), (3e9, 4, 6e9, 1e14, "full"),
    ):  # fmt: skip
        plain = tokens * cost / (gpus * rate) / 86400
        right = plain * 4 / 3 if again == "full" else plain
        wrong = {
            "that is in seconds": right * 86400,
            "the GPUs share the work": right * gpus,
            "more arithmetic takes longer, not shorter": plain * 3 / 4,
            "only the forward is repeated, one part of three; you doubled all": plain * 2,
            "the forward is a third of the work, not a half": plain * 1.5,
            "the forward once more, which is a third of the work, is missing": plain,
        }
        diagnose(answer, (tokens, gpus, cost, rate, again), right, wrong, tolerance=1e-6)
    return "the paper's 21 days would have been 28: what the hand-written backward is worth"
