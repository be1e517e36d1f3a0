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
  logits of a position (``SplitVocabulary``).
"""

from functools import partial

import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
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
from minillama.model.loss import Vocabulary, linear_cross_entropy
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
    exchange = TensorGroup(mesh, sequence)
    model.forward = partial(_split_forward, model, exchange)
    model.loss = partial(_split_loss, model, exchange)
    for layer in model.layers:
        if isinstance(layer, BlockByHand):
            layer.exchange, layer.lean = exchange, False
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
        parts = x.new_empty(self.size * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(parts, x.contiguous(), group=self.group)
        return rearrange(parts, "(n b) t d -> b (n t) d", n=self.size)

    def scatter(self, x: Tensor) -> Tensor:
        """``(batch, seq, dim)`` to the sum's ``(batch, seq / size, dim)``; may overwrite ``x``."""
        if not self.sequence:
            return self.sum(x)
        parts = rearrange(x, "b (n t) d -> (n b) t d", n=self.size).contiguous()
        result = parts.new_empty(len(x), *parts.shape[1:])
        dist.reduce_scatter_tensor(result, parts, group=self.group)
        return result

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


class SplitVocabulary(Vocabulary):
    """The rows of the output matrix divided over processes (Shoeybi et al., 2019, Section 3).

    With its V / n logits of a position, each process needs of the others only the maximum and the
    sum of their exponentials: two numbers a position are sent instead of V.
    """

    def __init__(self, exchange: TensorGroup, batch: int, vocab_size: int) -> None:
        self.exchange, self.batch = exchange, batch
        self.share = -(-vocab_size // exchange.size)  # the last process may hold fewer
        self.first = exchange.rank * self.share
        self.rows = min(self.share, vocab_size - self.first)

    def gather(self, x: Tensor) -> Tensor:
        """``(batch * seq / size, dim)`` to ``(batch * seq, dim)``."""
        return self.exchange.gather(x.unflatten(0, (self.batch, -1))).flatten(0, 1)

    def scatter(self, grad: Tensor) -> Tensor:
        """``(batch * seq, dim)`` to the sum's ``(batch * seq / size, dim)``."""
        return self.exchange.scatter(grad.unflatten(0, (self.batch, -1))).flatten(0, 1)

    def locate(self, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """The row among this process's, and whether it is one of them."""
        place = targets - self.first
        owned = (place >= 0) & (place < self.rows) & counted
        return place.clamp(0, self.rows - 1), owned

    def log_softmax(self, logits: Tensor) -> Tensor:
        """``logits (positions, rows)`` less the logarithm of all processes' sum of exponentials."""
        logits -= self.exchange.max(logits.amax(-1, keepdim=True))
        return logits.sub_(self.exchange.sum(logits.exp().sum(-1, keepdim=True)).log())

    def most_rows(self, rows: int) -> int:
        """The rows of the first process, which has no fewer than others."""
        return self.share

    def total(self, loss: Tensor) -> Tensor:
        """The sum over processes."""
        return self.exchange.sum(loss)


def _split_forward(
    model: Llama, exchange: TensorGroup, tokens: Tensor, targets: Tensor | None = None
) -> Tensor:
    """As ``Llama.forward``. A sequence that does not divide evenly is filled up at its end."""
    seq = tokens.shape[1]
    if exchange.sequence and (missing := -seq % exchange.size):
        tokens = F.pad(tokens, (0, missing))  # no earlier position sees them
        targets = None if targets is None else F.pad(targets, (0, missing), value=-100)
    result = Llama.forward(model, tokens, targets)
    return result[:, :seq] if targets is None else result


def _split_loss(model: Llama, exchange: TensorGroup, x: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy as in ``Llama.loss``, the same on all processes.

    ``x`` is this process's part of the last norm's output, ``targets (batch, seq)`` are whole.
    """
    weight = exchange.piece(model.output.weight)
    vocabulary = SplitVocabulary(exchange, len(x), model.config.vocab_size)
    return linear_cross_entropy(x.flatten(0, 1), weight, targets.flatten(), vocabulary)
