"""Checks for the exercises of notebook 12 (what a token costs to generate)."""

from collections.abc import Callable

import torch

from minillama.analysis.inference_budget import BANDWIDTH
from minillama.parallel.memory import GPUS
from minillama.teach.checking import exercise, expect, is_number, same_number


def _nucleus(p: torch.Tensor, top_p: float, off: int = 0) -> torch.Tensor:
    """What the rule keeps; ``off`` moves the end, as typical mistakes do."""
    order = p.argsort(descending=True, stable=True)
    ordered = p[order]
    kept = int((ordered.cumsum(0) - ordered <= top_p).sum())
    mask = torch.zeros_like(p, dtype=torch.bool)
    mask[order[: max(1, kept + off)]] = True
    return mask


@exercise
def check_top_p(answer: Callable) -> str:
    """``answer(p, top_p) -> (vocab_size,) bool``: the tokens that Meta's rule keeps."""
    cases = [([0.125, 0.5, 0.25, 0.125], 0.7), ([0.25, 0.0625, 0.1875, 0.5], 0.8),
             ([0.5, 0.25, 0.25], 0.1), ([0.0625, 0.9375], 0.9), ([0.25, 0.75], 1.0)]  # fmt: skip
    for values, top_p in cases:
        p = torch.tensor(values, dtype=torch.float64)
        given = answer(p.clone(), top_p)
        expect(given is not None, "your function returned None; return a mask of True and False")
        expect(isinstance(given, torch.Tensor) and given.shape == p.shape,
               f"for {len(p)} probabilities return a tensor of {len(p)} booleans")  # fmt: skip
        given, right, call = given.bool(), _nucleus(p, top_p), f"top_p({values}, {top_p})"
        expect(bool(given.any()), f"{call} keeps nothing: the likeliest token always stays")
        short_by_one = _nucleus(p, top_p, off=-1)
        expect(
            bool(right.equal(short_by_one)) or not given.equal(short_by_one),
            f"{call}: the token that crosses the line belongs to the nucleus too",
        )
        first = torch.arange(len(p)) < right.sum()
        expect(
            bool(right.equal(first)) or not given.equal(first),
            f"{call}: the first in the vocabulary are not the likeliest: sort",
        )
        expect(given.equal(right), f"{call} is {given.tolist()} and should be {right.tolist()}")
    return "sorted, with the token that crosses the line, and never empty"


@exercise
def check_break_even_batch(answer: Callable) -> str:
    """``answer(peak, bandwidth, bytes_per_number) -> batch`` at which decoding meets the ridge."""
    for gpu, number in (("a100-80gb", 2), ("h100", 2), ("t4", 1), ("v100-32gb", 4)):
        peak, bandwidth = GPUS[gpu].peak, BANDWIDTH[gpu]
        given, right = answer(peak, bandwidth, number), peak / bandwidth * number / 2
        call = f"break_even_batch on {gpu}, {number} bytes a number"
        expect(
            not is_number(given, peak / bandwidth) or number == 2,
            f"{call}: that is the ridge; a weight takes {number} bytes and gives 2 FLOP",
        )
        expect(not is_number(given, 2 * right), f"{call}: a weight gives 2 FLOP, not 1")
        expect(not is_number(given, 1 / right), f"{call}: upside down")
        same_number(given, right, call, tolerance=1e-6)
    return "153 sequences on an A100, 295 on an H100: below that the arithmetic units wait"


@exercise
def check_crossover(answer: Callable) -> str:
    """``answer(small, small_tokens, large, large_tokens) -> served tokens`` from which small wins.

    ``small`` and ``large`` are numbers of parameters; 6 N D to train, 2 N a served token.
    """
    cases = [(7e9, 1e12, 10e9, 2e11), (1e9, 1e12, 13e9, 1e11), (3e6, 9e7, 1e7, 3e7)]
    for small, trained, large, large_trained in cases:
        given = answer(small, trained, large, large_trained)
        extra, saved = 6 * (small * trained - large * large_trained), 2 * (large - small)
        right = max(0.0, extra / saved)
        call = f"crossover({small:.0e}, {trained:.0e}, {large:.0e}, {large_trained:.0e})"
        expect(
            not is_number(given, max(0.0, extra / 6 / saved)) or right == 0,
            f"{call}: training costs 6 N a token, not N",
        )
        expect(
            not is_number(given, max(0.0, extra / (3 * saved))) or right == 0,
            f"{call}: training costs 6 N a token, serving 2 N",
        )
        expect(
            right > 0 or not (isinstance(given, float | int) and given < 0),
            f"{call} is negative: the smaller one was cheaper from the start, so say 0",
        )
        same_number(given, right, call)
    return "5 trillion tokens for 7B at 1T against 10B at 0.2T; from there on, every token saves"
