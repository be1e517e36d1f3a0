"""RMSNorm (Zhang & Sennrich, 2019): the normalization in front of every sub-layer (Section 2.2)."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square over the features, then scale by a learned weight.

    Statistics are taken over the last dimension only, so no position sees another. As in Meta's
    code, the normalized vector is rounded back to the input's dtype *before* the weight is applied.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x (..., dim)``; the shape is unchanged."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # 16 bits are too few to sum in
        mean_square = wide.pow(2).mean(-1, keepdim=True)
        return (wide * torch.rsqrt(mean_square + self.eps)).type_as(x) * self.weight
