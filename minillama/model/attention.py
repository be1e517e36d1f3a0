"""Causal multi-head attention with rotary embeddings (Sections 2.2 and 2.4)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.config import ModelConfig
from minillama.model.rotary import apply_rotary

LayerCache = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Keeps new keys and values and returns all so far, each ``(batch, heads, time, head_dim)``."""


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(head_dim)) V over the positions at or before each one.

    The product is torch's fused kernel: it stores no attention weights and skips masked scores,
    which is what Section 2.4 asks of xformers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.wq = nn.Linear(config.dim, config.dim, bias=False)
        self.wk = nn.Linear(config.dim, config.dim, bias=False)
        self.wv = nn.Linear(config.dim, config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, table: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Mix information along the sequence.

        Args:
            x: ``(batch, seq, dim)``.
            table: cosines and sines of these positions, ``(seq, head_dim / 2, 2)``.
            cache: when generating, what keeps the keys and values of earlier positions.

        Returns:
            ``(batch, seq, dim)``.
        """
        heads = (-1, self.head_dim)
        q = apply_rotary(self.wq(x).unflatten(-1, heads), table)  # (B, T, H, head_dim)
        k = apply_rotary(self.wk(x).unflatten(-1, heads), table)
        v = self.wv(x).unflatten(-1, heads)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, head_dim)
        if cache is not None:
            k, v = cache(k, v)  # (B, H, S, head_dim): S positions so far, the last T of them new
        new, seen = q.shape[2], k.shape[2]
        mask = None
        if 1 < new < seen:  # new position i may look at the seen - new old ones and the new up to i
            mask = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)
        mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=new == seen)
        return self.wo(mixed.transpose(1, 2).flatten(-2))
