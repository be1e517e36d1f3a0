"""What a training step sends: by formula, and counted (Section 2.4).

A collective over n processes, of a tensor that is P bytes whole, makes each process send

- all-gather, reduce-scatter: (n - 1) / n P. Pieces travel around a ring, and each process passes
  on all but one;
- all-reduce: 2 (n - 1) / n P, for it is a reduce-scatter and an all-gather;
- all-to-all: (n - 1) / n of its own piece, so (n - 1) / n^2 P.

No algorithm sends less (Patarasuk & Yuan, 2009). The volumes per step are those of Rajbhandari et
al. (2020, ZeRO, Section 7) for data parallelism, Shoeybi et al. (2019, Megatron-LM) for tensor and
Korthikanti et al. (2022) for sequence parallelism, as ``parallel.fsdp`` and ``parallel.tensor``
really do it. Left out is what does not grow with the model: the norm of the gradients, the loss.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from minillama.config import ModelConfig
from minillama.model import Llama
from minillama.parallel.mesh import ParallelConfig

COLUMN_WISE = ("wq", "wk", "wv", "w1", "w3", "output")


@dataclass(frozen=True)
class Collective:
    """One collective call: its kind, size and group."""

    kind: str
    """all-gather, reduce-scatter, all-reduce, all-to-all or broadcast."""
    payload: int
    """Bytes of the whole tensor: gathered, before it is scattered, or as every process has it."""
    processes: int
    axis: str
    """Dimension of the mesh along which the group lies: replicate, shard or tensor."""

    @property
    def sent(self) -> int:
        """Bytes that each process sends by the ring algorithm."""
        n = self.processes
        rounds = {"all-reduce": 2 * (n - 1), "all-to-all": (n - 1) / n, "broadcast": n - 1}
        return round(self.payload * rounds.get(self.kind, n - 1) / n)


def totals(collectives: Iterable[Collective]) -> dict[tuple[str, str], tuple[int, int]]:
    """``(axis, kind)`` to how often it happened, and the bytes that a process sent for it."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for one in collectives:
        key = one.axis, one.kind
        times, sent = sums.get(key, (0, 0))
        sums[key] = times + 1, sent + one.sent
    return dict(sorted(sums.items()))


def data_parallel(config: ModelConfig, processes: int) -> list[Collective]:
    """DDP: one mean of all float32 gradients in a step (really in buckets of 25 MB)."""
    return [Collective("all-reduce", 4 * config.num_parameters(), processes, "replicate")]


