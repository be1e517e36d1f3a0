"""Checks of notebooks 12 (what a token costs to generate) and 17 (beyond the trained context)."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch

from minillama.analysis.inference_budget import BANDWIDTH
from minillama.config import ModelConfig, RopeScaling
from minillama.model import rotary_angles, scaled_frequencies
from minillama.parallel.memory import GPUS
from minillama.teach.checking import diagnose, exercise


@exercise
def check_top_p(answer: Callable) -> str:
    """``answer(p, top_p) -> (vocab_size,) bool``: the tokens that Meta's rule keeps."""
    for p, top_p in (
        (torch.tensor([0.125, 0.5, 0.25, 0.125]), 0.7),
        (torch.tensor([0.25, 0.0625, 0.1875, 0.5]), 0.8), (torch.tensor([0.5, 0.25, 0.25]), 0.1),
        (torch.tensor([0.0625, 0.9375]), 0.9), (torch.tensor([0.25, 0.75]), 1.0),
    ):  # fmt: skip
        ordered, order = p.sort(descending=True, stable=True)
        likelier = ordered.cumsum(0) - ordered  # what stands before each
        size = int((likelier <= top_p).sum())
        ranks = order.argsort()
        wrong = {
            "it keeps nothing: the likeliest token always stays": torch.zeros(len(p)),
            "the token that crosses the line belongs to the nucleus too": ranks < size - 1,
            "the first in the vocabulary are not the likeliest: sort": torch.arange(len(p)) < size,
        }
        diagnose(answer, (p, top_p), ranks < size, wrong)
    return "sorted, with the token that crosses the line, and never empty"


@exercise
def check_break_even_batch(answer: Callable) -> str:
    """``answer(peak, bandwidth, bytes_per_number) -> batch`` at which decoding meets the ridge."""
    for gpu, size in (("a100-80gb", 2), ("h100", 2), ("t4", 1), ("v100-32gb", 4)):
        peak, bandwidth = GPUS[gpu].peak, BANDWIDTH[gpu]
        ridge = peak / bandwidth  # FLOP for each byte
        batch = ridge * size / 2
        wrong = {
            f"that is the ridge; a weight takes {size} bytes and gives 2 FLOP": ridge,
            "a weight gives 2 FLOP, not 1": 2 * batch,
            "upside down": 1 / batch,
        }
        diagnose(answer, (peak, bandwidth, size), batch, wrong, tolerance=1e-6)
    return "153 sequences on an A100, 295 on an H100: below that the arithmetic units wait"


@exercise
def check_crossover(answer: Callable) -> str:
    """``answer(small, small_tokens, large, large_tokens) -> tokens`` from which small wins."""
    for small, trained, large, large_trained in (
        (7e9, 1e12, 10e9, 2e11), (1e9, 1e12, 13e9, 1e11), (3e6, 9e7, 1e7, 3e7),
    ):  # fmt: skip
        crossover = 6 * (small * trained - large * large_trained) / (2 * (large - small))
        wrong = {
            "training costs 6 N a token, not N": crossover / 6,
            "training costs 6 N a token, serving 2 N": crossover / 3,
            "negative: the smaller one was cheaper from the start, so say 0": crossover,
        }
        diagnose(answer, (small, trained, large, large_trained), max(0.0, crossover), wrong)
    return "5 trillion tokens for 7B at 1T against 10B at 0.2T; from there on, every token saves"


TURN = 2 * math.pi


@exercise
def check_full_turns(answer: Callable) -> str:
    """``answer(head_dim, theta, context) -> pairs that make a full turn within the context``."""
    for head_dim, theta, context in ((64, 1e4, 256), (128, 1e4, 2048), (128, 5e5, 8192), (8, 9, 5)):
        pairs = np.arange(head_dim // 2)
        angles = context * theta ** (-2 * pairs / head_dim)
        right = int(np.sum(angles >= TURN))
        radians = int(np.sum(angles >= 1))
        wrong = {
            "a full turn is 2 pi radians, not 1": radians,
            "those are the pairs that do not come round": len(pairs) - right,
        }
        diagnose(answer, (head_dim, theta, context), right, wrong)
    return "41 of LLaMA's 64 pairs, and 13 of the 32 in a head of nano-65b"


@exercise
def check_unseen_pairs(answer: Callable) -> str:
    """``answer(frequencies, new, trained, length) -> bool per pair: does it reach new angles``."""
    plain = rotary_angles(64, 2)[1]
    kinds = (None, "linear", "ntk", "yarn")
    sizes = ((256, 2048), (256, 512), (64, 96))
    for (trained, length), kind in product(sizes, kinds):
        scaling = RopeScaling(kind, length / trained, trained) if kind else None
        new = scaled_frequencies(ModelConfig(dim=64, n_heads=1, rope_scaling=scaling))
        no_full_turn = plain * trained < TURN
        beyond = new * length > 1.01 * plain * trained
        barely = new * length > plain * trained
        wrong = {
            "it counts pairs that came full circle in training: they know all angles": beyond,
            "allow 1% for rounding, or pairs count that end where they ended":
                no_full_turn & barely,
        }  # fmt: skip
        diagnose(answer, (plain, new, trained, length), no_full_turn & beyond, wrong)
    return "at 2,048 tokens 19 pairs reach new angles as they are, 18 with ntk, else none"


@exercise
def check_llama3(answer: Callable) -> str:
    """``answer(frequencies, factor, low, high, original) -> frequencies`` as in Llama 3.1."""
    for head_dim, theta, (factor, low, high, original) in (
        (128, 5e5, (8.0, 1.0, 4.0, 8192)),
        (64, 1e4, (4.0, 1.0, 4.0, 256)),
        (32, 1e4, (2.0, 0.5, 8.0, 64)),
    ):
        plain = rotary_angles(head_dim, 2, theta)[1].double()
        slow, turns = plain / factor, original * plain / TURN
        share = ((turns - low) / (high - low)).clamp(0, 1)
        by_radians = ((turns * TURN - low) / (high - low)).clamp(0, 1)
        wrong = {
            "nothing was slowed down": plain,
            "every pair was slowed down, as by linear": slow,
            "fast pairs keep their speed, not slow ones": plain.lerp(slow, share),
            "count turns; a turn is 2 pi radians": slow.lerp(plain, by_radians),
        }
        right = slow.lerp(plain, share)
        diagnose(answer, (plain, factor, low, high, original), right, wrong, tolerance=1e-9)
    return "the frequencies of Llama 3.1, which reads 131,072 tokens"
