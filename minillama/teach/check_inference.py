"""Checks for the exercises of notebook 12 (what a token costs to generate)."""

from collections.abc import Callable

import torch

from minillama.analysis.inference_budget import BANDWIDTH
from minillama.parallel.memory import GPUS
from minillama.teach.checking import diagnose, exercise, expect, number, returned


@exercise
def check_top_p(answer: Callable) -> str:
    """``answer(p, top_p) -> (vocab_size,) bool``: the tokens that Meta's rule keeps."""
    cases = [([0.125, 0.5, 0.25, 0.125], 0.7), ([0.25, 0.0625, 0.1875, 0.5], 0.8),
             ([0.5, 0.25, 0.25], 0.1), ([0.0625, 0.9375], 0.9), ([0.25, 0.75], 1.0)]  # fmt: skip
    for values, top_p in cases:
        p = torch.tensor(values, dtype=torch.float64)
        ranks = p.argsort(descending=True, stable=True).argsort()
        ordered = p.sort(descending=True).values
        size = int((ordered.cumsum(0) - ordered <= top_p).sum())
        right = ranks < size
        given = returned(answer(p.clone(), top_p), "a mask of True and False")
        fits = isinstance(given, torch.Tensor) and given.shape == p.shape
        expect(fits, f"for {len(p)} probabilities return a tensor of {len(p)} booleans")
        kept, call = given.bool().tolist(), f"top_p({values}, {top_p})"
        expect(any(kept), f"{call} keeps nothing: the likeliest token always stays")
        wrong = {
            "the token that crosses the line belongs to the nucleus too":
                (ranks < max(1, size - 1)).tolist(),
            "the first in the vocabulary are not the likeliest: sort":
                (torch.arange(len(p)) < size).tolist(),
        }  # fmt: skip
        diagnose(call, kept, right.tolist(), wrong)
    return "sorted, with the token that crosses the line, and never empty"


@exercise
def check_break_even_batch(answer: Callable) -> str:
    """``answer(peak, bandwidth, bytes_per_number) -> batch`` at which decoding meets the ridge."""
    for gpu, size in (("a100-80gb", 2), ("h100", 2), ("t4", 1), ("v100-32gb", 4)):
        ridge = GPUS[gpu].peak / BANDWIDTH[gpu]
        right = ridge * size / 2
        wrong = {
            f"that is the ridge; a weight takes {size} bytes and gives 2 FLOP": ridge,
            "a weight gives 2 FLOP, not 1": 2 * right,
            "upside down": 1 / right,
        }
        given = answer(GPUS[gpu].peak, BANDWIDTH[gpu], size)
        call = f"break_even_batch on {gpu}, {size} bytes a number"
        diagnose(call, given, right, wrong, tolerance=1e-6)
    return "153 sequences on an A100, 295 on an H100: below that the arithmetic units wait"


@exercise
def check_crossover(answer: Callable) -> str:
    """``answer(small, small_tokens, large, large_tokens) -> served tokens`` from which small wins.

    ``small`` and ``large`` are numbers of parameters; 6 N D to train, 2 N a served token.
    """
    cases = [(7e9, 1e12, 10e9, 2e11), (1e9, 1e12, 13e9, 1e11), (3e6, 9e7, 1e7, 3e7)]
    for small, trained, large, large_trained in cases:
        extra, saved = 6 * (small * trained - large * large_trained), 2 * (large - small)
        right = max(0.0, extra / saved)
        wrong = {
            "training costs 6 N a token, not N": right / 6,
            "training costs 6 N a token, serving 2 N": right / 3,
        }
        given = answer(small, trained, large, large_trained)
        call = f"crossover({small:.0e}, {trained:.0e}, {large:.0e}, {large_trained:.0e})"
        negative = right == 0 and (number(given) or 0) < 0
        expect(
            not negative,
            f"{call} is negative: the smaller one was cheaper from the start, so say 0",
        )
        diagnose(call, given, right, wrong)
    return "5 trillion tokens for 7B at 1T against 10B at 0.2T; from there on, every token saves"