def fully_sharded(
    config: ModelConfig, parallel: ParallelConfig, world_size: int, passes: int = 1, number: int = 4
) -> list[Collective]:
    """FSDP: weights gathered when they are needed, gradients summed to those who keep them.

    A block's weights are gathered in the forward, freed, and gathered again in the backward; those
    outside of blocks stay for the pass. So a pass sends three times the weights, half as much again
    as plain data parallelism. With ``gather = "step"`` it is twice, and once a step. On a mesh with
    replicas the sums of the step are then averaged between them, each process its own piece.

    Args:
        passes: micro-batches in a step.
        number: bytes of a gathered weight: 4 in float32, 2 in bfloat16. Gradients are float32.
    """
    replicate, shard, _ = parallel.shape(world_size)
    often = passes if parallel.gather == "micro_batch" else 1
    found: list[Collective] = []
    *blocks, outside = gathered_numbers(config, parallel.tensor, shard)
    for i, group in enumerate((*blocks, outside)):
        again = 2 if parallel.gather == "micro_batch" and i < len(blocks) else 1
        if shard > 1:
            found += [Collective("all-gather", number * group, shard, "shard")] * (again * often)
            found += [Collective("reduce-scatter", 4 * group, shard, "shard")] * often
        if replicate > 1:
            found.append(Collective("all-reduce", 4 * group // shard, replicate, "replicate"))
    return found


def gathered_numbers(config: ModelConfig, tensor: int, shard: int) -> list[int]:
    """Numbers gathered at a time: those of each block, and last those outside of blocks.

    Of what tensor parallelism leaves to a process; each matrix is cut by its rows, the last piece
    filled up.
    """
    with torch.device("meta"):
        model = Llama(replace(config, n_layers=1))
    block = outside = 0
    for name, weight in model.named_parameters():
        rows, *columns = weight.shape
        if weight.ndim == 2:
            if name.split(".")[-2] in COLUMN_WISE:
                rows = -(-rows // tensor)
            else:
                columns = [-(-columns[0] // tensor)]
        numbers = -(-rows // shard) * shard * (columns[0] if columns else 1)
        if name.startswith("layers."):
            block += numbers
        else:
            outside += numbers
    return [block] * config.n_layers + [outside]


def tensor_parallel(
    config: ModelConfig,
    parallel: ParallelConfig,
    batch: int,
    seq_len: int,
    number: int = 4,
    by_hand: bool = False,
    gloo: bool = False,
) -> list[Collective]:
    """Tensor parallelism: two sums a block forward, two backward, of ``(batch, seq_len, dim)``.

    With a divided sequence each sum is a reduce-scatter, and an all-gather before the next
    products: the same bytes. What recomputation or the hand-written backward did not keep whole is
    gathered once more (Korthikanti et al., 2022, Section 4.2.2).

    Args:
        batch: sequences in one pass.
        number: bytes of an activation.
        by_hand: the hand-written backward.
        gloo: on CPUs, where DTensor makes an all-gather of each all-to-all.
    """
    n, sequence = parallel.tensor, parallel.sequence
    stream = number * batch * seq_len * config.dim
    gather, scatter = (
        Collective(kind, stream, n, "tensor") for kind in ("all-gather", "reduce-scatter")
    )
    sum_ = Collective("all-reduce", stream, n, "tensor")
    again = parallel.recompute != "none"
    if sequence:
        gathers = 4 + 2 * again + 2 * by_hand
        scatters = 4 + again + (again and by_hand)
        found = [gather] * (gathers * config.n_layers) + [scatter] * (scatters * config.n_layers)
        norm = Collective("all-reduce", number * config.dim, n, "tensor")  # of its gradient
        found += [norm] * (2 * config.n_layers + 1)
        turned = gather if gloo else Collective("all-to-all", stream, n, "tensor")
        found += [turned] * 2  # embeddings: from a slice of the features to one of the sequence
        found += [gather, scatter]  # around the output matrix
    else:
        sums = 4 + again + (again and by_hand)
        found = [sum_] * (sums * config.n_layers) + [gather, sum_]
    positions = batch * seq_len
    # In the loss the maximum and the sum of each position's logits, and at last their mean.
    numbers = positions, positions, 1
    found += [Collective("all-reduce", 4 * number, n, "tensor") for number in numbers]
    return found


def step_traffic(
    config: ModelConfig,
    parallel: ParallelConfig,
    world_size: int,
    batch: int,
    seq_len: int,
    passes: int = 1,
    number: int = 4,
    by_hand: bool = False,
    gloo: bool = False,
) -> list[Collective]:
    """All that a process sends in a step of ``passes`` micro-batches of ``batch`` sequences.

    Args:
        number: bytes of an activation and of a gathered weight: 4 in float32, 2 in bfloat16.
        by_hand, gloo: see ``tensor_parallel``.
    """
    if world_size == 1:
        return []
    if parallel.is_plain(world_size):
        return data_parallel(config, world_size)
    found = fully_sharded(config, parallel, world_size, passes, number)
    if parallel.tensor > 1:
        found += tensor_parallel(config, parallel, batch, seq_len, number, by_hand, gloo) * passes
    return found


@contextmanager
def counted_bytes(mesh: DeviceMesh | None = None) -> Iterator[list[Collective]]:
    """List every collective that this process takes part in, within the context.

    It sees what torch's dispatcher sees: DDP, FSDP, DTensor and calls of ``torch.distributed``, on
    any backend, also the fake one; not what a compiled block sends. A group takes its axis from
    ``mesh``; what lies along none of its dimensions, or without a mesh, counts as replicate.

    >>> with counted_bytes() as sent:
    ...     loss.backward()
    >>> totals(sent)
    """
    found: list[Collective] = []
    names = mesh.mesh_dim_names if mesh else ()
    axes = {_ranks(mesh.get_group(name)): name for name in names}
    with _Count(found, axes):
        yield found


class _Count(TorchDispatchMode):
    """Looks at each operation on its way, after DTensor has resolved it into plain ones."""

    KINDS = ("all-gather", "all-reduce", "reduce-scatter", "broadcast", "all-to-all")

    def __init__(self, found: list[Collective], axes: dict[tuple[int, ...], str]) -> None:
        super().__init__()
        self.found, self.axes = found, axes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented
        kwargs = kwargs or {}
        namespace, _, name = getattr(func, "_schema", func).name.partition("::")
        if namespace in ("c10d", "_c10d_functional"):
            letters = name.replace("_", "")  # allgather_, all_gather_into_tensor, ...
            for kind in self.KINDS:
                if letters.startswith(kind.replace("-", "")):
                    self._note(_collective(kind, args, kwargs, self.axes))
        return func(*args, **kwargs)

    def _note(self, collective: Collective) -> None:
        if collective.processes > 1:
            self.found.append(collective)


def _collective(
    kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], axes: dict[tuple[int, ...], str]
) -> Collective:
    """Read size and group from an operation's arguments.

    Of c10d: outputs before inputs, and a group object. Of functional ones: inputs, a group's name.
    """
    name, boxed = None, None
    for value in (*args, *kwargs.values()):
        if isinstance(value, str):
            name = value
        elif isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type()):
            boxed = value
    of_c10d = boxed is not None
    group = dist.ProcessGroup.unbox(boxed) if of_c10d else _resolve_process_group(name)
    size, inputs = group.size(), _bytes(args[0])
    if of_c10d and kind == "all-gather":
        payload = inputs  # its outputs, really
    elif of_c10d and kind == "reduce-scatter":
        payload = _bytes(args[1])
    elif kind in ("all-gather", "all-to-all"):
        payload = inputs * size
    else:
        payload = inputs
    return Collective(kind, payload, size, axes.get(_ranks(group), "replicate"))


def _ranks(group: dist.ProcessGroup) -> tuple[int, ...]:
    return tuple(dist.get_process_group_ranks(group))


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
