"""The checks of notebook 07: right answers pass, typical mistakes are named."""

from collections.abc import Callable, Iterable
from itertools import combinations

import torch
from exercises import *  # noqa: F403
from torch import Tensor

from minillama.teach.check_efficient import ALL_RESULTS, NEEDED, within_reach

Pair = tuple[Tensor, Tensor]
KEEP = {"x", "q", "k", "v", "mixed", "h", "gate", "up"}


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Pair:
    lse = torch.logaddexp(lse_a, lse_b)
    return (lse_a - lse).exp()[:, None] * out_a + (lse_b - lse).exp()[:, None] * out_b, lse


def merge_by(weigh: Callable[[Tensor], Tensor]) -> Callable[..., Pair]:
    def answer(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Pair:
        a, b = weigh(lse_a)[:, None], weigh(lse_b)[:, None]
        return (a * out_a + b * out_b) / (a + b), torch.logaddexp(lse_a, lse_b)

    return answer


def sums_multiplied(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Pair:
    return merge(out_a, lse_a, out_b, lse_b)[0], lse_a + lse_b


def layer_norm(
    unit: Tensor, scale: Tensor, weight: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    g = grad * weight
    grad_x = scale * (g - g.mean(-1, keepdim=True) - unit * (g * unit).mean(-1, keepdim=True))
    width = grad.shape[-1]
    return grad_x, (grad * unit).reshape(-1, width).sum(0), grad.reshape(-1, width).sum(0)


def only_x(formula: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """A wrong gradient of x beside right ones of weight and bias."""

    def answer(
        unit: Tensor, scale: Tensor, weight: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, of_weight, of_bias = layer_norm(unit, scale, weight, grad)
        return formula(unit, scale, weight, grad), of_weight, of_bias

    return answer


def without_deviation(unit: Tensor, scale: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    g = grad * weight
    return scale * (g - g.mean(-1, keepdim=True))


def as_rms_norm(unit: Tensor, scale: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    g = grad * weight
    return scale * (g - unit * (g * unit).mean(-1, keepdim=True))


def grouped(d: int, f: int, heads: int, groups: int, recompute: str) -> int:
    small = 2 * d * groups // heads
    return 8 * d + small + 4 * f if recompute == "none" else 4 * d + small + 2 * f


def all_heads(d: int, f: int, heads: int, groups: int, recompute: str) -> int:
    return 10 * d + 4 * f if recompute == "none" else 6 * d + 2 * f


def all_shrunk(d: int, f: int, heads: int, groups: int, recompute: str) -> int:
    return all_heads(d, f, heads, groups, recompute) * groups // heads


def only_keys(d: int, f: int, heads: int, groups: int, recompute: str) -> int:
    return grouped(d, f, heads, groups, recompute) + d - d * groups // heads


def queries_too(d: int, f: int, heads: int, groups: int, recompute: str) -> int:
    return grouped(d, f, heads, groups, recompute) - d + d * groups // heads


def always_all(d: int, f: int, heads: int, groups: int, recompute: str) -> int:
    return grouped(d, f, heads, groups, "none")


def days(factor: float) -> Callable[..., float]:
    def answer(tokens: float, gpus: int, cost: float, rate: float, recompute: str) -> float:
        plain = tokens * cost / (gpus * rate) / 86400
        return plain * factor if recompute == "full" else plain

    return answer


def seconds(tokens: float, gpus: int, cost: float, rate: float, recompute: str) -> float:
    return days(4 / 3)(tokens, gpus, cost, rate, recompute) * 86400


def one_gpu(tokens: float, gpus: int, cost: float, rate: float, recompute: str) -> float:
    return days(4 / 3)(tokens, 1, cost, rate, recompute)


RIGHT = [
    ("check_merge_attention", merge),
    ("check_layer_norm_backward", layer_norm),
    ("check_grouped_query_numbers", grouped),
    ("check_training_days", days(4 / 3)),
    ("check_what_to_keep", lambda: KEEP),
    ("check_what_to_keep", lambda: [*(KEEP - {"x", "h", "q"}), "unit_x", "o", "q_flat"]),
    ("check_what_to_keep", lambda: KEEP - {"x"} | {"o"}),
]
MISTAKES = [
    ("check_merge_attention", lambda a, la, b, lb: ((a + b) / 2, la), "plain mean"),
    ("check_merge_attention", merge_by(torch.exp), "subtract the larger"),
    ("check_merge_attention", merge_by(lambda lse: lse), "take exp() of them"),
    ("check_merge_attention", sums_multiplied, "logarithms were added"),
    ("check_merge_attention", lambda a, la, b, lb: a, "a pair"),
    ("check_layer_norm_backward", only_x(without_deviation), "slope through the scale"),
    ("check_layer_norm_backward", only_x(as_rms_norm), "RMSNorm's"),
    ("check_layer_norm_backward", only_x(lambda u, s, w, g: s * g * w), "held them constant"),
    (
        "check_layer_norm_backward",
        only_x(lambda u, s, w, g: layer_norm(u, s, torch.ones_like(w), g)[0]),
        "multiplied by the weight",
    ),
    (
        "check_layer_norm_backward",
        only_x(lambda u, s, w, g: layer_norm(u, torch.ones_like(s), w, g)[0]),
        "lacks the scale",
    ),
    (
        "check_layer_norm_backward",
        lambda u, s, w, g: (layer_norm(u, s, w, g)[0], g * u, layer_norm(u, s, w, g)[2]),
        "one weight serves all positions",
    ),
    (
        "check_layer_norm_backward",
        lambda u, s, w, g: (*layer_norm(u, s, w, g)[:2], g),
        "one bias serves all positions",
    ),
    ("check_what_to_keep", lambda: KEEP - {"up"}, "a product with w3"),
    ("check_what_to_keep", lambda: KEEP - {"h"}, "a product with wo"),
    ("check_what_to_keep", lambda: KEEP - {"mixed"}, "attention once more"),
    ("check_what_to_keep", lambda: KEEP - {"x"}, "the whole block before"),
    ("check_what_to_keep", lambda: KEEP | {"a"}, "'a' need not be kept: it follows cheaply"),
    ("check_what_to_keep", lambda: KEEP | {"y"}, "'y' need not be kept: no gradient needs it"),
    ("check_what_to_keep", lambda: KEEP | {"w1"}, "['w1'] are not among the names"),
    ("check_what_to_keep", lambda: "x", "return a set of names"),
    ("check_grouped_query_numbers", all_heads, "you counted all"),
    ("check_grouped_query_numbers", all_shrunk, "only two of the d-sized results shrink"),
    ("check_grouped_query_numbers", only_keys, "and values too"),
    ("check_grouped_query_numbers", queries_too, "queries keep all their heads"),
    ("check_grouped_query_numbers", always_all, "the other choice of recompute"),
    ("check_training_days", days(1), "is missing"),
    ("check_training_days", days(2), "you doubled all"),
    ("check_training_days", days(1.5), "a third of the work, not a half"),
    ("check_training_days", days(3 / 4), "longer, not shorter"),
    ("check_training_days", seconds, "in seconds"),
    ("check_training_days", one_gpu, "share the work"),
]


def test_no_smaller_set_of_results_is_enough() -> None:
    def enough(kept: Iterable[str]) -> bool:
        return set(NEEDED) <= within_reach(kept)

    dear = {"v", "mixed", "gate", "up"}  # only to be had by keeping them
    assert not any(enough(ALL_RESULTS - {name}) for name in dear)
    others = sorted(ALL_RESULTS - dear)
    assert not any(enough({*dear, *few}) for few in combinations(others, 3))
    four = [few for few in combinations(others, 4) if enough({*dear, *few})]
    assert tuple(sorted(KEEP - dear)) in four
    for few in four:  # all of d numbers a token: 6d + 2f together
        assert not {"silu", "product"} & set(few)
