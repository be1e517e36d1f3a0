"""The next-token loss without the full table of logits.

For 4,096 positions and 32,000 pieces the logits alone take 0.5 GB in float32, and as much again for
their gradient. Both the loss and its gradient need them only a few rows at a time, so this function
computes logits, loss and gradients together, chunk by chunk, in a buffer that stays in the cache.

Measured with ``bench.peak`` for 2,048 positions of width 512, 32,000 pieces, float32, in MB. What
waits and is not the logits is the gradient of the output matrix, 66 MB, which is due in any case:

                                             waits for the backward    peak of both passes
    F.cross_entropy(x @ weight.T, targets)                      262                    786
    F.linear_cross_entropy, as it comes                         262                    786
    the same, with options for chunks                            70                    139
    linear_cross_entropy                                         70                    139
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 2**23
"""Size of the logits buffer: small beside the activations, large enough for fast products."""
GPU_CHUNK_BYTES = 2**28
"""The same on a GPU, which needs more rows to be busy: 2,097 of 32,000 pieces."""


def chunk_rows(vocab_size: int, device_type: str) -> int:
    """How many positions' logits are computed at a time."""
    size = GPU_CHUNK_BYTES if device_type == "cuda" else CHUNK_BYTES
    return max(16, size // (4 * vocab_size))


class Vocabulary:
    """Where the output matrix's rows lie: all of them here (``parallel.tensor`` divides them)."""

    def gather(self, x: Tensor) -> Tensor:
        """The vectors of all positions, from those that this process holds."""
        return x

    def scatter(self, grad: Tensor) -> Tensor:
        """The sum of all processes' gradients of those vectors: of it, this process's part."""
        return grad

    def locate(self, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """The row of each target, and whether it counts and is a row of this process."""
        return targets.clamp(min=0), counted

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Logarithms of the probabilities of this process's rows, ``(positions, rows)``."""
        return torch.log_softmax(logits, dim=-1)

    def total(self, loss: Tensor) -> Tensor:
        """The sum over processes, each of which counts the targets among its own rows."""
        return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of softmax(x W^T); the gradients are ready when the forward ends.

    Nothing depends on what the targets hold, so ``torch.compile`` sees one graph. Under autocast
    products are computed in its dtype; it is turned off and the dtypes are written out, because it
    does not know products into a buffer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignore_index: int,
        vocabulary: Vocabulary,
    ) -> Tensor:
        device, needs_grad = x.device.type, any(ctx.needs_input_grad)
        lower = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if lower else x.dtype
        wide = torch.promote_types(x.dtype, torch.float32)  # 16 bits are too few for a logarithm
        counted = targets != ignore_index
        n_counted = counted.sum().clamp(min=1)
        places, owned = vocabulary.locate(targets, counted)
        total = x.new_zeros((), dtype=wide)
        rows = chunk_rows(weight.shape[0], device)
        with torch.autocast(device, enabled=False):
            matrix = weight.to(dtype)
            vectors = vocabulary.gather(x)
            grad_x = torch.empty_like(vectors) if needs_grad else None
            grad_weight = torch.zeros_like(weight, dtype=wide) if needs_grad else None
            for start in range(0, vectors.shape[0], rows):
                part = slice(start, start + rows)
                place, here, counts = places[part, None], owned[part, None], counted[part, None]
                chunk = vectors[part].to(dtype) * counts
                log_p = vocabulary.log_softmax((chunk @ matrix.T).to(wide))  # (rows, vocab)
                total -= log_p.gather(1, place).where(here, 0).sum()
                if needs_grad:  # d loss / d logits = softmax - one_hot(target)
                    grad = log_p.exp_()
                    grad.scatter_add_(1, place, -here.to(wide))
                    grad = grad.to(dtype)
                    grad_x[part] = grad @ matrix * counts  # 0 where not counted
                    if dtype == wide:
                        grad_weight.addmm_(grad.T, chunk)
                    else:
                        grad_weight += grad.T @ chunk
            if needs_grad:
                grad_x = vocabulary.scatter(grad_x)
                grad_weight = grad_weight.to(weight.dtype)
        ctx.save_for_backward(grad_x, grad_weight, n_counted)
        return vocabulary.total(total) / n_counted

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        *grads, n_counted = ctx.saved_tensors
        scale = grad_loss / n_counted
        return *(grad * scale.to(grad.dtype) for grad in grads), None, None, None


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int = -100,
    vocabulary: Vocabulary = Vocabulary(),  # noqa: B008  (it holds nothing)
) -> Tensor:
    """Mean of -log softmax(x W^T)[target] in nats, equal to ``F.cross_entropy`` on full logits.

    Args:
        x: ``(positions, dim)``.
        weight: the output matrix, ``(vocab_size, dim)``.
        targets: ``(positions,)`` int64.
        ignore_index: targets with this value are not counted.
        vocabulary: for a matrix whose rows are divided over processes.
    """
    if not torch.is_grad_enabled():  # else the function would compute gradients that nobody reads
        x, weight = x.detach(), weight.detach()
    return _LinearCrossEntropy.apply(x, weight, targets, ignore_index, vocabulary)
