"""The checks of notebook 07: they accept right answers and name the usual mistakes."""

from collections.abc import Callable, Iterable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from minillama import teach
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


def raises(*_: object) -> None:
    raise RuntimeError("oops")


def nothing(*_: object) -> None:
    return None


RIGHT = [
    (teach.check_merge_attention, merge),
    (teach.check_layer_norm_backward, layer_norm),
    (teach.check_grouped_query_numbers, grouped),
    (teach.check_training_days, days(4 / 3)),
    (teach.check_what_to_keep, lambda: KEEP),
    (teach.check_what_to_keep, lambda: [*(KEEP - {"x", "h", "q"}), "unit_x", "o", "q_flat"]),
    (teach.check_what_to_keep, lambda: KEEP - {"x"} | {"o"}),
]
WRONG = [
    (teach.check_merge_attention, lambda a, la, b, lb: ((a + b) / 2, la), "plain mean"),
    (teach.check_merge_attention, merge_by(torch.exp), "subtract the larger"),
    (teach.check_merge_attention, merge_by(lambda lse: lse), "take exp() of them"),
    (teach.check_merge_attention, sums_multiplied, "logarithms were added"),
    (teach.check_merge_attention, lambda a, la, b, lb: a, "a pair"),
    (teach.check_layer_norm_backward, only_x(without_deviation), "slope through the scale"),
    (teach.check_layer_norm_backward, only_x(as_rms_norm), "RMSNorm's"),
    (teach.check_layer_norm_backward, only_x(lambda u, s, w, g: s * g * w), "held them constant"),
    (
        teach.check_layer_norm_backward,
        only_x(lambda u, s, w, g: layer_norm(u, s, torch.ones_like(w), g)[0]),
        "multiplied by the weight",
    ),
    (
        teach.check_layer_norm_backward,
        only_x(lambda u, s, w, g: layer_norm(u, torch.ones_like(s), w, g)[0]),
        "lacks the scale",
    ),
    (
        teach.check_layer_norm_backward,
        lambda u, s, w, g: (layer_norm(u, s, w, g)[0], g * u, layer_norm(u, s, w, g)[2]),
        "one weight serves all positions",
    ),
    (
        teach.check_layer_norm_backward,
        lambda u, s, w, g: (*layer_norm(u, s, w, g)[:2], g),
        "one bias serves all positions",
    ),
    (teach.check_what_to_keep, lambda: KEEP - {"up"}, "a product with w3"),
    (teach.check_what_to_keep, lambda: KEEP - {"h"}, "a product with wo"),
    (teach.check_what_to_keep, lambda: KEEP - {"mixed"}, "attention once more"),
    (teach.check_what_to_keep, lambda: KEEP - {"x"}, "the whole block before"),
    (teach.check_what_to_keep, lambda: KEEP | {"a"}, "'a' need not be kept: it follows cheaply"),
    (teach.check_what_to_keep, lambda: KEEP | {"y"}, "'y' need not be kept: no gradient needs it"),
    (teach.check_what_to_keep, lambda: KEEP | {"w1"}, "['w1'] are not among the names"),
    (teach.check_what_to_keep, lambda: "x", "return a set of names"),
    (teach.check_grouped_query_numbers, all_heads, "you counted all"),
    (teach.check_grouped_query_numbers, all_shrunk, "only two of the d-sized results shrink"),
    (teach.check_grouped_query_numbers, only_keys, "and values too"),
    (teach.check_grouped_query_numbers, queries_too, "queries keep all their heads"),
    (teach.check_grouped_query_numbers, always_all, "the other choice of recompute"),
    (teach.check_training_days, days(1), "is missing"),
    (teach.check_training_days, days(2), "you doubled all"),
    (teach.check_training_days, days(1.5), "a third of the work, not a half"),
    (teach.check_training_days, days(3 / 4), "longer, not shorter"),
    (teach.check_training_days, seconds, "in seconds"),
    (teach.check_training_days, one_gpu, "share the work"),
]
CHECKS = sorted({check for check, _ in RIGHT}, key=lambda check: check.__name__)


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_are_accepted(
    check: Callable, answer: Callable, capsys: pytest.CaptureFixture
) -> None:
    check(answer)
    assert capsys.readouterr().out.startswith("correct: ")


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_are_explained(
    check: Callable, answer: Callable, hint: str, capsys: pytest.CaptureFixture
) -> None:
    check(answer)
    told = capsys.readouterr().out
    assert told.startswith("not yet: ")
    assert hint in told


@pytest.mark.parametrize("check", CHECKS)
def test_stubs_and_errors_do_not_stop_the_notebook(
    check: Callable, capsys: pytest.CaptureFixture
) -> None:
    check(nothing)
    assert capsys.readouterr().out.startswith("not yet: ")
    check(raises)
    assert capsys.readouterr().out == "not yet: raises stopped with RuntimeError: oops\n"


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


def test_every_check_of_the_notebook_is_tested_both_ways() -> None:
    import minillama.teach.check_efficient as module

    names = {name for name in vars(module) if name.startswith("check_")}
    assert names == {check.__name__ for check, _ in RIGHT} == {w[0].__name__ for w in WRONG}
    assert names <= set(teach.checks())
