"""Tensor and sequence parallelism: every matrix divided over processes (Section 2.4).

Megatron's division (Shoeybi et al., 2019): n processes take 1/n of the attention heads and of the
feed-forward's features each. wq, wk, wv, w1 and w3 are cut by their outputs ("column-wise"), wo and
w2 by their inputs ("row-wise"), so that between the two a process needs nobody else's numbers. What
wo and w2 give is a part of a sum: the processes add up their ``(batch, seq, dim)`` twice a block,
and twice again in the backward.

Sequence parallelism (Korthikanti et al., 2022, the paper's choice) also divides what they would
otherwise all hold and compute alike: norms and residual stream live on seq / n positions each. The
sum becomes a reduce-scatter, and an all-gather before the next products makes the sequence whole:
together they send as much as the one all-reduce did, and what is kept outside of the matrices
shrinks n times.

- Every parameter becomes a ``DTensor``, under its old name: the split matrices ``Shard``, the norms
  ``Replicate``. ``fully_shard`` over another dimension of the mesh divides them further.
- ``tok_embeddings`` is cut by the width, as in Meta's release: each process looks up its features
  of every token and nothing has to be added up. Cutting by vocabulary (Megatron) would send whole
  partial sums, mostly zeros; a copy each would cost 16 V d bytes with Adam's moments.
- ``output`` is cut by the vocabulary, and the loss is computed without any process ever holding all
  logits of a position (``SplitLlama.loss``).
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from minillama.efficient.block_backward import BlockByHand, Exchange
from minillama.model.loss import chunk_rows
from minillama.model.transformer import Llama


def split_matrices(model: Llama, mesh: DeviceMesh, sequence: bool) -> None:
    """Divide ``model``, in place, over the processes of a one-dimensional ``mesh``.

    All processes call it with the same weights (or with a model on the meta device); it sends
    nothing. They then run the model on the same batch and get the same logits or loss, and after
    ``backward`` each parameter's gradient in the parameter's own placement.

    Blocks may have the hand-written backward. They then keep h = x + wo(attention) instead of
    computing it again, which would send one more message.

    Args:
        model: on one process, or on the meta device.
        mesh: its size must divide the model's heads, feed-forward width and vocabulary.
        sequence: divide the sequence outside of the matrices too.
    """
    parallelize_module(model, mesh, plan(sequence), src_data_rank=None)
    model.__class__ = SplitLlama
    model.exchange = TensorGroup(mesh, sequence)
    for layer in model.layers:
        if isinstance(layer, BlockByHand):
            layer.exchange, layer.lean = model.exchange, False
    if sequence:
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.register_hook(_add_up)


def plan(sequence: bool) -> dict[str, ParallelStyle]:
    """What happens to each module: its parameters' division, and that of what goes in and out."""
    stream = Shard(1) if sequence else Replicate()  # the residual stream, (batch, seq, dim)
    norm = SequenceParallel(use_local_output=True)
    norm.sequence_sharding = (stream,)
    into_attention = PrepareModuleInput(  # x, the rotary table (a plain tensor), the mix
        input_layouts=(stream, None, None), desired_input_layouts=(Replicate(), None, None)
    )
    into_feed_forward = PrepareModuleInput(input_layouts=stream, desired_input_layouts=Replicate())
    return {
        "tok_embeddings": ColwiseParallel(output_layouts=stream),
        "layers.*.attention_norm": norm,
        "layers.*.attention": into_attention,
        "layers.*.attention.wq": ColwiseParallel(),
        "layers.*.attention.wk": ColwiseParallel(),
        "layers.*.attention.wv": ColwiseParallel(),
        "layers.*.attention.wo": RowwiseParallel(output_layouts=stream),
        "layers.*.ffn_norm": norm,
        "layers.*.feed_forward": into_feed_forward,
        "layers.*.feed_forward.w1": ColwiseParallel(),
        "layers.*.feed_forward.w3": ColwiseParallel(),
        "layers.*.feed_forward.w2": RowwiseParallel(output_layouts=stream),
        "norm": norm,
        "output": ColwiseParallel(input_layouts=stream, output_layouts=Replicate()),
    }


def _add_up(grad: DTensor) -> DTensor:
    """A norm's gradient on part of the sequence is a part of a sum (FSDP adds it up by itself)."""
    return grad.redistribute(placements=[Replicate()] * grad.device_mesh.ndim)


