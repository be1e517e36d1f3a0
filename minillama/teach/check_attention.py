"""Checks for the exercises of notebook 05 (attention, the block and the four sizes)."""

from collections.abc import Callable

import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.efficient.memory_mode import MemoryMode
from minillama.teach.checking import close, exercise, expect, same_number, same_tensor, seeded


def _full_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    scores = q @ k.T / q.shape[-1] ** 0.5  # (T, T)
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
    return scores.softmax(-1) @ v


@exercise
def check_streaming_attention(answer: Callable) -> str:
    """``answer(q, k, v) -> causal attention`` of one head, without a T x T tensor."""
    for seq, head_dim in ((5, 4), (64, 8)):
        q, k, v = (seeded(seq, head_dim, seed=seed) for seed in (1, 2, 3))
        with MemoryMode() as watch:
            given = answer(q, k, v)
        expect(
            not close(given, _full_attention(q, k, v, causal=False)),
            "a position looks at later ones: stop the keys at the query's own position",
        )
        expect(
            not close(given, _full_attention(q * head_dim**0.5, k, v)),
            "the scores are not divided by the square root of the head dimension",
        )
        same_tensor(given, _full_attention(q, k, v), f"attention over {seq} positions")
        expect(
            seq < 64 or watch.largest < seq * seq,
            f"the values are right, but an operation made {watch.largest:,} numbers at once for "
            f"{seq} positions: that is T x T",
        )
    big = _full_attention(q * 400, k * 400, v)
    hint = "large scores overflow: subtract the largest score before taking the exponential"
    given = answer(q * 400, k * 400, v)
    expect(bool(given.isfinite().all()), hint)
    same_tensor(given, big, "attention with large scores")
    return "the same attention, and no tensor as large as T x T"


@exercise
def check_cache_bytes(answer: Callable) -> str:
    """``answer(config, batch, seq, bytes_per_number) -> bytes of the key-value cache``."""
    for name, batch, seq, size in (("7b", 1, 1, 2), ("65b", 1, 2048, 2), ("nano-33b", 8, 100, 4)):
        config = ModelConfig.from_name(name)
        given = answer(config, batch, seq, size)
        right = 2 * config.n_layers * batch * seq * config.dim * size
        call = f"cache_bytes({name}, {batch}, {seq}, {size})"
        expect(given != right // 2, f"{call}: keys are stored, and values too")
        expect(given != right // config.n_layers, f"{call}: every layer has its own cache")
        expect(given != right * config.n_heads, f"{call}: dim already counts all heads")
        expect(
            given != right // config.n_heads,
            f"{call}: that is one head; there are {config.n_heads}",
        )
        same_number(given, right, call)
    return "0.5 MB a token for 7B, 5.4 GB for one full context of 65B"


def _swap_ahead(x: Tensor) -> Tensor:
    return torch.cat((x[:, :2], x[:, 3:4], x[:, 3:]), dim=1)  # position 2 reads position 3


def _attend(x: Tensor, causal: bool = True) -> Tensor:
    return torch.stack([_full_attention(row, row, row, causal) for row in x])


@exercise
def check_sees_the_future(answer: Callable) -> str:
    """``answer(layer, x) -> bool``: does any position's output depend on a later input?"""
    honest: dict[str, Callable] = {
        "a layer that treats each position alone": lambda x: x.tanh() * 3,
        "causal attention": _attend,
        "a running mean": lambda x: x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None],
    }
    leaky: dict[str, Callable] = {
        "attention without a mask": lambda x: _attend(x, causal=False),
        "a norm over the sequence": lambda x: x / x.pow(2).mean(1, keepdim=True).sqrt(),
        "a layer in which only position 2 reads position 3": _swap_ahead,
        "a layer in which each position reads the next one": lambda x: x + x.roll(-1, 1),
        "a leak of one part in a million": lambda x: x + 1e-6 * x.mean(1, keepdim=True),
    }
    x = seeded(1, 6, 4)
    for name, layer in honest.items():
        given = answer(layer, x.clone())
        expect(given is not None, "your function returned None; return True or False")
        expect(not bool(given), f"you accuse {name}, which is honest")
    for name, layer in leaky.items():
        expect(bool(answer(layer, x.clone())), f"you miss {name}")
    return "three honest layers acquitted, five leaks found"
