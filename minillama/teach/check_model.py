"""Checks of notebooks 03 (RMSNorm and SwiGLU), 04 (rotary embeddings) and 05 (attention)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from minillama.config import ModelConfig
from minillama.efficient.memory_mode import MemoryMode
from minillama.model import apply_rotary, rotary_angles, rotary_table
from minillama.teach.checking import (
    compare,
    diagnose,
    exercise,
    expect,
    returned,
    seeded,
    several,
)


def _rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@exercise
def check_rms_norm_backward(answer: Callable) -> str:
    """``answer(x, weight, eps, upstream) -> (gradient of x, gradient of weight)``."""
    for shape in ((4,), (3, 8), (2, 5, 6)):
        x, upstream, weight = seeded(*shape), seeded(*shape, seed=2), seeded(shape[-1], seed=3)
        leaves = [t.clone().requires_grad_() for t in (x, weight)]
        output = _rms_norm(leaves[0]) * leaves[1]
        of_x, of_weight = torch.autograd.grad(output, leaves, upstream)
        inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        constant = upstream * weight * inverse
        along = (constant * x).sum(-1, keepdim=True)
        wrong = {
            "you held the root mean square constant, but it depends on x too": constant,
            "its second term needs a mean where you sum": constant - x * inverse**2 * along,
        }
        given = answer(x.clone(), weight.clone(), 1e-6, upstream.clone())
        for_x, for_weight = several(given, 2, "the two gradients")
        compare(f"the gradient of x for x of shape {shape}", for_x, of_x, wrong)
        wrong = {"one weight serves all positions: sum its gradient": upstream * x * inverse}
        compare(f"the gradient of weight for x of shape {shape}", for_weight, of_weight, wrong)
    return "both gradients equal autograd's for vectors, matrices and batches"


@exercise
def check_layer_norm(answer: Callable) -> str:
    """``answer(x, rms_norm) -> LayerNorm(x)``; ``rms_norm`` is an ``RMSNorm`` with weight 1."""
    for x in (seeded(2, 3, 8) + 3, seeded(4, 16) + 3):
        unit = _rms_norm(x)
        mean = unit.mean(-1, keepdim=True)
        right = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        wrong = {
            "that is RMSNorm itself: center the vector first": unit,
            "one mean for the whole tensor: each position needs its own": _rms_norm(x - x.mean()),
            "you centered after normalizing; the order matters": unit - mean,
        }
        diagnose(answer, (x, _rms_norm), right, wrong)
    return "LayerNorm is RMSNorm of the centered vector; LLaMA leaves the centering out"


@exercise
def check_hidden_dim(answer: Callable) -> str:
    """``answer(dim, multiple_of) -> width of the SwiGLU layer``."""
    for dim, multiple_of in (
        (4096, 256), (5120, 256), (6656, 256), (8192, 256), (48, 16), (96, 1), (384, 32),
    ):  # fmt: skip
        wrong = {
            "the width of a ReLU layer: two matrices there, three here": 4 * dim,
            "return a whole number": 8 * dim / 3,
            f"that is not a multiple of {multiple_of}": 8 * dim // 3,
            "that was rounded down; round up": 8 * dim // 3 // multiple_of * multiple_of,
        }
        diagnose(
            answer,
            (dim, multiple_of),
            ModelConfig(dim=dim, n_heads=1, multiple_of=multiple_of).hidden_dim,
            wrong,
        )
    return "11008, 13824, 17920 and 22016 for the paper's sizes"


@exercise
def check_slowest_turn(answer: Callable) -> str:
    """``answer(head_dim, theta) -> positions in one full turn of the slowest pair``."""
    for head_dim, theta in ((2, 1e4), (8, 1e4), (128, 1e4), (128, 5e5)):
        radian = theta ** ((head_dim - 2) / head_dim)
        wrong = {
            "a full turn is 2 pi radians, not 1": radian,
            "the last pair is i = head_dim / 2 - 1: it stays short of 1": 2 * math.pi * theta,
            "that is the fastest pair (i = 0)": 2 * math.pi,
        }
        diagnose(answer, (head_dim, theta), 2 * math.pi * radian, wrong, tolerance=1e-6)
    return "54,410 positions at LLaMA's head dimension of 128: far beyond its context of 2,048"


def _half_split_scores(x: Tensor, angles: Tensor) -> Tensor:
    """Scores with feature i paired with i + head_dim / 2; ``x (seq, heads, head_dim)``."""
    first, second = x.chunk(2, dim=-1)
    cos = angles.cos()[:, None]
    sin = angles.sin()[:, None]
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    turned = torch.cat((turned_first, turned_second), dim=-1)
    return torch.einsum("mhd,nhd->hmn", turned, turned)


@exercise
def check_half_split(answer: Callable) -> str:
    """``answer(weight, n_heads) -> weight`` with rows reordered for half-split pairs."""
    for n_heads, head_dim, seq in ((1, 4, 3), (3, 8, 5), (2, 16, 7)):
        dim = n_heads * head_dim
        weight, x = seeded(dim, dim, seed=5), seeded(seq, dim, seed=6)
        given = answer(weight.clone(), n_heads)
        returned(given, "the reordered matrix")
        same_shape = getattr(given, "shape", None) == weight.shape
        expect(same_shape, f"the matrix must keep its shape {tuple(weight.shape)}")
        whole_rows = torch.equal(given.unique(dim=0), weight.unique(dim=0))
        expect(whole_rows, "every row must appear once, whole: reorder rows, not columns")
        halves = rearrange(weight, "(h i two) d -> (h two i) d", h=n_heads, two=2)
        wrong = {
            "the rows are still in their old order": weight,
            "that is from half-split to neighboring pairs: you need the other way":
                rearrange(weight, "(h two i) d -> (h i two) d", h=n_heads, two=2),
            "you moved rows from one head to another: split the matrix into heads first":
                rearrange(weight, "(i two) d -> (two i) d", two=2),
        }  # fmt: skip
        for hint, rows in wrong.items():
            expect(torch.equal(rows, halves) or not torch.equal(given, rows), hint)

        # Any order that gives the same scores will do.
        q = rearrange(x @ weight.T, "s (h e) -> 1 s h e", h=n_heads)
        q = apply_rotary(q, rotary_table(head_dim, seq))[0]
        moved = rearrange(x @ given.T, "s (h e) -> s h e", h=n_heads)
        scores = _half_split_scores(moved, rotary_angles(head_dim, seq).double())
        right = torch.einsum("mhd,nhd->hmn", q, q)
        compare("the score matrix in the half-split layout", scores, right)
    return "both layouts give the same attention scores, so weights can move between them"


def _table(angles: Tensor) -> Tensor:
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


@exercise
def check_interpolation(answer: Callable) -> str:
    """``answer(head_dim, positions, trained) -> table`` squeezed into the trained range."""
    for head_dim, positions, trained in ((4, 8, 4), (8, 30, 10), (16, 12, 12)):
        angles, share = rotary_angles(head_dim, positions), trained / positions
        wrong = {
            "that is the plain table: nothing was squeezed": _table(angles),
            "squeeze the angles; a shrunk cosine is no rotation": _table(angles) * share,
            "it turns faster, not slower": _table(angles / share),
            "those are angles; store their cosines and sines": angles * share,
        }
        diagnose(
            answer, (head_dim, positions, trained), _table(angles * share), wrong, tolerance=1e-4
        )
    return "no angle is larger than those seen in training"


def _attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5  # (..., seq, seq)
    if causal:
        future = torch.ones_like(scores).triu(1).bool()
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(-1) @ v


@exercise
def check_streaming_attention(answer: Callable) -> str:
    """``answer(q, k, v) -> causal attention`` of one head, without a T x T tensor."""
    for seq, head_dim, size in ((5, 4, 1), (64, 8, 1), (64, 8, 400)):
        q = seeded(seq, head_dim, seed=1) * size
        k = seeded(seq, head_dim, seed=2) * size
        v = seeded(seq, head_dim, seed=3)
        with MemoryMode() as watch:
            given = answer(q, k, v)
        wrong = {
            "a position looks at later ones: stop the keys at the query's own position":
                _attention(q, k, v, causal=False),
            "the scores are not divided by the square root of the head dimension":
                _attention(q * head_dim**0.5, k, v),
        }  # fmt: skip
        compare(f"attention over {seq} positions", given, _attention(q, k, v), wrong)
        small = seq < 64 or watch.largest < seq * seq
        table = f"an operation made {watch.largest:,} numbers at once for {seq} positions"
        expect(small, f"the values are right, but {table}: that is T x T")
    return "the same attention, and no tensor as large as T x T"


@exercise
def check_cache_bytes(answer: Callable) -> str:
    """``answer(config, batch, seq, bytes_per_number) -> bytes of the key-value cache``."""
    for config, batch, seq, size in (
        (ModelConfig.from_name("7b"), 1, 1, 2), (ModelConfig.from_name("65b"), 1, 2048, 2),
        (ModelConfig.from_name("nano-33b"), 8, 100, 4),
    ):  # fmt: skip
        right = 2 * config.n_layers * batch * seq * config.dim * size
        wrong = {
            "keys are stored, and values too": right // 2,
            "every layer has its own cache": right // config.n_layers,
            "dim already counts all heads": right * config.n_heads,
            f"that is one head; there are {config.n_heads}": right // config.n_heads,
        }
        diagnose(answer, (config, batch, seq, size), right, wrong)
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
