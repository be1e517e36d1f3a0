"""Saving and restoring a model that is spread over many processes, and saving while training.

Who writes what, copies only once, and who must read which part of which file on another mesh is
planned by ``torch.distributed.checkpoint``, which also writes and reads the safetensors files. So
any form of a checkpoint continues on any number of processes: what was saved on 2 x 2 processes, or
on one, is read by 1, 2 or 4. Only weights and the optimizer's tensors are stored; rates and decays
come from the configuration.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.tensor import DTensor
from typing_extensions import override

from minillama.errors import CheckpointError
from minillama.files import atomic_path, remove, sha256, write_json
from minillama.model import Llama
from minillama.parallel.initialize import keep_shard
from minillama.train import checkpoint
from minillama.train.backend import LocalBackend


class Saver(checkpoint.LocalSaver):
    """Writes the checkpoints of a run on many processes.

    All ranks call ``save`` and ``wait`` at the same steps; a failure is raised on all of them.

    Args:
        run: the run folder.
        keep: steps whose checkpoints are kept for good.
        world: with a mesh every rank writes its shards, otherwise the first rank writes all.
        background: return as soon as a copy is made.
    """

    def __init__(
        self, run: Path, keep: set[int], world: LocalBackend, background: bool = False
    ) -> None:
        super().__init__(run, keep, background)
        self.world = world
        # A group of its own: two threads must not talk at once over the same connections.
        self._group = dist.new_group(backend="gloo") if world.mesh else None

    @override
    def collect(self, model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        if self.world.mesh:
            return named_tensors(model, optimizer)
        return super().collect(model, optimizer) if self.world.is_main else {}

    @override
    def write(self, step: int, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        if self.world.mesh:
            save_shards(self.run, step, tensors, state, self._group)
            if self.world.is_main:
                checkpoint.prune(self.run, self.keep)
        elif self.world.is_main:
            super().write(step, tensors, state)

    @override
    def wait(self) -> None:
        if self._executor is None:
            return
        error = self._writing.exception() if self._writing else None
        self._writing = None
        raise_everywhere(error)


def raise_everywhere(error: BaseException | None) -> None:
    """Raise, on all ranks, the ``CheckpointError`` of the first of them that has one."""
    if error and not isinstance(error, CheckpointError):
        raise error
    for failure in gather((error.what, error.hint) if error else None):
        if failure:
            raise CheckpointError(*failure) from error


def gather(value: Any) -> list[Any]:
    """The ``value`` of every rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def named_tensors(model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that a checkpoint keeps: weights by name, moments by ``state.``, that name and theirs.

    An optimizer that has not moved yet gets its moments: zeros.
    """
    weights = model.state_dict()  # first: FSDP puts the shards back in place of gathered weights
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    values = get_optimizer_state_dict(model, optimizer, options=options)
    moments = {name: values[name] for name in values if name.startswith(checkpoint.OPTIMIZER)}
    return weights | moments


class ShardWriter(dcp.HuggingFaceStorageWriter):
    """Writes a checkpoint beside its place, and moves it there when all ranks have written.

    Args:
        target: the checkpoint's folder, on a disk that all ranks see.
        names: of the tensors: those of the optimizer go to a file of their own.
        state: written to state.json by the first rank.
    """

    def __init__(self, target: Path, names: list[str], state: dict[str, Any]) -> None:
        self.target, self.state = target, state
        self.tmp = target.with_name(f".{target.name}.written.tmp")
        files = dict.fromkeys(names, 1)
        for name in names:
            if name.startswith(checkpoint.OPTIMIZER):
                files[name] = 2
        super().__init__(str(self.tmp), files, save_distributed=True)

    def prepare_global_plan(self, plans: list[dcp.SavePlan]) -> list[dcp.SavePlan]:
        """Empty the folder, on the first rank, of what a crash has left there."""
        remove(self.tmp)
        self.tmp.mkdir(parents=True)
        return super().prepare_global_plan(plans)

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> torch.futures.Future:
        """Write this rank's files; the future has their names and digests."""
        written = super().write_data(plan, planner).wait()
        digests = {}
        for name in {result.storage_data.relative_path for result in written}:
            digests[name] = sha256(self.tmp / name)
        future: torch.futures.Future = torch.futures.Future()
        future.set_result(digests)
        return future

    def finish(self, metadata: dcp.Metadata, results: list[dict[str, str]]) -> None:
        """Write state and manifest, and give the folder its name, on the first rank."""
        write_json(self.tmp / "state.json", self.state)
        digests = {"state.json": sha256(self.tmp / "state.json")}
        for of_rank in results:
            digests.update(of_rank)
        write_json(self.tmp / "manifest.json", dict(sorted(digests.items())))
        checkpoint.delete(self.target)
        with atomic_path(self.target) as last:
            os.replace(self.tmp, last)


def save_shards(
    run: Path,
    step: int,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Write a checkpoint of which every rank holds a part; all ranks call this.

    Raises:
        CheckpointError: a rank could not write; earlier checkpoints are untouched.
    """
    target = checkpoint.folder(run, step)
    writer = ShardWriter(target, list(tensors), {**state, "step": step})
    try:
        dcp.save(tensors, storage_writer=writer, process_group=group)
    except dcp.CheckpointException as failed:
        if dist.get_rank() == 0:
            remove(writer.tmp)
        rank, (error, _) = min(failed.failures.items())
        raise checkpoint.cannot_write(target, error, f" (rank {rank})") from None
    return target


def restore(run: Path, step: int, model: Llama, optimizer: torch.optim.Optimizer) -> None:
    """Load a step's weights and moments in place, from either form, into a model of either form.

    All ranks of a run call this.

    Raises:
        CheckpointError: the checkpoint holds another model.
    """
    where = checkpoint.folder(run, step)
    sharded = checkpoint.is_sharded(where)
    if not sharded and not any(isinstance(p, DTensor) for p in model.parameters()):
        checkpoint.restore(run, step, model, optimizer)
        return
    tensors = named_tensors(model, optimizer)
    if sharded:
        checkpoint.read_tensors(where, tensors, together=dist.is_initialized())
        return
    checkpoint.read_tensors(where, model.state_dict(), together=dist.is_initialized())
    # Of one process's moments, which stay on the disk, each rank copies its part.
    saved = checkpoint.load_optimizer(where / "optimizer.pt", on_disk=True)["state"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        for kind, moment in optimizer.state[parameter].items():
            keep_shard(moment, saved[number][kind])


def last_good(run: Path, world: LocalBackend) -> int | None:
    """The newest step whose checkpoint is whole, the same on all ranks; each sums some files."""
    for step in reversed(gather(checkpoint.steps(run))[0]):
        error = None
        try:
            checkpoint.verify(checkpoint.folder(run, step), world.rank, world.size)
        except CheckpointError as damage:
            error = damage
        try:
            raise_everywhere(error)
            return step
        except CheckpointError as damage:
            warnings.warn(f"skipping a damaged checkpoint: {damage}", stacklevel=2)
    return None
