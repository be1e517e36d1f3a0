"""The checks of notebooks 12 and 17: right answers pass, typical mistakes are named."""

import math
from collections.abc import Callable

import torch
from exercises import *  # noqa: F403
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from minillama.inference import Sampling
from minillama.model import rotary_angles


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
    ("check_top_p", top_p),
    ("check_top_p", as_the_package),
    ("check_break_even_batch", batch),
    ("check_crossover", served),
]
MISTAKES = [
    ("check_top_p", lambda p, mass: None, "is None"),
    ("check_top_p", lambda p, mass: [True], "has shape (1,)"),
    ("check_top_p", lambda p, mass: torch.zeros(len(p)), "keeps nothing"),
    ("check_top_p", without_the_crossing_token, "crosses the line"),
    ("check_top_p", one_less, "crosses the line"),
    ("check_top_p", unsorted, "sort"),
    ("check_top_p", lambda p, mass: torch.ones(len(p)), "not the values"),
    ("check_break_even_batch", lambda *_: None, "None"),
    ("check_break_even_batch", lambda peak, width, number: peak / width, "that is the ridge"),
    ("check_break_even_batch", lambda *a: 2 * batch(*a), "2 FLOP, not 1"),
    ("check_break_even_batch", lambda *a: 1 / batch(*a), "upside down"),
    ("check_crossover", lambda *_: None, "None"),
    ("check_crossover", lambda *a: served(*a) / 6, "6 N a token, not N"),
    ("check_crossover", lambda *a: served(*a) / 3, "serving 2 N"),
    ("check_crossover", lambda n, d, m, e: 3 * (n * d - m * e) / (m - n), "say 0"),
    ("check_crossover", lambda *_: 1 / 0, "ZeroDivisionError"),
]


def full_turns(limit: float = 2 * math.pi, slow: bool = False) -> Callable:
    def answer(head_dim: int, theta: float, context: int) -> int:
        angles = [context * theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        return sum((angle >= limit) != slow for angle in angles)

    return answer


def unseen_pairs(kind: str = "right") -> Callable:
    def answer(plain: Tensor, new: Tensor, trained: int, length: int) -> Tensor | list | int:
        room = 1.0 if kind == "exact" else 1.01
        found = [
            new[i] * length > room * plain[i] * trained
            and (kind == "all" or plain[i] * trained < 2 * math.pi)
            for i in range(len(plain))
        ]
        if kind == "count":
            return sum(found)
        return torch.tensor(found[:-1] if kind == "short" else found)

    return answer


def llama3(kind: str = "right") -> Callable:
    def answer(plain: Tensor, factor: float, low: float, high: float, original: int) -> Tensor:
        out = []
        for f in plain.tolist():
            turns = original * f / (1.0 if kind == "radians" else 2 * math.pi)
            share = min(1.0, max(0.0, (turns - low) / (high - low)))
            share = {"swapped": 1 - share, "nothing": 1.0, "linear": 0.0}.get(kind, share)
            out.append(f * share + f / factor * (1 - share))
        return torch.tensor(out, dtype=torch.float64)

    return answer


def test_llama3_is_hugging_faces():
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(hidden_size=128, num_attention_heads=1, rope_parameters=rope)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    ours = llama3()(rotary_angles(128, 2, 5e5)[1], 8.0, 1.0, 4.0, 8192)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=0)


def test_the_counts_that_are_praised():
    plain = rotary_angles(64, 2)[1]
    stretched = rotary_angles(64, 2, 1e4 * 8 ** (64 / 62))[1]
    counts = [int(unseen_pairs()(plain, new, 256, 2048).sum())
              for new in (plain, stretched, plain / 8)]  # fmt: skip
    assert counts == [19, 18, 0]
    assert full_turns()(128, 1e4, 2048) == 41
    assert full_turns()(64, 1e4, 256) == 13


RIGHT += [
    ("check_full_turns", full_turns()),
    ("check_unseen_pairs", unseen_pairs()),
    ("check_llama3", llama3()),
]

MISTAKES += [
    ("check_full_turns", full_turns(1.0), "2 pi radians, not 1"),
    ("check_full_turns", full_turns(slow=True), "do not come round"),
    ("check_full_turns", lambda *_: None, "is None"),
    ("check_full_turns", lambda *_: 3, "is 3 and should be 13"),
    ("check_unseen_pairs", unseen_pairs("all"), "full circle in training"),
    ("check_unseen_pairs", unseen_pairs("exact"), "allow 1% for rounding"),
    ("check_unseen_pairs", unseen_pairs("count"), "has shape ()"),
    ("check_unseen_pairs", unseen_pairs("short"), "(32,)"),
    ("check_unseen_pairs", lambda f, *_: f < 0, "not the values"),
    ("check_unseen_pairs", lambda *_: None, "replace `return None`"),
    ("check_llama3", llama3("radians"), "a turn is 2 pi radians"),
    ("check_llama3", llama3("swapped"), "fast pairs keep their speed"),
    ("check_llama3", llama3("nothing"), "nothing was slowed"),
    ("check_llama3", llama3("linear"), "as by linear"),
    ("check_llama3", lambda f, *_: f * 3, "not the values"),
    ("check_llama3", lambda *_: None, "is None"),
]
