"""The processes of a run: one by default, many under torchrun."""

import os
import warnings
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from minillama.errors import ConfigError
from minillama.parallel.mesh import AXES, ParallelConfig, build_mesh
from minillama.scale.crew import Crew
from minillama.scale.meeting import place_in_world


@dataclass(frozen=True)
class World:
    """This process's place: rank ``rank`` of ``size``, computing on ``device``."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None = None
    """How the model is spread over the processes; None if each of them holds all of it."""
    crew: Crew = field(default_factory=Crew)
    """How this process fares among the others."""

    @property
    def data_rank(self) -> int:
        """Which part of a batch is this process's; the ranks of a tensor group read the same."""
        return self.rank // self._tensor

    @property
    def data_size(self) -> int:
        """Into how many parts a batch is cut."""
        return self.size // self._tensor

    @property
    def _tensor(self) -> int:
        return self.mesh["tensor"].size() if self.mesh else 1

    def describe(self) -> str:
        """One line for the log: rank, place in the mesh, device, version of torch."""
        where = "plain"
        if self.mesh:
            place = zip(AXES, self.mesh.get_coordinate(), strict=True)
            where = ", ".join(f"{axis} {number}" for axis, number in place)
        device = str(self.device)
        if self.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self.device)})"
        return f"rank {self.rank} of {self.size} ({where}), {device}, torch {torch.__version__}"

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


def join_world(
    device: str, parallel: ParallelConfig | None = None, crew: Crew | None = None
) -> World:
    """Join the process group that torchrun describes in the environment, if any.

    Raises:
        ConfigError: no such device, or a mesh that does not fit the number of processes.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but torch sees no GPU", "use --device cpu")
    crew = crew or Crew()
    rank, size = place_in_world()
    plain = parallel is None or parallel.is_plain(size)
    place = torch.device(device)
    if device == "cuda":
        place = torch.device(device, local_gpu(torch.cuda.device_count()))
        torch.cuda.set_device(place)
    if size == 1:
        return World(0, 1, place, crew=crew)
    patience = timedelta(seconds=crew.patience) if crew.patience else None
    met = {}  # else at torchrun's address
    if crew.board:
        met = {"store": crew.board.group_store(), "rank": rank, "world_size": size}
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=patience, **met)
    # Collectives are called by the names that torch 2.9 knows; 2.13 has new ones.
    warnings.filterwarnings("ignore", "`torch.distributed.* is deprecated", FutureWarning)
    mesh = None if plain else build_mesh(parallel, size, device)
    return World(rank, size, place, mesh, crew)


def local_gpu(count: int) -> int:
    """Which of this machine's ``count`` GPUs is this process's, as torchrun's LOCAL_RANK tells."""
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= count:
        raise ConfigError(
            f"LOCAL_RANK = {number}, but torch sees {count} GPUs here",
            f"start at most {count} processes on this machine (--nproc-per-node)",
        )
    return number


def leave_world() -> None:
    """Close the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
