"""Causal multi-head attention with rotary embeddings (Sections 2.2 and 2.4)."""

import torch.nn.functional as F
from torch import Tensor, nn

from minillama.config import ModelConfig
from minillama.model.rotary import apply_rotary


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

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Mix information along the sequence.

        Args:
            x: ``(batch, seq, dim)``.
            table: cosines and sines of these positions, ``(seq, head_dim / 2, 2)``.

        Returns:
            ``(batch, seq, dim)``.
        """
        heads = (-1, self.head_dim)
        q = apply_rotary(self.wq(x).unflatten(-1, heads), table)  # (B, T, H, head_dim)
        k = apply_rotary(self.wk(x).unflatten(-1, heads), table)
        v = self.wv(x).unflatten(-1, heads)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, head_dim)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(mixed.transpose(1, 2).flatten(-2))
