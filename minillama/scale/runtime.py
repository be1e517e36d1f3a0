"""The processes of a run under torchrun: what the training loop asks of its backend, for many."""

import dataclasses
import faulthandler
import json
import os
import sys
import threading
import warnings
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import ConfigError, MinillamaError
from minillama.model import Llama
from minillama.parallel.fsdp import parallelize, send_gradients
from minillama.parallel.initialize import initialize
from minillama.parallel.mesh import ParallelConfig, build_mesh
from minillama.scale import distributed_checkpoint
from minillama.scale.rendezvous import first_to_report, meet, place_in_world, reporting_once
from minillama.train.backend import LocalBackend
from minillama.train.config import TrainConfig
from minillama.train.loop import train
from minillama.train.stop import Interrupted

FIRST_STEP = 3
"""The first step, with all that comes before it, has this many times as long: it compiles."""


class DistributedBackend(LocalBackend):
    """Rank ``rank`` of ``size`` processes; ``mesh``: how the model is spread over them, if it is.

    A rank ends if no step finishes for ``hang_seconds``; 0 for no limit.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, mesh: DeviceMesh | None = None,
        hang_seconds: float = 0,
    ) -> None:  # fmt: skip
        super().__init__(device)
        self.rank, self.size = rank, size
        self.is_main = rank == 0
        self.mesh = mesh
        tensor = mesh["tensor"].size() if mesh else 1  # so many ranks read the same sequences
        self.data_rank = rank // tensor
        self.data_size = size // tensor
        self.hang_seconds = hang_seconds
        self._timer = threading.Timer(0, self._give_up)

    @override
    def build_model(self, config: TrainConfig) -> tuple[Llama, nn.Module]:
        if self.mesh is None:
            return super().build_model(config)
        with torch.device("meta"):
            model = Llama(config.model)
        by_hand = config.backward == "by_hand"
        parallelize(model, config.parallel, self.mesh, config.dtype, config.compile, by_hand)
        initialize(model, self.device, config.seed)
        return model, model

    @override
    def wrap(self, model: Llama, config: TrainConfig) -> nn.Module:
        if config.backward == "by_hand":
            differentiate_by_hand(model)
        recompute_blocks(model, config.parallel.recompute)
        module: nn.Module = torch.compile(model) if config.compile else model
        if self.size == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        warnings.filterwarnings("ignore", ".*broadcast_buffers")  # has another name in torch 2.13
        return DistributedDataParallel(
            module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    @override
    def micro_batch(
        self, module: nn.Module, config: TrainConfig, last: bool
    ) -> AbstractContextManager:
        stack = ExitStack()
        stack.enter_context(send_gradients(module, config.parallel, last))
        if not isinstance(module, FSDPModule):  # which lowers the precision by itself
            stack.enter_context(super().micro_batch(module, config, last))
        return stack

    @override
    def mean(self, values: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    @override
    def maximum(self, number: int) -> int:
        return max(self.gather(number))

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every rank, on every rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    @override
    def agree(self, facts: dict[str, Any]) -> None:
        notes = self.gather(facts)
        for name in sorted(set().union(*notes)):
            values = [json.dumps(note.get(name)) for note in notes]
            (common, _), *others = Counter(values).most_common()
            if others:
                odd = others[0][0]
                what = f"{odd} on rank {values.index(odd)}, {common} on most others"
                hint = "start all of them from the same files and with one command"
                raise ConfigError(f"the processes disagree on {name}: {what}", hint)

    @override
    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    @override
    def beat(self, patience: float = 1) -> None:
        self._timer.cancel()
        if self.size > 1 and self.hang_seconds:
            limit = patience * self.hang_seconds
            self._timer = threading.Timer(limit, self._give_up)
            self._timer.daemon = True
            self._timer.start()
            faulthandler.dump_traceback_later(2 * limit, exit=True, file=2)  # if even Python hangs

    def _give_up(self) -> None:
        """No step finishes: one rank says so, each shows its stacks and ends."""
        if first_to_report():
            what = f"no step has finished for {self._timer.interval:g} s; the stacks follow"
            hint = "if steps, validation and checkpoints take so long, raise --hang-seconds"
            print(f"[rank {self.rank}] error: {MinillamaError(what, hint)}", file=sys.stderr)
        faulthandler.dump_traceback(file=2)
        os._exit(1)

    def leave(self) -> None:
        """Close the process group."""
        self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()
        if dist.is_initialized():
            dist.destroy_process_group()

    @override
    def last_good(self, run: Path) -> int | None:
        return distributed_checkpoint.last_good(run, self)

    @override
    def restore(self, run: Path, step: int, model: Llama, optimizer: torch.optim.Optimizer) -> None:
        distributed_checkpoint.restore(run, step, model, optimizer)

    @override
    def saver(self, config: TrainConfig) -> distributed_checkpoint.Saver:
        keep = config.milestone_steps()
        return distributed_checkpoint.Saver(config.run, keep, self, config.async_save)


def train_distributed(config: TrainConfig) -> Path:
    """``train`` by all processes that torchrun has started, or by this one alone.

    Raises:
        ConfigError, DataError, CheckpointError, Interrupted: as ``train``, on one rank.
        RankError: another rank was killed.
        SystemExit: another rank has reported what is wrong.
    """
    # Under torchrun an error also goes to the file that it reads.
    run = record(_train_with_others) if dist.is_torchelastic_launched() else _train_with_others
    return run(config)


def _train_with_others(config: TrainConfig) -> Path:
    with reporting_once():
        backend = join_world(config.device, config.parallel, config.hang_seconds, facts(config))
        try:
            train(config, backend)
        except Interrupted:  # all of them; after a failure of one the others would wait here
            backend.leave()
            raise
        backend.leave()
    return config.run


def facts(config: TrainConfig) -> dict[str, Any]:
    """What all ranks must have in common; the corpus may lie elsewhere on another machine."""
    found: dict[str, Any] = {"the version of torch": torch.__version__}
    settings = dataclasses.asdict(config)
    del settings["corpus"], settings["threads"]
    for name, value in settings.items():
        if not isinstance(value, dict):
            found[name] = value
            continue
        for key, part in value.items():
            found[f"{name}.{key}"] = part
    return found


def join_world(
    device: str, parallel: ParallelConfig | None = None, hang_seconds: float = 0,
    settings: dict[str, Any] | None = None,
) -> DistributedBackend:  # fmt: skip
    """Join the processes that torchrun has started, if any, on a mesh if ``parallel`` needs one.

    Raises:
        ConfigError: no such device, a rank did not come or has other ``settings``, or the mesh
            does not fit the number of processes.
    """
    rank, size = place_in_world()
    place = LocalBackend(device).device
    if place.type == "cuda":
        place = torch.device("cuda", local_gpu(torch.cuda.device_count()))
        torch.cuda.set_device(place)
    if size > 1:
        kind = "nccl" if place.type == "cuda" else "gloo"
        timeout = timedelta(seconds=FIRST_STEP * hang_seconds + 60) if hang_seconds else None
        store = meet(rank, size)
        dist.init_process_group(kind, store=store, rank=rank, world_size=size, timeout=timeout)
        # Collectives are called by the names that torch 2.9 knows; 2.13 has new ones.
        warnings.filterwarnings("ignore", "`torch.distributed.* is deprecated", FutureWarning)
    DistributedBackend(rank, size, place).agree(settings or {})
    plain = parallel is None or parallel.is_plain(size)
    mesh = None if plain else build_mesh(parallel, size, place.type)
    backend = DistributedBackend(rank, size, place, mesh, hang_seconds)
    backend.beat(FIRST_STEP)
    return backend


def local_gpu(count: int) -> int:
    """Which of this machine's ``count`` GPUs is this process's, as torchrun's LOCAL_RANK tells."""
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= count:
        hint = f"start at most {count} processes on this machine (--nproc-per-node)"
        raise ConfigError(f"LOCAL_RANK = {number}, but torch sees {count} GPUs here", hint)
    return number
