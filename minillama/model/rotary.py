"""Rotary position embeddings (Su et al., 2021), applied to queries and keys in every layer.

Features are taken in neighbouring pairs (0, 1), (2, 3), ... as in Meta's code; Hugging Face pairs
feature i with i + head_dim / 2 instead, and ``minillama.convert`` holds the permutation.
"""

import torch
from torch import Tensor


def rotary_angles(head_dim: int, positions: int, theta: float = 10_000.0) -> Tensor:
    """The angle m * theta^(-2i / head_dim) by which pair i turns at position m.

    Returns:
        ``(positions, head_dim / 2)`` float32, in radians.
    """
    pair = torch.arange(0, head_dim, 2, dtype=torch.float32)
    frequency = 1.0 / theta ** (pair / head_dim)  # bit for bit as in Meta's code
    return torch.outer(torch.arange(positions, dtype=torch.float32), frequency)


def rotary_table(head_dim: int, positions: int, theta: float = 10_000.0) -> Tensor:
    """Cosine and sine of every angle: ``(positions, head_dim / 2, 2)`` float32."""
    angles = rotary_angles(head_dim, positions, theta)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Turn each feature pair of ``x (batch, seq, heads, head_dim)`` by its position's angle.

    ``table (seq, head_dim / 2, 2)`` is the slice of ``rotary_table`` for these positions. Equal to
    multiplying by e^{i m theta} with the pair read as a complex number.
    """
    wide = torch.promote_types(x.dtype, torch.float32)  # complex numbers need at least 32 bits
    pairs = torch.view_as_complex(x.to(wide).unflatten(-1, (-1, 2)))  # (B, T, H, head_dim / 2)
    turns = torch.view_as_complex(table.to(wide))[:, None, :]  # (T, 1, head_dim / 2)
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(x)
