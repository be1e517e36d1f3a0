"""Causal multi-head attention with rotary embeddings (Sections 2.2 and 2.4)."""

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minillama.config import ModelConfig
from minillama.model.rotary import apply_rotary

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values to the mixed values, each ``(batch, seq, heads, head_dim)``."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V over the positions at or before each one.

    Torch's fused kernel stores no attention weights and skips masked scores, which is what
    Section 2.4 asks of xformers.
    """
    q, k, v = (rearrange(t, "b t h d -> b h t d") for t in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return rearrange(mixed, "b h t d -> b t h d")


class Attention(nn.Module):
    """Every head mixes the values of earlier positions by how well their keys fit its query."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.head_dim = config.head_dim
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, dim, bias=False)
        self.wv = nn.Linear(dim, dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, table: Tensor, mix: Mix = causal_attention) -> Tensor:
        """Mix information along the sequence.

        Args:
            x: ``(batch, seq, dim)``.
            table: cosines and sines of these positions, as for ``apply_rotary``.
            mix: what attends: the one place where a cache or another mask comes in.

        Returns:
            ``(batch, seq, dim)``.
        """
        q, k, v = self.project(x, table)  # (B, T, H, head_dim)
        mixed = mix(q, k, v)
        return self.wo(mixed.flatten(-2))  # (B, T, dim)

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, turned, and values: each ``(batch, seq, heads, head_dim)``."""
        q = rearrange(self.wq(x), "... (h d) -> ... h d", d=self.head_dim)
        k = rearrange(self.wk(x), "... (h d) -> ... h d", d=self.head_dim)
        v = rearrange(self.wv(x), "... (h d) -> ... h d", d=self.head_dim)
        q = apply_rotary(q, table)
        k = apply_rotary(k, table)
        return q, k, v
