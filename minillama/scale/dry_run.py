"""What every rank of a cluster would hold and send, found out by one process without a GPU.

``minillama train --preset 65b --dry-run`` builds the run's model and takes one step, by the very
functions of training. Two stand-ins make that possible on any machine: torch's fake process group,
in which one process plays any rank of 2,048 and every collective is answered at once, and fake
tensors, of which each operation computes shape, type and size but no numbers.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from minillama.corpus.token_files import open_corpus
from minillama.efficient.memory_mode import MemoryMode
from minillama.errors import ConfigError, DataError
from minillama.model import Llama
from minillama.parallel.communication import Collective, counted_bytes, step_traffic, totals
from minillama.parallel.memory import GIB, GPUS, flops_per_token, memory_per_gpu
from minillama.parallel.mesh import AXES, build_mesh, check_mesh
from minillama.scale.launcher import launch
from minillama.scale.runtime import DistributedBackend
from minillama.tables import text_table
from minillama.train.config import TrainConfig, preset_world
from minillama.train.loop import backward
from minillama.train.optimizer import build_optimizer

TIMEOUT = 1800
"""Seconds after which a dry run is given up; 65B takes about one minute on two free cores."""
GPU = "a100-80gb"
MFU = 0.5
"""The paper's GPU, and the share of its peak that training is assumed to reach (it had 49%)."""
ON_GPUS = "Two of the tensor all-gathers, at the embeddings, are smaller all-to-alls on GPUs."


@dataclass(frozen=True)
class Rank:
    """What one rank holds after a simulated step, and what it sent in it."""

    rank: int
    place: tuple[int, ...]
    """Its coordinates along ``AXES``."""
    parameters: int
    """Numbers of the model that it holds."""
    shards: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Parameters outside of layers and of the first layer: whole shape, and shape of its shard."""
    held: dict[str, int]
    """Bytes of its weights, their gradients and Adam's moments."""
    peak: int
    """Bytes in use at once during forward and backward, when Adam's moments rest."""
    sent: list[Collective]


