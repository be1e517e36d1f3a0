"""Checks for the exercises of notebook 05 (attention, the block and the four sizes)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minillama.config import ModelConfig
from minillama.teach.checking import diagnose, exercise, expect, returned, seeded


class _LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        sizes = [part.numel() for part in results if isinstance(part, Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return result


def _attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (..., seq, seq)
    if causal:
        future = torch.ones_like(scores).triu(1).bool()
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(-1) @ v


@exercise
def check_streaming_attention(answer: Callable) -> str:
    """``answer(q, k, v) -> causal attention`` of one head, without a T x T tensor."""
    for seq, head_dim in ((5, 4), (64, 8)):
        q, k, v = (seeded(seq, head_dim, seed=seed) for seed in (1, 2, 3))
        with _LargestTensor() as watch:
            given = answer(q, k, v)
        wrong = {
            "a position looks at later ones: stop the keys at the query's own position":
                _attention(q, k, v, causal=False),
            "the scores are not divided by the square root of the head dimension":
                _attention(q * head_dim**0.5, k, v),
        }  # fmt: skip
        diagnose(f"attention over {seq} positions", given, _attention(q, k, v), wrong)
        expect(
            seq < 64 or watch.numel < seq * seq,
            f"the values are right, but an operation made {watch.numel:,} numbers at once for "
            f"{seq} positions: that is T x T",
        )
    given = answer(q * 400, k * 400, v)
    hint = "large scores overflow: subtract the largest score before taking the exponential"
    expect(given.isfinite().all(), hint)
    diagnose("attention with large scores", given, _attention(q * 400, k * 400, v))
    return "the same attention, and no tensor as large as T x T"


@exercise
def check_cache_bytes(answer: Callable) -> str:
    """``answer(config, batch, seq, bytes_per_number) -> bytes of the key-value cache``."""
    for name, batch, seq, size in (("7b", 1, 1, 2), ("65b", 1, 2048, 2), ("nano-33b", 8, 100, 4)):
        config = ModelConfig.from_name(name)
        right = 2 * config.n_layers * batch * seq * config.dim * size
        wrong = {
            "keys are stored, and values too": right // 2,
            "every layer has its own cache": right // config.n_layers,
            "dim already counts all heads": right * config.n_heads,
            f"that is one head; there are {config.n_heads}": right // config.n_heads,
        }
        given = answer(config, batch, seq, size)
        diagnose(f"cache_bytes({name}, {batch}, {seq}, {size})", given, right, wrong)
    return "0.5 MB a token for 7B, 5.4 GB for one full context of 65B"


def _swap_ahead(x: Tensor) -> Tensor:
    return torch.cat((x[:, :2], x[:, 3:4], x[:, 3:]), dim=1)  # position 2 reads position 3


HONEST: dict[str, Callable] = {
    "a layer that treats each position alone": lambda x: x.tanh() * 3,
    "causal attention": lambda x: _attention(x, x, x),
    "a running mean": lambda x: x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None],
}
LEAKY: dict[str, Callable] = {
    "attention without a mask": lambda x: _attention(x, x, x, causal=False),
    "a norm over the sequence": lambda x: x / x.pow(2).mean(1, keepdim=True).sqrt(),
    "a layer in which only position 2 reads position 3": _swap_ahead,
    "a layer in which each position reads the next one": lambda x: x + x.roll(-1, 1),
    "a leak of one part in a million": lambda x: x + 1e-6 * x.mean(1, keepdim=True),
}


@exercise
def check_sees_the_future(answer: Callable) -> str:
    """``answer(layer, x) -> bool``: does any position's output depend on a later input?"""
    x = seeded(1, 6, 4)
    for name, layer in HONEST.items():
        given = returned(answer(layer, x.clone()), "True or False")
        expect(not given, f"you accuse {name}, which is honest")
    for name, layer in LEAKY.items():
        expect(answer(layer, x.clone()), f"you miss {name}")
    return "three honest layers acquitted, five leaks found"
