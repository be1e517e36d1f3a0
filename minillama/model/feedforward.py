"""The SwiGLU feed-forward layer (Shazeer, 2020; Section 2.2)."""

import torch.nn.functional as F
from torch import Tensor, nn

from minillama.config import ModelConfig


class FeedForward(nn.Module):
    """w2(SiLU(w1 x) * w3 x): a gated layer of width 2/3 * 4d, costing as much as ReLU's 4d."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, hidden_dim = config.dim, config.hidden_dim
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)  # gate
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)  # down
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)  # up

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position of ``x (batch, seq, dim)`` on its own; same shape."""
        gate = F.silu(self.w1(x))  # (B, T, hidden_dim)
        return self.w2(gate * self.w3(x))