@dataclass(frozen=True)
class DryRun:
    """A run's plan on a cluster; ``str`` of it is what ``minillama train --dry-run`` prints."""

    config: TrainConfig
    world: int
    ranks: tuple[Rank, ...] = ()

    @property
    def mesh(self) -> tuple[int, int, int]:
        """Sizes of ``AXES``."""
        return self.config.parallel.shape(self.world)

    @property
    def sequences(self) -> int:
        """Sequences that a rank reads in a step; those of one tensor group read the same."""
        return self.config.batch_sequences * self.mesh[2] // self.world

    @property
    def micro_batch(self) -> int:
        """Sequences in one forward pass."""
        return min(self.config.micro_batch, self.sequences)

    @property
    def passes(self) -> int:
        """Forward passes of a rank in a step: the gradient accumulates over them."""
        return -(-self.sequences // self.micro_batch)

    @property
    def memory(self) -> dict[str, float]:
        """Bytes on each GPU by the calculator of ``parallel.memory``."""
        _, shard, tensor = self.mesh
        config, parallel = self.config, self.config.parallel
        by_hand = parallel.recompute == "none" and config.backward == "by_hand"
        return memory_per_gpu(
            replace(config.model, max_seq_len=config.seq_len),
            shard * tensor,
            tensor,
            self.micro_batch,
            "by_hand" if by_hand else parallel.recompute,
            passes=self.passes,
            products=config.dtype,
            sequence=parallel.sequence,
            gather=parallel.gather,
        )

    @property
    def traffic(self) -> list[Collective]:
        """What each rank sends in a step by the formulas of ``parallel.communication``.

        Sent as CPUs send it, like the simulated ranks; see ``ON_GPUS``.
        """
        config = self.config
        return step_traffic(
            config.model,
            config.parallel,
            self.world,
            self.micro_batch,
            config.seq_len,
            self.passes,
            2 if config.dtype == "bfloat16" else 4,
            config.backward == "by_hand",
            gloo=True,
        )

    @property
    def days(self) -> float:
        """From the first step to the last on GPUs of the paper's kind."""
        flops = flops_per_token(self.config.model, self.config.seq_len) * self.config.tokens
        return flops / (MFU * GPUS[GPU].peak * self.world) / 86_400

    def summary(self) -> list[str]:
        """Mesh, memory, batch and time: the lines that also open the presets."""
        replicate, shard, tensor = self.mesh
        mesh = f"replicate {replicate} x shard {shard} x tensor {tensor}"
        need = sum(self.memory.values()) / GIB
        sequences = "1 sequence" if self.sequences == 1 else f"{self.sequences} sequences"
        each = "each" if tensor == 1 else f"each {tensor} together"
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        return [
            f"{self.world:,} x {GPU}, {mesh}: {need:.0f} of {GPUS[GPU].memory} GiB used.",
            f"{sequences} a step on {each}, in {passes} of {self.micro_batch}; "
            f"{self.days:.1f} days at {MFU:.0%} of peak.",
        ]

    def render(self) -> str:
        """The summary, then what each simulated rank holds and sends."""
        rows: list[list[str]] = []

        def add(name: str, of_rank: Callable[[Rank], str] = lambda _: "", last: str = "") -> None:
            rows.append([name, *map(of_rank, self.ranks), last])

        add(" x ".join(AXES), lambda rank: times(rank.place))
        add("parameters held", lambda rank: f"{rank.parameters:,}")
        add("")
        add("shards", last="whole")
        for name, (whole, _) in self.ranks[0].shards.items():
            add(name, lambda rank, name=name: times(rank.shards[name][1]), times(whole))
        add("")
        add("memory, GiB", lambda _: "after the step", "at the peak")
        for name, size in self.memory.items():
            add(name, lambda rank, name=name: gib(rank.held.get(name)), gib(size))
        calculated = sum(self.memory.values()) - self.memory["Adam's moments"]
        add("peak without moments", lambda rank: gib(rank.peak), gib(calculated))
        add("")
        add("sent in a step, GiB", last="calculated")
        formula = bytes_sent(self.traffic)
        for key in sorted(formula.keys() | bytes_sent(self.ranks[0].sent).keys()):
            of_rank = lambda rank, key=key: gib(bytes_sent(rank.sent).get(key, 0))  # noqa: E731
            add(" ".join(key), of_rank, gib(formula.get(key, 0)))
        add("collectives", lambda rank: f"{len(rank.sent):,}")

        config = self.config
        lines = [
            f"{config.name}: {config.model.num_parameters():,} parameters on",
            *self.summary(),
            f"{config.batch_tokens:,} tokens a step, {config.total_steps:,} steps.",
            describe_corpus(config),
            "",
            text_table(["", *(f"rank {rank.rank:,}" for rank in self.ranks), ""], rows),
        ]
        if config.parallel.tensor > 1 and config.parallel.sequence:
            lines.append(ON_GPUS)
        return "\n".join(lines)

    __str__ = render


def bytes_sent(sent: list[Collective]) -> dict[tuple[str, str], int]:
    """Bytes along each axis of the mesh by each kind of collective."""
    return {key: size for key, (_, size) in totals(sent).items()}


def times(sizes: tuple[int, ...]) -> str:
    """``8192 x 22016``."""
    return " x ".join(map(str, sizes))


def gib(size: float | None) -> str:
    """Four digits; nothing for what is not known."""
    return "" if size is None else f"{size / GIB:.4g}"


def describe_corpus(config: TrainConfig) -> str:
    """One line on the run's corpus, by its manifest and its files' sizes: no text is read."""
    if not Path(config.corpus).exists():
        return f"{config.corpus} is not built yet."
    try:
        corpus = open_corpus(config.corpus, verify=False)
    except DataError as error:
        return f"{error}"
    tokens = sum(file.tokens for file in corpus.train.values())
    line = f"{config.corpus}: {tokens:,} tokens in {len(corpus.slices)} slices"
    if corpus.vocab_size != config.model.vocab_size:
        return f"{line}, of a vocabulary of {corpus.vocab_size}, not {config.model.vocab_size}."
    return f"{line}; the run reads {config.tokens / tokens:.2f} times as many."


def dry_run(config: TrainConfig, world: int) -> DryRun:
    """Play the first and the last of ``world`` ranks; see the head of this file.

    Raises:
        ConfigError: this model, batch or mesh cannot be spread over so many ranks.
    """
    check_mesh(config.parallel, config.model, world, config.seq_len)
    groups = world // config.parallel.tensor
    if config.batch_sequences % groups:
        raise ConfigError(
            f"{config.batch_sequences} sequences a step cannot be shared by {groups} processes",
            "choose batch_tokens = seq_len x a multiple of the number of processes",
        )
    ranks = sorted({0, world - 1})
    seen = launch(play, len(ranks), ranks, config, world, group=False, timeout=TIMEOUT)
    return DryRun(config, world, tuple(seen))


def world_of(config: TrainConfig, preset: str | None = None, requested: str | None = None) -> int:
    """How many ranks to simulate: as many as requested, else as torchrun has started.

    Else as many as the command starts that the preset opens with, or as few as the mesh takes.

    Raises:
        ConfigError: what was requested is no number of processes.
    """
    requested = requested or os.environ.get("WORLD_SIZE")
    if requested is None:
        fewest = max(1, config.parallel.shard) * config.parallel.tensor
        return (preset_world(preset) if preset else None) or fewest
    if not requested.isdecimal() or int(requested) < 1:
        raise ConfigError(f"--world {requested}", "it is a number of processes, at least 1")
    return int(requested)


def play(process: int, ranks: list[int], config: TrainConfig, world_size: int) -> Rank:
    """Be one of ``ranks`` for one step, in a process of its own: torch remembers its groups.

    Plain data parallelism is played by one rank alone, which holds and does the same; what it would
    send is taken from the formula, as DDP cannot be built without numbers.
    """
    config = replace(config, compile=False)  # a compiled block does the same, faster
    rank, meta = ranks[process], torch.device("meta")
    plain = config.parallel.is_plain(world_size)
    share = config.batch_sequences * config.parallel.tensor // world_size
    mesh = None
    if not plain:  # one of many, and what it sends arrives nowhere
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        mesh = build_mesh(config.parallel, world_size, "cpu")
    world = DistributedBackend(rank, 1 if plain else world_size, meta, mesh)
    with meta if plain else nullcontext():
        model, step_model = world.build_model(config)
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = torch.zeros(share, config.seq_len + 1, dtype=torch.int64)
        model.to_empty(device="cpu")
        played = take_step(config, world, model, step_model, batch)
    return replace(played, sent=DryRun(config, world_size).traffic) if plain else played


def take_step(
    config: TrainConfig,
    world: DistributedBackend,
    model: Llama,
    step_model: nn.Module,
    batch: Tensor,
) -> Rank:
    """Take one step, and look at what this rank holds and has sent."""
    optimizer = build_optimizer(model, config.optimizer)
    weights = {name: local_part(weight) for name, weight in model.named_parameters()}
    there = [*weights.values(), *model.buffers(), batch]
    with FakeMemory(there) as memory, counted_bytes(world.mesh) as sent:
        backward(step_model, batch, config, world)
    optimizer.step()
    moments = 0
    for state in optimizer.state.values():
        moments += local_part(state["exp_avg"]).nbytes + local_part(state["exp_avg_sq"]).nbytes
    return Rank(
        rank=world.rank,
        place=tuple(world.mesh.get_coordinate()) if world.mesh else (world.rank, 0, 0),
        parameters=sum(weight.numel() for weight in weights.values()),
        shards={
            name: (tuple(weight.shape), tuple(weights[name].shape))
            for name, weight in model.named_parameters()
            if name.startswith("layers.0.") or not name.startswith("layers.")
        },
        held={
            "weights": sum(weight.nbytes for weight in weights.values()),
            "gradients": sum(local_part(weight.grad).nbytes for weight in model.parameters()),
            "Adam's moments": moments,
        },
        peak=memory.peak,
        sent=sent,
    )


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a parameter, or of a tensor that goes with one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class FakeMemory(MemoryMode):
    """Counts fake tensors' bytes; asked for a number, which none of them has, it answers 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and DTensor not in types:
            return 1
        return super().__torch_dispatch__(func, types, args, kwargs)
