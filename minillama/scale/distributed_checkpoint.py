"""Saving and restoring a model that is spread over many processes, and saving while training.

Any form of a checkpoint continues on any number of processes: what was saved on 2 x 2 processes,
or on one, is read by 1, 2 or 4, each taking from the files what is its own. Only weights, moments
and step counts are stored; rates and decays come from the configuration.
"""

import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.tensor import DTensor

from minillama.errors import CheckpointError
from minillama.model import Llama
from minillama.scale.checkpoint_storage import (
    INDEX,
    Entry,
    Piece,
    PieceReader,
    PieceWriter,
    fill,
    read_index,
)
from minillama.train import checkpoint
from minillama.train.backend import LocalBackend

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight: updates so far, mean gradient, mean squared gradient."""


class Saver:
    """Writes the checkpoints of a run, if asked while training goes on.

    All ranks call ``save`` and ``wait`` at the same steps. In the background at most one checkpoint
    is being written, from a copy in the CPU's memory; a failure is raised by the next call.

    Args:
        run: the run folder.
        keep: steps whose checkpoints are kept for good.
        world: with a mesh every rank writes its pieces, otherwise the first rank writes all.
        background: return as soon as the copy is made.
    """

    def __init__(
        self, run: Path, keep: set[int], world: LocalBackend, background: bool = False
    ) -> None:
        self.run, self.keep, self.world, self.background = run, keep, world, background
        # A group of its own: two threads must not talk at once over the same connections.
        self._group = dist.new_group(backend="gloo") if world.mesh else None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, step: int, model: Llama, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> None:
        """Write the checkpoint of ``step`` and delete those that are no longer needed.

        Raises:
            CheckpointError: it, or the one before in the background, could not be written.
        """
        self.wait()
        copied = copy if self.background else lambda values: values
        write: Callable[[], object]
        if self.world.mesh:
            tensors = copied(named_tensors(model, optimizer))
            write = partial(save_pieces, self.run, step, tensors, state, self._group)
        elif self.world.is_main:
            weights, moments = copied(model.state_dict()), copied(optimizer.state_dict())
            write = partial(checkpoint.write, self.run, step, weights, moments, state)
        else:
            return
        if not self.background:
            self._finish(write)
            return
        self._thread = threading.Thread(target=self._try, args=(write,), daemon=True)
        self._thread.start()

    def _finish(self, write: Callable[[], object]) -> None:
        write()
        if self.world.is_main:
            checkpoint.prune(self.run, self.keep)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            self._finish(write)
        except BaseException as error:  # raised again where the loop can see it
            self._error = error

    @property
    def failed(self) -> bool:
        """Whether the checkpoint in the background could not be written, as far as is known."""
        return self._error is not None

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            CheckpointError: it could not be written, on whatever rank.
        """
        if not self.background:
            return
        if self._thread:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error and not isinstance(error, CheckpointError):
            raise error
        told = (error.what, error.mend) if error else None
        for failure in gather(told, self.world):
            if failure:
                raise CheckpointError(*failure) from error


def gather(value: Any, world: LocalBackend) -> list[Any]:
    """The ``value`` of every rank, on every rank."""
    values = [value] * world.size
    if world.size > 1:
        dist.all_gather_object(values, value)
    return values


def copy(values: Any) -> Any:
    """Tensors, in dictionaries and lists, copied to the CPU; other values as they are."""
    if isinstance(values, dict):
        return {key: copy(value) for key, value in values.items()}
    if isinstance(values, list):
        return [copy(value) for value in values]
    return values.detach().to("cpu", copy=True) if isinstance(values, Tensor) else values


def named_tensors(model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that a checkpoint keeps: weights by name, moments by ``exp_avg:`` and that name."""
    tensors = dict(model.state_dict())
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, moments in optimizer.state.items():
        for kind in MOMENTS:
            tensors[f"{kind}:{names[parameter]}"] = moments[kind]
    return tensors


def start_moments(optimizer: torch.optim.Optimizer) -> None:
    """Make room for the moments of an optimizer that has not moved yet: zeros."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            device = parameter.device if group["fused"] or group["capturable"] else "cpu"
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def save_pieces(
    run: Path,
    step: int,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Write a checkpoint of which every rank holds pieces; all ranks call this.

    Raises:
        CheckpointError: a rank could not write; earlier checkpoints are untouched.
    """
    target = checkpoint.folder(run, step)
    writer = PieceWriter(target, {**state, "step": step})
    try:
        dcp.save(tensors, storage_writer=writer, process_group=group)
    except dcp.CheckpointException as failed:
        if dist.get_rank() == 0:
            writer.give_up()
        rank, (error, _) = sorted(failed.failures.items())[0]
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
    start_moments(optimizer)
    reader = PieceReader(where, read_index(where)) if sharded else whole(where, model, optimizer)
    path = where / (INDEX if sharded else "model.safetensors")
    fill(reader, named_tensors(model, optimizer), path, together=dist.is_initialized())


def whole(where: Path, model: Llama, optimizer: torch.optim.Optimizer) -> PieceReader:
    """Reads a checkpoint of one process as if its tensors were pieces; the files stay on disk."""
    index = {}
    with safe_open(where / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (no dictionary)
            shape = tuple(file.get_slice(name).get_shape())
            index[name] = Entry(shape, (Piece("model.safetensors", (0,) * len(shape), shape),))
    saved = checkpoint.load_optimizer(where / "optimizer.pt", on_disk=True)["state"]
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    moments = {
        f"{kind}:{name}": saved[number][kind] for number, name in enumerate(order)
        for kind in saved.get(number, ())
    }  # fmt: skip
    return PieceReader(where, index, moments)


def last_good(run: Path, world: LocalBackend) -> int | None:
    """The newest step whose checkpoint is whole, the same on all ranks; each sums some files."""
    if world.size == 1:
        return checkpoint.last_good(run)
    for step in reversed(gather(checkpoint.steps(run), world)[0]):
        problem = None
        try:
            checkpoint.verify(checkpoint.folder(run, step), world.rank, world.size)
        except CheckpointError as error:
            problem = str(error)
        found = [told for told in gather(problem, world) if told]
        if not found:
            return step
        warnings.warn(f"skipping a damaged checkpoint: {found[0]}", stacklevel=2)
    return None
