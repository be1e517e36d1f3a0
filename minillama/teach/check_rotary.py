"""Checks for the exercises of notebook 04 (rotary embeddings)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minillama.model import apply_rotary, rotary_angles, rotary_table
from minillama.teach.checking import close, exercise, expect, same_number, same_tensor, seeded


@exercise
def check_slowest_turn(answer: Callable) -> str:
    """``answer(head_dim, theta) -> positions in one full turn of the slowest pair``."""
    for head_dim, theta in ((2, 10_000.0), (8, 10_000.0), (128, 10_000.0), (128, 500_000.0)):
        given = answer(head_dim, theta)
        call = f"slowest_turn({head_dim}, {theta:g})"
        expect(given is not None, f"{call} is None; replace `return None` by your answer")
        frequency = theta ** (-(head_dim - 2) / head_dim)
        near = isinstance(given, int | float)
        forgot = near and math.isclose(given, 1 / frequency, rel_tol=1e-6)
        expect(not forgot, f"{call}: a full turn is 2 pi radians, not 1")
        whole = near and math.isclose(given, 2 * math.pi * theta, rel_tol=1e-6)
        expect(
            not whole,
            f"{call}: the last pair is i = head_dim / 2 - 1, so its exponent stays short of 1",
        )
        fastest = near and head_dim > 2 and math.isclose(given, 2 * math.pi, rel_tol=1e-6)
        expect(not fastest, f"{call}: that is the fastest pair (i = 0)")
        same_number(given, 2 * math.pi / frequency, call, tolerance=1e-6)
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
        given = answer(weight.clone(), n_heads)
        same_shape = getattr(given, "shape", None) == weight.shape
        expect(given is not None, "your function returned None; return the reordered matrix")
        expect(same_shape, f"the matrix must keep its shape {tuple(weight.shape)}")
        expect(not torch.equal(given, weight), "the rows are still in their old order")
        rows = {tuple(row.tolist()) for row in weight}
        expect(
            {tuple(row.tolist()) for row in given} == rows,
            "every row of the matrix must appear once, whole: reorder rows, not columns",
        )
        pairs = weight.view(n_heads, head_dim // 2, 2, dim)
        inverse = weight.view(n_heads, 2, head_dim // 2, dim).transpose(1, 2).reshape(dim, dim)
        right = torch.cat((pairs[:, :, 0], pairs[:, :, 1]), dim=1).reshape(dim, dim)
        backwards = torch.equal(given, inverse) and not torch.equal(inverse, right)
        expect(
            not backwards,
            "that is the permutation from half-split to neighboring pairs: you need the other way",
        )
        mixed = torch.cat((weight[0::2], weight[1::2]))
        expect(
            n_heads == 1 or not torch.equal(given, mixed),
            "you moved rows from one head to another: split the matrix into heads first",
        )
        table = rotary_table(head_dim, seq)
        ours = apply_rotary((x @ weight.T).view(1, seq, n_heads, head_dim), table)[0]
        angles = rotary_angles(head_dim, seq).double()
        theirs = _half_split_rotary((x @ given.T).view(seq, n_heads, head_dim), angles)
        scores = [torch.einsum("mhd,nhd->hmn", t, t) for t in (ours, theirs)]
        same_tensor(scores[1], scores[0], "the score matrix in the half-split layout")
    return "both layouts give the same attention scores, so weights can move between them"


@exercise
def check_interpolation(answer: Callable) -> str:
    """``answer(head_dim, positions, trained) -> table`` squeezed into the trained range."""
    for head_dim, positions, trained in ((4, 8, 4), (8, 30, 10), (16, 12, 12)):
        given = answer(head_dim, positions, trained)
        angles = rotary_angles(head_dim, positions) * (trained / positions)
        right = torch.stack((angles.cos(), angles.sin()), dim=-1)
        call = f"interpolated_table({head_dim}, {positions}, {trained})"
        plain = rotary_table(head_dim, positions)
        if positions != trained:
            expect(not close(given, plain), f"{call} is the plain table: nothing was squeezed")
            expect(
                not close(given, plain * (trained / positions)),
                f"{call}: squeeze the angles, "
                "then take cosine and sine; a shrunk cosine is no rotation",
            )
            other = rotary_angles(head_dim, positions) * (positions / trained)
            stretched = torch.stack((other.cos(), other.sin()), dim=-1)
            expect(not close(given, stretched), f"{call} turns faster, not slower")
        expect(not close(given, angles), f"{call} holds angles; store their cosines and sines")
        same_tensor(given, right, call, tolerance=1e-4)
    return "no angle is larger than those seen in training"
