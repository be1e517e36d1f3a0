"""The processes of a run: one by default, many under torchrun."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from minillama.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process's place: rank ``rank`` of ``size``, computing on ``device``."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of ``values`` over all processes (in place)."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


def join_world(device: str) -> World:
    """Join the process group that torchrun describes in the environment, if any."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but torch sees no GPU", "use --device cpu")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device(device)
    if device == "cuda":
        place = torch.device(device, int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if size == 1:
        return World(0, 1, place)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return World(dist.get_rank(), size, place)


def leave_world() -> None:
    """Close the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
