"""Checks of notebooks 12 (what a token costs to generate) and 17 (beyond the trained context)."""

import math

import torch
from torch import Tensor

from minillama.analysis.inference_budget import BANDWIDTH
from minillama.config import ModelConfig, RopeScaling
from minillama.model import rotary_angles, scaled_frequencies
from minillama.parallel.memory import GPUS
from minillama.teach.checking import diagnose


@diagnose(
    (torch.tensor([0.125, 0.5, 0.25, 0.125]), 0.7),
    (torch.tensor([0.25, 0.0625, 0.1875, 0.5]), 0.8),
    (torch.tensor([0.5, 0.25, 0.25]), 0.1),
    (torch.tensor([0.0625, 0.9375]), 0.9),
    (torch.tensor([0.25, 0.75]), 1.0),
    praise="sorted, with the token that crosses the line, and never empty",
)
def check_top_p(p: Tensor, top_p: float) -> tuple:
    """``answer(p, top_p) -> (vocab_size,) bool``: the tokens that Meta's rule keeps."""
    ordered, order = p.sort(descending=True, stable=True)
    size = int((ordered.cumsum(0) - ordered <= top_p).sum())
    ranks = order.argsort()
    return ranks < size, {
        "it keeps nothing: the likeliest token always stays": torch.zeros(len(p)),
        "the token that crosses the line belongs to the nucleus too": ranks < size - 1,
        "the first in the vocabulary are not the likeliest: sort": torch.arange(len(p)) < size,
    }


@diagnose(
    *((GPUS[gpu].peak, BANDWIDTH[gpu], size)
      for gpu, size in (("a100-80gb", 2), ("h100", 2), ("t4", 1), ("v100-32gb", 4))),
    praise="153 sequences on an A100, 295 on an H100: below that the arithmetic units wait",
    tolerance=1e-6,
)  # fmt: skip
def check_break_even_batch(peak: float, bandwidth: float, size: int) -> tuple:
    """``answer(peak, bandwidth, bytes_per_number) -> batch`` at which decoding meets the ridge."""
    batch = peak / bandwidth * size / 2
    return batch, {
        f"that is the ridge; a weight takes {size} bytes and gives 2 FLOP": peak / bandwidth,
        "a weight gives 2 FLOP, not 1": 2 * batch,
        "upside down": 1 / batch,
    }


@diagnose(
    (7e9, 1e12, 10e9, 2e11), (1e9, 1e12, 13e9, 1e11), (3e6, 9e7, 1e7, 3e7),
    praise="5 trillion tokens for 7B at 1T against 10B at 0.2T; from there on, every token saves",
)  # fmt: skip
def check_crossover(small: float, trained: float, large: float, large_trained: float) -> tuple:
    """``answer(small, small_tokens, large, large_tokens) -> served tokens`` from which small wins.

    ``small`` and ``large`` are numbers of parameters; 6 N D to train, 2 N a served token.
    """
    crossover = 6 * (small * trained - large * large_trained) / (2 * (large - small))
    return max(0.0, crossover), {
        "training costs 6 N a token, not N": crossover / 6,
        "training costs 6 N a token, serving 2 N": crossover / 3,
        "negative: the smaller one was cheaper from the start, so say 0": crossover,
    }


TURN = 2 * math.pi


@diagnose(
    (64, 1e4, 256), (128, 1e4, 2048), (128, 5e5, 8192), (8, 9, 5),
    praise="41 of LLaMA's 64 pairs, and 13 of the 32 in a head of nano-65b",
)  # fmt: skip
def check_full_turns(head_dim: int, theta: float, context: int) -> tuple:
    """``answer(head_dim, theta, context) -> pairs that make a full turn within the context``."""
    angles = [context * theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    right = sum(angle >= TURN for angle in angles)
    return right, {
        "a full turn is 2 pi radians, not 1": sum(angle >= 1 for angle in angles),
        "those are the pairs that do not come round": head_dim // 2 - right,
    }


PLAIN = rotary_angles(64, 2)[1]


def _scaled(kind: str, trained: int, length: int) -> Tensor:
    scaling = RopeScaling(kind, length / trained, trained)
    return scaled_frequencies(ModelConfig(dim=64, n_heads=1, rope_scaling=scaling))


@diagnose(
    *((PLAIN, new, trained, length)
      for trained, length in ((256, 2048), (256, 512), (64, 96))
      for new in (PLAIN, *(_scaled(kind, trained, length) for kind in ("linear", "ntk", "yarn")))),
    praise="at 2,048 tokens 19 pairs reach new angles as they are, 18 with ntk, else none",
)  # fmt: skip
def check_unseen_pairs(plain: Tensor, new: Tensor, trained: int, length: int) -> tuple:
    """``answer(frequencies, new, trained, length) -> bool per pair: does it reach new angles``."""
    short_of_a_turn = plain * trained < TURN
    beyond = new * length > 1.01 * plain * trained
    barely = new * length > plain * trained
    return short_of_a_turn & beyond, {
        "it counts pairs that came full circle in training: they know all angles": beyond,
        "allow 1% for rounding, or pairs count that end where they ended": short_of_a_turn & barely,
    }


@diagnose(
    (rotary_angles(128, 2, 5e5)[1].double(), 8.0, 1.0, 4.0, 8192),
    (rotary_angles(64, 2, 1e4)[1].double(), 4.0, 1.0, 4.0, 256),
    (rotary_angles(32, 2, 1e4)[1].double(), 2.0, 0.5, 8.0, 64),
    praise="the frequencies of Llama 3.1, which reads 131,072 tokens",
    tolerance=1e-9,
)
def check_llama3(plain: Tensor, factor: float, low: float, high: float, original: int) -> tuple:
    """``answer(frequencies, factor, low, high, original) -> frequencies`` as in Llama 3.1."""
    slow, turns = plain / factor, original * plain / TURN
    share = ((turns - low) / (high - low)).clamp(0, 1)
    by_radians = ((turns * TURN - low) / (high - low)).clamp(0, 1)
    return slow.lerp(plain, share), {
        "nothing was slowed down": plain,
        "every pair was slowed down, as by linear": slow,
        "fast pairs keep their speed, not slow ones": plain.lerp(slow, share),
        "count turns; a turn is 2 pi radians": slow.lerp(plain, by_radians),
    }
