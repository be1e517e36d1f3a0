"""Several processes of the command line, forked from this one, with what each printed."""

import contextlib
import faulthandler
import itertools
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.fsdp  # noqa: F401  (once, not in every process)

from minillama.apps import cli
from minillama.train import loop
from minillama.train.config import TrainConfig, write_config


def keep_store() -> dist.TCPStore:
    """What torchrun keeps for its processes."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@dataclass
class Ranks:
    """Processes that run ``act(rank)``; torchrun's store is kept by this process.

    Nothing ends them but themselves: what torchrun would do to the others when one has failed is
    not done here, so that a rank which waits for ever is seen.
    """

    size: int
    act: Callable[[int], None]
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    agent: bool = True
    """Whether the store is kept here, as torchrun does, or by rank 0."""
    store: dist.TCPStore | None = None
    """The store of an earlier start, as torchrun keeps one for all restarts."""

    def __post_init__(self) -> None:
        self.store = self.store or keep_store()
        port = self.store.port
        if not self.agent:
            self.store = None
        # None may connect before all are forked: a child forked while the store's thread is at work
        # inherits the locks that this thread holds, and nobody there to release them.
        start, go = os.pipe()
        self.children = [self._fork(rank, port, start, go) for rank in range(self.size)]
        os.close(start)
        os.close(go)

    def _fork(self, rank: int, port: int, start: int, go: int) -> int:
        self._file(rank).unlink(missing_ok=True)
        child = os.fork()
        if child:
            return child
        code = 99
        try:
            os.close(go)
            os.read(start, 1)
            output = os.open(self._file(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (not what pytest captures)
            sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
            os.environ |= {
                "RANK": str(rank), "WORLD_SIZE": str(self.size), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "TORCHELASTIC_USE_AGENT_STORE": str(self.agent),
            } | self.environ  # fmt: skip
            torch.set_num_threads(1)
            faulthandler.register(signal.SIGUSR1, file=2)
            warnings.simplefilter("default")
            self.act(rank)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _file(self, rank: int) -> Path:
        return self.folder / f"output-{rank}.txt"

    def output(self, rank: int | None = None) -> str:
        """What a rank printed, or all of them one after the other."""
        ranks = range(self.size) if rank is None else [rank]
        return "".join(self._file(r).read_text() for r in ranks if self._file(r).exists())

    def told(self) -> list[str]:
        """The lines that are errors, warnings or the beginnings of tracebacks."""
        marks = ("error:", "warning:", "Traceback")
        return [line for line in self.output().splitlines() if any(m in line for m in marks)]

    def wait(self, seconds: float = 30) -> list[int]:
        """Exit codes, negative for a signal. Kills all and fails at the time limit."""
        codes: dict[int, int] = {}
        end = time.monotonic() + seconds
        try:
            while len(codes) < self.size:
                for rank, child in enumerate(self.children):
                    if rank not in codes:
                        done, status = os.waitpid(child, os.WNOHANG)
                        if done:
                            codes[rank] = os.waitstatus_to_exitcode(status)
                if time.monotonic() > end:
                    for rank in set(range(self.size)) - set(codes):
                        os.kill(self.children[rank], signal.SIGUSR1)  # writes its stacks
                    time.sleep(0.5)
                    late = sorted(set(range(self.size)) - set(codes))
                    raise AssertionError(f"ranks {late} hang; so far:\n{self.output()}")
                time.sleep(0.005)
        finally:
            for rank, child in enumerate(self.children):
                if rank not in codes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
        return [codes[rank] for rank in range(self.size)]


def train_ranks(
    configs: list[TrainConfig], folder: Path, prepare: Callable[[int], None] = lambda _: None,
    **options: object,
) -> Ranks:  # fmt: skip
    """``minillama train`` on as many ranks as there are configurations."""
    for rank, config in enumerate(configs):
        write_config(folder / f"config-{rank}.toml", config)

    def act(rank: int) -> None:
        prepare(rank)
        cli.main(["train", "--config", str(folder / f"config-{rank}.toml")])

    return Ranks(len(configs), act, folder, **options)


def at_step(step: int, rank: int, act: Callable[[], object]) -> Callable[[int], None]:
    """Do ``act()`` on one rank before it computes the ``step``-th step of this start."""

    def prepare(this: int) -> None:
        compute, steps = loop.backward, itertools.count(1)

        def backward(*arguments):
            if next(steps) == step and this == rank:
                act()
            return compute(*arguments)

        loop.backward = backward

    return prepare
