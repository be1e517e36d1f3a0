"""Rotary position embeddings (Su et al., 2021), applied to queries and keys in every layer.

Features are taken in neighboring pairs (0, 1), (2, 3), ... as in Meta's code; Hugging Face pairs
feature i with i + head_dim / 2 instead, and ``minillama.interop`` holds the permutation.

To read further than it was trained, a model may turn more slowly (``ModelConfig.rope_scaling``).
"""

import math

import torch
from torch import Tensor

from minillama.config import ModelConfig


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

    ``table (seq, head_dim / 2, 2)`` holds the rows of ``rotary_table`` for these positions. A pair
    is read as a complex number and multiplied by e^{i m theta}.
    """
    wide = torch.promote_types(x.dtype, torch.float32)  # complex numbers need at least 32 bits
    pairs = x.to(wide).unflatten(-1, (-1, 2))  # (B, T, H, head_dim / 2, 2)
    pairs = torch.view_as_complex(pairs)
    turns = torch.view_as_complex(table.to(wide))
    turned = pairs * turns.unsqueeze(-2)  # the same for every head
    return torch.view_as_real(turned).flatten(-2).type_as(x)


def scaled_frequencies(config: ModelConfig) -> Tensor:
    """Radians by which each pair turns from one position to the next, ``(head_dim / 2,)`` float32.

    With f the plain frequencies and s the scaling's factor:

    * ``linear``, position interpolation (Chen et al., 2023): f / s. Position m gets the angles
      that m / s had in training, so none is new, but neighbors are harder to tell apart.
    * ``ntk`` and ``dynamic``: another base; see ``ModelConfig.rope_base``.
    * ``yarn`` (Peng et al., 2023, NTK-by-parts): a mean of f / s and f by pair. A pair that turns
      more than beta_fast times within the original context has seen all its angles and keeps f; one
      that turns less than beta_slow times gets f / s; between, the share falls linearly with the
      pair's number, bounds rounded outwards, as in the authors' and Hugging Face's code.
    """
    scaling, head_dim = config.rope_scaling, config.head_dim
    if scaling is None or scaling.kind in ("ntk", "dynamic"):
        return rotary_angles(head_dim, 2, config.rope_base)[1]
    plain = rotary_angles(head_dim, 2, config.rope_theta)[1]
    if scaling.kind == "linear":
        return plain / scaling.factor

    def pair_that_turns(times: float) -> float:
        """The i at which the original context is so many turns: L0 theta^(-2i/d) = 2 pi times."""
        turns = scaling.original_max_seq_len / (2 * math.pi * times)
        return head_dim * math.log(turns) / (2 * math.log(config.rope_theta))

    first = math.floor(pair_that_turns(scaling.beta_fast))
    first = max(0, first)
    last = math.ceil(pair_that_turns(scaling.beta_slow))
    last = min(head_dim - 1, last)
    width = last - first or 0.001
    pair = torch.arange(head_dim // 2)
    slowed = ((pair - first) / width).clamp(0, 1)
    return plain / scaling.factor * slowed + plain * (1 - slowed)


def attention_factor(config: ModelConfig) -> float:
    """What scaled queries and keys are multiplied by: 1, but for YaRN 0.1 ln(s) + 1.

    Scores grow by its square, as if the softmax had a temperature below 1: over a longer text the
    same scores would spread attention more thinly (Peng et al., 2023, Section 3.4).
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0


def model_table(config: ModelConfig) -> Tensor:
    """The ``rotary_table`` of a model, scaled if it says so: ``(max_seq_len, head_dim / 2, 2)``.

    Scaling is part of the table, so that a position's turn never changes: keys may be kept.
    """
    positions = torch.arange(config.max_seq_len, dtype=torch.float32)
    frequencies = scaled_frequencies(config)
    angles = torch.outer(positions, frequencies)
    table = torch.stack((angles.cos(), angles.sin()), dim=-1)
    return table * attention_factor(config)