class TensorGroup(Exchange):
    """The messages between processes that hold pieces of the same matrices.

    ``gather`` and ``scatter`` are Korthikanti's g and g-bar if the sequence is divided, else f and
    f-bar: nothing, and an all-reduce. Each is the other's backward; autograd does not see them.
    """

    def __init__(self, mesh: DeviceMesh, sequence: bool) -> None:
        self.group = mesh.get_group()
        self.rank, self.size = mesh.get_local_rank(), mesh.size()
        self.sequence = sequence

    def piece(self, weight: Tensor) -> Tensor:
        """The local tensor; its gradient is a ``DTensor`` again."""
        return weight.to_local() if isinstance(weight, DTensor) else weight

    def gather(self, x: Tensor) -> Tensor:
        """``(batch, seq / size, dim)`` to ``(batch, seq, dim)``."""
        if not self.sequence:
            return x
        parts = x.new_empty(self.size * len(x), *x.shape[1:])  # (n B, T / n, dim)
        dist.all_gather_into_tensor(parts, x.contiguous(), group=self.group)
        return parts.unflatten(0, (self.size, -1)).transpose(0, 1).flatten(1, 2)

    def scatter(self, x: Tensor) -> Tensor:
        """``(batch, seq, dim)`` to the sum's ``(batch, seq / size, dim)``; may overwrite ``x``."""
        if not self.sequence:
            return self.sum(x)
        parts = x.unflatten(1, (self.size, -1)).transpose(0, 1).flatten(0, 1)  # (n B, T / n, dim)
        mine = parts.new_empty(len(x), *parts.shape[1:])
        dist.reduce_scatter_tensor(mine, parts, group=self.group)
        return mine

    def total(self, grad: Tensor) -> Tensor:
        """Sum a norm's gradient, if each process saw only its part of the sequence."""
        return self.sum(grad) if self.sequence else grad

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes, in place."""
        dist.all_reduce(x, group=self.group)
        return x

    def max(self, x: Tensor) -> Tensor:
        """The maximum over processes, in place."""
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x


class SplitLlama(Llama):
    """A model whose matrices are divided by ``split_matrices``."""

    exchange: TensorGroup

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """As ``Llama.forward``. A sequence that does not divide evenly is filled up at its end."""
        seq = tokens.shape[1]
        if self.exchange.sequence and (missing := -seq % self.exchange.size):
            tokens = F.pad(tokens, (0, missing))  # no earlier position sees them
            targets = None if targets is None else F.pad(targets, (0, missing), value=-100)
        result = super().forward(tokens, targets)
        return result[:, :seq] if targets is None else result

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy as in ``Llama.loss``, the same on all processes.

        ``x`` is this process's part of the last norm's output, ``targets (batch, seq)`` are whole.
        """
        weight = self.exchange.piece(self.output.weight)
        if not torch.is_grad_enabled():  # else the function would compute unread gradients
            x, weight = x.detach(), weight.detach()
        return _SplitCrossEntropy.apply(x, weight, targets, self.config.vocab_size, self.exchange)


class _SplitCrossEntropy(torch.autograd.Function):
    """Cross-entropy over a divided vocabulary (Shoeybi et al., 2019, Section 3).

    With its V / n logits a of a position, each process needs of the others only the maximum m, and
    the sum of two numbers: sum exp(a - m), and the target's a - m, which one process has. The loss
    is log(sum exp(a - m)) - (a_target - m): 3 numbers a position are sent instead of V. Chunk by
    chunk, with the gradients computed at once and autocast written out, as in ``model.loss``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, vocab_size: int, exchange: TensorGroup
    ) -> Tensor:
        device, needs_grad = x.device.type, any(ctx.needs_input_grad)
        lower = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if lower else x.dtype
        wide = torch.promote_types(x.dtype, torch.float32)  # 16 bits are too few for a logarithm
        share = -(-vocab_size // exchange.size)
        targets = targets.flatten()
        counted = targets != -100
        n_counted = counted.sum().clamp(min=1)
        local = targets - exchange.rank * share
        owned = (local >= 0) & (local < len(weight))  # never where it is not counted
        local = local.clamp(0, len(weight) - 1)
        total = x.new_zeros((), dtype=wide)
        size = chunk_rows(share, device)
        with torch.autocast(device, enabled=False):
            matrix, whole = weight.to(dtype), exchange.gather(x.to(dtype))  # (B, T, dim)
            rows = whole.flatten(0, 1)
            grad_x = torch.empty_like(rows) if needs_grad else None
            grad_weight = torch.zeros_like(weight, dtype=wide) if needs_grad else None
            for start in range(0, len(rows), size):
                part = slice(start, start + size)
                place, here, counts = (t[part, None] for t in (local, owned, counted))
                vectors = rows[part] * counts
                logits = (vectors @ matrix.T).to(wide)  # (rows, vocab / n)
                logits -= exchange.max(logits.amax(-1, keepdim=True))
                of_target = logits.gather(1, place) * here
                parts = logits.exp_()  # of the softmax: what is missing is their sum
                both = torch.cat((parts.sum(-1, keepdim=True), of_target), dim=1)
                denominator, of_target = exchange.sum(both).split(1, dim=1)
                total += (denominator.log() - of_target).where(counts, 0).sum()
                if needs_grad:  # d loss / d logits = softmax - one_hot(target)
                    grad = parts.div_(denominator).scatter_add_(1, place, -here.to(wide)).to(dtype)
                    grad_x[part] = grad @ matrix * counts  # 0 where not counted
                    grad_weight += grad.T @ vectors
            if needs_grad:
                grad_x = exchange.scatter(grad_x.view_as(whole)).to(x.dtype)
                grad_weight = grad_weight.to(weight.dtype)
        ctx.save_for_backward(grad_x, grad_weight, n_counted)
        return total / n_counted

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        *grads, n_counted = ctx.saved_tensors
        scale = grad_loss / n_counted
        return *(grad * scale.to(grad.dtype) for grad in grads), None, None, None
