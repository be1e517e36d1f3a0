"""Checks for the exercises of notebook 04 (rotary embeddings)."""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from minillama.model import apply_rotary, rotary_angles, rotary_table
from minillama.teach.checking import diagnose, exercise, expect, returned, seeded


@exercise
def check_slowest_turn(answer: Callable) -> str:
    """``answer(head_dim, theta) -> positions in one full turn of the slowest pair``."""
    for head_dim, theta in ((2, 10_000.0), (8, 10_000.0), (128, 10_000.0), (128, 500_000.0)):
        slowest = theta ** (-(head_dim - 2) / head_dim)
        wrong = {
            "a full turn is 2 pi radians, not 1": 1 / slowest,
            "the last pair is i = head_dim / 2 - 1, so its exponent stays short of 1":
                2 * math.pi * theta,
            "that is the fastest pair (i = 0)": 2 * math.pi,
        }  # fmt: skip
        call = f"slowest_turn({head_dim}, {theta:g})"
        right = 2 * math.pi / slowest
        diagnose(call, answer(head_dim, theta), right, wrong, tolerance=1e-6)
    return "54,410 positions at LLaMA's head dimension of 128: far beyond its context of 2,048"


def _half_split_rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary with feature i paired with i + head_dim / 2; ``x (seq, heads, head_dim)``."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@exercise
def check_half_split(answer: Callable) -> str:
    """``answer(weight, n_heads) -> weight`` with rows reordered for half-split pairs."""
    for n_heads, head_dim, seq in ((1, 4, 3), (3, 8, 5), (2, 16, 7)):
        dim = n_heads * head_dim
        weight, x = seeded(dim, dim, seed=5), seeded(seq, dim, seed=6)
        given = returned(answer(weight.clone(), n_heads), "the reordered matrix")
        same_shape = getattr(given, "shape", None) == weight.shape
        expect(same_shape, f"the matrix must keep its shape {tuple(weight.shape)}")
        whole_rows = torch.equal(given.unique(dim=0), weight.unique(dim=0))
        expect(
            whole_rows,
            "every row of the matrix must appear once, whole: reorder rows, not columns",
        )
        wrong = {
            "the rows are still in their old order": weight,
            "that is the permutation from half-split to neighboring pairs: you need the other way":
                rearrange(weight, "(h two i) d -> (h i two) d", h=n_heads, two=2),
            "you moved rows from one head to another: split the matrix into heads first":
                rearrange(weight, "(i two) d -> (two i) d", two=2),
        }  # fmt: skip
        right = rearrange(weight, "(h i two) d -> (h two i) d", h=n_heads, two=2)
        for hint, rows in wrong.items():
            expect(torch.equal(rows, right) or not torch.equal(given, rows), hint)

        # Any order that gives the same scores will do.
        q = rearrange(x @ weight.T, "s (h e) -> 1 s h e", h=n_heads)
        halves = rearrange(x @ given.T, "s (h e) -> s h e", h=n_heads)
        neighbors = apply_rotary(q, rotary_table(head_dim, seq))[0]
        turned = _half_split_rotary(halves, rotary_angles(head_dim, seq).double())
        scores = torch.einsum("mhd,nhd->hmn", turned, turned)
        reference = torch.einsum("mhd,nhd->hmn", neighbors, neighbors)
        diagnose("the score matrix in the half-split layout", scores, reference)
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
            "squeeze the angles, then take cosine and sine; a shrunk cosine is no rotation":
                _table(angles) * share,
            "it turns faster, not slower": _table(angles / share),
            "those are angles; store their cosines and sines": angles * share,
        }  # fmt: skip
        call = f"interpolated_table({head_dim}, {positions}, {trained})"
        given = answer(head_dim, positions, trained)
        diagnose(call, given, _table(angles * share), wrong, tolerance=1e-4)
    return "no angle is larger than those seen in training"
