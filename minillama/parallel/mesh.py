"""The mesh: which processes share one copy of the weights, and which split every matrix.

The processes of a run are laid out as a box of ``replicate`` x ``shard`` x ``tensor``:

- the ranks along ``tensor`` read the same sequences and each multiply by a piece of every matrix
  (``parallel.tensor``); they talk in every layer, so they are neighbors: ranks 0, 1, 2, ...;
- the ranks along ``shard`` read different sequences and each keep a piece of the weights,
  gradients and moments (``parallel.fsdp``);
- along ``replicate``, all that is repeated, and gradients are averaged: hybrid sharding.
"""

from dataclasses import dataclass
from typing import Literal

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from minillama.config import ModelConfig
from minillama.errors import ConfigError

AXES = ("replicate", "shard", "tensor")


@dataclass(frozen=True)
class ParallelConfig:
    """How a model is spread over processes (Section 2.4)."""

    shard: int = 1
    """Processes that share one copy of weights, gradients and moments; 0: all that are left."""
    tensor: int = 1
    """Processes that split every matrix."""
    sequence: bool = True
    """With tensor > 1: what lies between the matrices is split too, along the sequence."""
    gather: Literal["micro_batch", "step"] = "micro_batch"
    """With shard > 1: when weights are gathered whole. In every micro_batch, one block at a time;
    or once a step, which sends less but keeps whole weights and gradients on every process."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What of a block is computed again in the backward pass, to keep fewer activations."""

    def __post_init__(self) -> None:
        if self.shard < 0:
            raise ConfigError(f"parallel.shard = {self.shard}", "use 1 or more; 0 for all")
        if self.tensor < 1:
            raise ConfigError(f"parallel.tensor = {self.tensor}", "it must be at least 1")

    def shape(self, world_size: int) -> tuple[int, int, int]:
        """``(replicate, shard, tensor)``, whose product is the number of processes.

        Raises:
            ConfigError: too few processes, or a number that the mesh does not divide.
        """
        shard = self.shard or max(1, world_size // self.tensor)
        mesh = f"parallel.shard = {shard} x parallel.tensor = {self.tensor}"
        if world_size < shard * self.tensor:
            raise ConfigError(
                f"{mesh} needs {shard * self.tensor} processes, and there are {world_size}",
                f"start it with torchrun --nproc-per-node={shard * self.tensor}",
            )
        replicate, rest = divmod(world_size, shard * self.tensor)
        if rest:
            raise ConfigError(
                f"{mesh} does not divide the {world_size} processes",
                f"start a multiple of {shard * self.tensor} processes",
            )
        return replicate, shard, self.tensor

    def is_plain(self, world_size: int) -> bool:
        """Whether every process holds the whole model: one process, or plain data parallelism."""
        return self.shape(world_size)[1:] == (1, 1)


def check_mesh(config: ParallelConfig, model: ModelConfig, world_size: int, seq_len: int) -> None:
    """Raise ``ConfigError`` unless this model can be spread over ``world_size`` processes."""
    config.shape(world_size)
    if config.tensor == 1:
        return
    counts = {
        f"the model's {model.n_heads} heads": model.n_heads,
        f"the feed-forward width of {model.hidden_dim}": model.hidden_dim,
        f"the vocabulary of {model.vocab_size}": model.vocab_size,
    }
    if config.sequence:
        counts[f"the sequence of {seq_len} tokens"] = seq_len
    for what, count in counts.items():
        if count % config.tensor:
            raise ConfigError(
                f"parallel.tensor = {config.tensor} does not divide {what}",
                f"choose one of {divisors(list(counts.values()))}",
            )


def divisors(counts: list[int]) -> list[int]:
    """The numbers that divide all of ``counts``."""
    return [n for n in range(1, min(counts) + 1) if not any(count % n for count in counts)]


def build_mesh(config: ParallelConfig, world_size: int, device_type: str) -> DeviceMesh:
    """The processes as a mesh with the dimensions ``AXES``. All of them must call it.

    Rank r has the coordinates (r // tensor // shard, r // tensor % shard, r % tensor).
    """
    return init_device_mesh(device_type, config.shape(world_size), mesh_dim_names=AXES)
