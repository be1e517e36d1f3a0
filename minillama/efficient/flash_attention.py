"""Causal attention in three ways: the whole table, block by block, and torch's own kernels.

The table of T x T weights is what makes attention's memory grow with the square of T. Rabe & Staats
(2021) need no table: softmax can be computed as its inputs come in, keeping a maximum m and a sum
l, both corrected when a larger score arrives. FlashAttention (Dao et al., 2022) adds the backward:
the weights of a block of scores S are exp(S - logsumexp), so one number for each row is all that
has to be kept. With a causal mask half of the blocks lie in the future and are skipped: the paper's
"not computing the key/query scores that are masked" (Section 2.4).

Queries, keys and values are ``(batch, heads, seq, head_dim)`` throughout.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128
"""Positions in a block of queries or keys."""
aten = torch.ops.aten


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)) V, with the whole ``(batch, heads, seq, seq)`` table."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1) @ v


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor, block: int = BLOCK) -> Tensor:
    """The same values and gradients, without a table: only ``block x block`` scores at a time."""
    return _Blockwise.apply(q, k, v, block)


class _Blockwise(torch.autograd.Function):
    """Keeps Q, K, V, the output and one logsumexp for each row."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
        out, logsumexp = blockwise_forward(q, k, v, block)
        ctx.block = block
        ctx.save_for_backward(q, k, v, out, logsumexp)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *blockwise_backward(grad, *ctx.saved_tensors, ctx.block), None


def blockwise_forward(q: Tensor, k: Tensor, v: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Attention by the online softmax.

    Returns:
        The output, and the logarithm of each row's sum of exp(scores), ``(batch, heads, seq)``.
    """
    wide = _wide(q)
    out = torch.empty_like(q)
    logsumexp = q.new_empty(q.shape[:-1], dtype=wide)
    for rows in _blocks(q.shape[2], block):
        queries = q[:, :, rows]
        largest = queries.new_full((*queries.shape[:-1], 1), -math.inf, dtype=wide)  # m
        total = torch.zeros_like(largest)  # l
        mixed = torch.zeros_like(queries, dtype=wide)
        for columns in _blocks(rows.stop, block):  # later keys are all masked
            keys, values = k[:, :, columns], v[:, :, columns]
            scores = _scores(queries, keys, rows, columns)
            new_largest = torch.maximum(largest, scores.amax(-1, keepdim=True))
            correction = (largest - new_largest).exp_()  # 0 at the first block
            largest = new_largest
            weights = (scores - largest).exp_()
            total = total * correction + weights.sum(-1, keepdim=True)
            mixed = mixed * correction + weights @ values.to(wide)
        out[:, :, rows] = mixed / total
        logsumexp[:, :, rows] = (largest + total.log()).squeeze(-1)
    return out, logsumexp


def blockwise_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of Q, K and V, from the output's gradient and what the forward kept.

    With weights P and dP = dO V^T, softmax's gradient is dS = P * (dP - rowsum(P * dP)); the row
    sum equals rowsum(dO * O), which needs no table.
    """
    dtype, scale = q.dtype, 1 / math.sqrt(q.shape[-1])
    grad, q, k, v, out = (t.to(_wide(q)) for t in (grad, q, k, v, out))
    row_sum = (grad * out).sum(-1, keepdim=True)  # (B, H, T, 1)
    logsumexp = logsumexp.unsqueeze(-1)
    grad_q, grad_k, grad_v = (torch.zeros_like(t) for t in (q, k, v))
    for rows in _blocks(q.shape[2], block):
        queries, grad_out = q[:, :, rows], grad[:, :, rows]
        for columns in _blocks(rows.stop, block):
            keys, values = k[:, :, columns], v[:, :, columns]
            scores = _scores(queries, keys, rows, columns)
            weights = (scores - logsumexp[:, :, rows]).exp_()
            grad_weights = grad_out @ values.mT
            grad_scores = weights * (grad_weights - row_sum[:, :, rows]) * scale
            grad_q[:, :, rows] += grad_scores @ keys
            grad_k[:, :, columns] += grad_scores.mT @ queries
            grad_v[:, :, columns] += weights.mT @ grad_out
    return grad_q.to(dtype), grad_k.to(dtype), grad_v.to(dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)  # 16 bits are too few to sum in


def _blocks(end: int, block: int) -> Iterator[slice]:
    return (slice(start, min(start + block, end)) for start in range(0, end, block))


def _scores(q: Tensor, k: Tensor, rows: slice, columns: slice) -> Tensor:
    """Scaled scores of one block; those of the future are -inf."""
    products = q.to(_wide(q)) @ k.to(_wide(k)).mT
    scores = products / math.sqrt(q.shape[-1])
    if columns.stop <= rows.start + 1:  # wholly in the past
        return scores
    future = torch.ones_like(scores, dtype=torch.bool).triu(rows.start - columns.start + 1)
    return scores.masked_fill_(future, -math.inf)


def fused_forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What ``F.scaled_dot_product_attention`` runs, with what its backward needs.

    That is torch's flash kernel on CPUs, and on GPUs in 16 bits; elsewhere (float32 on a GPU) the
    blockwise functions above. Kernels are called by name, as autograd does not keep their state.

    Returns:
        The output, laid out in memory as ``(batch, seq, heads, head_dim)`` by torch's kernels; and
        the logsumexp, followed on GPUs by the state of the (unused) dropout.
    """
    if q.device.type == "cpu":
        out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        return out, (logsumexp,)
    if _flash_on_gpu(q):
        out, logsumexp, *_, seed, offset, _ = aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, True
        )
        return out, (logsumexp, seed, offset)
    out, logsumexp = blockwise_forward(q, k, v)
    return out, (logsumexp,)


def fused_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, state: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of Q, K and V; ``out`` and ``state`` come from ``fused_forward``."""
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, *state, 0.0, True
        )
    if _flash_on_gpu(q):
        logsumexp, seed, offset = state
        longest, dropout, causal = q.shape[2], 0.0, True
        forward_results = (out, logsumexp, None, None, longest, longest)
        return aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, *forward_results, dropout, causal, seed, offset
        )
    return blockwise_backward(grad, q, k, v, out, *state)


def _flash_on_gpu(q: Tensor) -> bool:
    return (
        q.device.type == "cuda"
        and q.dtype in (torch.bfloat16, torch.float16)
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )
