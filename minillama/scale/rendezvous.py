"""How the ranks of a run meet, and how all of them end together if one fails.

A rank that fails reports its error once for all; the others end without a word when their
collectives break. What each rank prints is kept by ``torchrun --log-dir``.
"""

import os
import re
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from minillama.errors import ConfigError, MinillamaError
from minillama.train.stop import Interrupted

MEETING_SECONDS = 600.0
"""How long a rank waits for the others to start."""


class RankError(MinillamaError):
    """A collective broke, and no rank has reported why: another process was killed."""


@contextmanager
def reporting_once() -> Iterator[None]:
    """Let one rank say what goes wrong in the block, and the others end without a word."""
    rank, _ = place_in_world()
    with warnings.catch_warnings():
        if rank:
            warnings.simplefilter("ignore")
        try:
            yield
        except Interrupted as stopped:
            if rank:
                raise SystemExit(stopped.exit_code) from None
            raise
        except BaseException as error:
            if not first_to_report():
                raise SystemExit(1) from error
            if not is_lost_peer(error):
                raise
            hint = "it was killed or its machine is gone; run the same command to go on"
            raise RankError("lost another process of the run", hint) from error


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective broke. Gloo's errors begin with their place in gloo's source."""
    by_gloo = type(error) is RuntimeError and re.match(r"\[\S*/gloo/\S+:\d+\]", str(error))
    return bool(by_gloo) or isinstance(error, dist.DistBackendError | dist.DistNetworkError)


def first_to_report() -> bool:
    """Whether no other rank of this start has reported an error yet.

    If no store answers (rank 0 hosted it and is gone), ranks 0 and 1 may report.
    """
    rank, size = place_in_world()
    try:
        store = shared_store() if size > 1 else None
        if store is None:
            return rank < 2
        return store.compare_set("reported", "", str(rank)).decode() == str(rank)
    except RuntimeError:
        return rank < 2


def shared_store() -> dist.Store | None:
    """The store through which the ranks have met; before that, the one that torchrun keeps."""
    if dist.is_initialized():
        return dist.distributed_c10d._get_default_store()
    address, environ = os.environ.get("MASTER_ADDR"), os.environ
    if not address or environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    patience = timedelta(seconds=5)
    store = dist.TCPStore(address, int(environ["MASTER_PORT"]), is_master=False, timeout=patience)
    return dist.PrefixStore(f"restart {environ.get('TORCHELASTIC_RESTART_COUNT')}", store)


def place_in_world() -> tuple[int, int]:
    """``(rank, size)`` as torchrun tells them; ``(0, 1)`` without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def meet(rank: int, size: int) -> dist.Store:
    """A store for this start of the run, once all ranks have come.

    torchrun keeps one store for all restarts, with everything that earlier starts wrote, and its
    count of restarts differs from machine to machine. So rank 0 makes up a name for this start,
    and takes it back when all have answered: no later start can mistake it for its own.

    Raises:
        ConfigError: torchrun's variables are incomplete, or not all ranks came.
    """
    try:
        patience = timedelta(seconds=MEETING_SECONDS)
        store, *_ = next(dist.rendezvous("env://", timeout=patience))
    except (RuntimeError, ValueError) as error:
        hint = "start the run with torchrun --nproc-per-node=N -m minillama.train"
        raise ConfigError(f"rank {rank} of {size} cannot meet the others: {error}", hint) from error
    name = call_ranks(store, size) if rank == 0 else answer_call(store, rank, size)
    return dist.PrefixStore(name, store)


def call_ranks(store: dist.Store, size: int) -> str:
    """On rank 0: make up a name for this start and wait until all ranks have answered to it."""
    name = uuid.uuid4().hex
    answers = {rank: f"{name}/{rank}" for rank in range(1, size)}
    store.set("start", name)
    try:
        store.wait(list(answers.values()), timedelta(seconds=MEETING_SECONDS))
    except RuntimeError:
        silent = [str(rank) for rank, key in answers.items() if not store.check([key])]
        what = f"no word from rank {', '.join(silent)} in {MEETING_SECONDS:g} s"
        raise ConfigError(what, "see what they print") from None
    store.set("start", "")
    store.set(f"{name}/go", "")
    return name


def answer_call(store: dist.Store, rank: int, size: int) -> str:
    """On the others: answer to the name that rank 0 calls, until it says that all have come."""
    name, end = "", time.monotonic() + 1.1 * MEETING_SECONDS  # rank 0 gives up before
    while not (name and store.check([f"{name}/go"])):
        called = store.get("start").decode() if store.check(["start"]) else ""
        if called and called != name:  # perhaps of an earlier start: then another will follow
            name = called
            store.set(f"{name}/{rank}", "here")
        if time.monotonic() > end:
            raise ConfigError(f"rank {rank} has had no word from rank 0", "see what it prints")
        time.sleep(0.02 + size / 10_000)  # 2,048 ranks do not ask too often
    return name
