"""The checks of notebook 12: they accept right answers and name the usual mistakes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minillama import teach
from minillama.inference import Sampling


def top_p(p: Tensor, mass: float) -> Tensor:
    """One token at a time, likeliest first, until the mass is exceeded."""
    keep, total = torch.zeros(len(p), dtype=torch.bool), 0.0
    for token in sorted(range(len(p)), key=lambda i: -p[i]):
        if total <= mass:
            keep[token] = True
        total += float(p[token])
    return keep


def as_the_package(p: Tensor, mass: float) -> Tensor:
    _, ids = Sampling(temperature=1.0, top_p=mass).candidates(p.log())
    return torch.zeros(len(p), dtype=torch.bool).index_fill(0, ids, True)


def without_the_crossing_token(p: Tensor, mass: float) -> Tensor:
    ordered, order = p.sort(descending=True)
    return torch.zeros(len(p), dtype=torch.bool).index_fill(
        0, order[ordered.cumsum(0) <= mass], True
    )


def one_less(p: Tensor, mass: float) -> Tensor:
    keep = top_p(p, mass)
    if keep.sum() > 1:
        last = min((i for i in range(len(p)) if keep[i]), key=lambda i: (p[i], -i))
        keep[last] = False
    return keep


def unsorted(p: Tensor, mass: float) -> Tensor:
    return torch.arange(len(p)) < top_p(p, mass).sum()


def batch(peak: float, bandwidth: float, number: int) -> float:
    return peak / bandwidth * number / 2


def served(small: float, d_small: float, large: float, d_large: float) -> float:
    return max(0.0, 3 * (small * d_small - large * d_large) / (large - small))


RIGHT = [
    (teach.check_top_p, top_p),
    (teach.check_top_p, as_the_package),
    (teach.check_break_even_batch, batch),
    (teach.check_crossover, served),
]
WRONG = [
    (teach.check_top_p, lambda p, mass: None, "returned None"),
    (teach.check_top_p, lambda p, mass: [True], "booleans"),
    (teach.check_top_p, lambda p, mass: torch.zeros(len(p)), "keeps nothing"),
    (teach.check_top_p, without_the_crossing_token, "crosses the line"),
    (teach.check_top_p, one_less, "crosses the line"),
    (teach.check_top_p, unsorted, "sort"),
    (teach.check_top_p, lambda p, mass: torch.ones(len(p)), "should be"),
    (teach.check_break_even_batch, lambda *_: None, "None"),
    (teach.check_break_even_batch, lambda peak, width, number: peak / width, "that is the ridge"),
    (teach.check_break_even_batch, lambda *a: 2 * batch(*a), "2 FLOP, not 1"),
    (teach.check_break_even_batch, lambda *a: 1 / batch(*a), "upside down"),
    (teach.check_crossover, lambda *_: None, "None"),
    (teach.check_crossover, lambda *a: served(*a) / 6, "6 N a token, not N"),
    (teach.check_crossover, lambda *a: served(*a) / 3, "serving 2 N"),
    (teach.check_crossover, lambda n, d, m, e: 3 * (n * d - m * e) / (m - n), "say 0"),
    (teach.check_crossover, lambda *_: 1 / 0, "ZeroDivisionError"),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_are_accepted(check: Callable, answer: Callable, capsys) -> None:
    check(answer)
    assert capsys.readouterr().out.startswith("correct: ")


@pytest.mark.parametrize("check, answer, hint", WRONG)
def test_mistakes_are_named(check: Callable, answer: Callable, hint: str, capsys) -> None:
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("not yet: ") and hint in said
