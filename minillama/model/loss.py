"""The next-token loss without the full table of logits.

For 4,096 positions and 32,000 pieces the logits alone take 0.5 GB in float32, and as much again for
their gradient. Both the loss and its gradient need them only a few rows at a time, so this function
computes logits, loss and gradients together, chunk by chunk, in a buffer that stays in the cache.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 2**23
"""Size of the logits buffer: small beside the activations, large enough for fast products."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of softmax(x W^T); the gradients are ready when the forward ends."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        needs_grad = any(ctx.needs_input_grad)
        counted = targets != ignore_index
        ctx.n_counted = counted.sum().clamp(min=1)
        all_counted = bool(counted.all())
        grad_x = torch.empty_like(x) if needs_grad else None
        grad_weight = torch.zeros_like(weight) if needs_grad else None
        wide = torch.promote_types(x.dtype, torch.float32)  # 16 bits are too few for a logarithm
        total = x.new_zeros((), dtype=wide)
        rows = max(16, CHUNK_BYTES // (4 * weight.shape[0]))
        for start in range(0, x.shape[0], rows):
            part = slice(start, start + rows)
            target = targets[part].clamp(min=0)[:, None]
            log_p = torch.log_softmax((x[part] @ weight.T).to(wide), dim=-1)  # (rows, vocab)
            total -= log_p.gather(1, target)[counted[part]].sum()
            if needs_grad:  # d loss / d logits = softmax - one_hot(target), 0 where not counted
                grad = log_p.exp_()
                grad.scatter_add_(1, target, grad.new_full((1, 1), -1.0).expand_as(target))
                if not all_counted:
                    grad *= counted[part, None]
                grad = grad.type_as(x)
                torch.mm(grad, weight, out=grad_x[part])
                grad_weight.addmm_(grad.T, x[part])
        ctx.save_for_backward(grad_x, grad_weight)
        return total / ctx.n_counted

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_loss / ctx.n_counted
        return *(grad * scale.to(grad.dtype) for grad in ctx.saved_tensors), None, None


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    """Mean of -log softmax(x W^T)[target] in nats, equal to ``F.cross_entropy`` on full logits.

    Args:
        x: ``(positions, dim)``.
        weight: the output matrix, ``(vocab_size, dim)``.
        targets: ``(positions,)`` int64.
        ignore_index: targets with this value are not counted.
    """
    if not torch.is_grad_enabled():  # else the function would compute gradients that nobody reads
        x, weight = x.detach(), weight.detach()
    return _LinearCrossEntropy.apply(x, weight, targets, ignore_index)
