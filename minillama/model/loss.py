"""The next-token loss without the full table of logits.

For 4,096 positions and 32,000 pieces the logits alone take 0.5 GB in float32, and as much again for
their gradient. Both are needed a few rows at a time only, so logits, loss and gradients are
computed together, chunk by chunk, in a buffer that stays in the cache. Measured with ``bench.peak``
for 2,048 positions of width 512, 32,000 pieces, float32, in MB (66 of them for the gradient of the
output matrix, which is due in any case):

                                                 waits for the backward    peak of both passes
    F.cross_entropy(x @ weight.T, targets)                          262                    786
    linear_cross_entropy (or torch's, with chunks)                   70                    139
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""A target that is not counted, as in ``F.cross_entropy``."""
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

    def most_rows(self, rows: int) -> int:
        """The rows of the process that holds most; ``rows`` are this process's."""
        return rows

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
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, rows: Vocabulary) -> Tensor:
        device = x.device.type
        needs_grad = any(ctx.needs_input_grad)
        lower = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if lower else x.dtype
        wide = torch.promote_types(x.dtype, torch.float32)  # 16 bits are too few for a logarithm

        counted = targets != IGNORED
        places, owned = rows.locate(targets, counted)
        total = x.new_zeros((), dtype=wide)
        size = chunk_rows(rows.most_rows(len(weight)), device)  # the same for all processes
        with torch.autocast(device, enabled=False):
            matrix = weight.to(dtype)
            vectors = rows.gather(x)
            grad_x = torch.empty_like(vectors) if needs_grad else None
            grad_weight = torch.zeros_like(weight, dtype=wide) if needs_grad else None
            for start in range(0, len(vectors), size):
                part = slice(start, start + size)
                place = places[part, None]
                here = owned[part, None]
                counts = counted[part, None]

                chunk = vectors[part].to(dtype) * counts
                logits = (chunk @ matrix.T).to(wide)  # (size, vocab)
                log_p = rows.log_softmax(logits)
                total -= log_p.gather(1, place).where(here, 0).sum()
                if not needs_grad:
                    continue

                # d loss / d logits = softmax - one_hot(target)
                grad = log_p.exp_()
                grad.scatter_add_(1, place, -here.to(wide))
                grad = grad.to(dtype)
                grad_x[part] = grad @ matrix * counts  # 0 where not counted
                if dtype == wide:
                    grad_weight.addmm_(grad.T, chunk)
                else:
                    grad_weight += grad.T @ chunk
            if needs_grad:
                grad_x = rows.scatter(grad_x)
                grad_weight = grad_weight.to(weight.dtype)
        n_counted = counted.sum().clamp(min=1)
        ctx.save_for_backward(grad_x, grad_weight, n_counted)
        return rows.total(total) / n_counted

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight, n_counted = ctx.saved_tensors
        scale = grad_loss / n_counted
        grad_x = grad_x * scale.to(grad_x.dtype)
        grad_weight = grad_weight * scale.to(grad_weight.dtype)
        return grad_x, grad_weight, None, None


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    vocabulary: Vocabulary = Vocabulary(),  # noqa: B008  (it holds nothing)
) -> Tensor:
    """Mean of -log softmax(x W^T)[target] in nats, equal to ``F.cross_entropy`` on full logits.

    Args:
        x: ``(positions, dim)``.
        weight: the output matrix, ``(vocab_size, dim)``.
        targets: ``(positions,)`` int64; -100 is not counted.
        vocabulary: for a matrix whose rows are divided over processes.
    """
    if not torch.is_grad_enabled():  # else the function would compute gradients that nobody reads
        x, weight = x.detach(), weight.detach()
    return _LinearCrossEntropy.apply(x, weight, targets, vocabulary)
