"""How the processes of a run find each other: torchrun's variables, then a word with everyone."""

import json
import os
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta

import torch.distributed as dist

from minillama.errors import ConfigError
from minillama.scale import agreement
from minillama.scale.agreement import Board, name_ranks

TORCHRUN = "start the run with torchrun --nproc-per-node=N -m minillama.train ..."
SAME_TIME = 20.0
"""Seconds within which the same error of several ranks is told once."""


def place_in_world(environ: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """``(rank, size)`` as torchrun's environment variables tell it; ``(0, 1)`` without any.

    Raises:
        ConfigError: a variable is missing, no number or out of range; or several processes were
            started by something that sets none of them.
    """
    if "WORLD_SIZE" not in environ:
        for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
            if environ.get(name, "1") != "1":
                raise ConfigError(
                    f"{environ[name]} processes ({name}) without WORLD_SIZE", TORCHRUN
                )
        if "RANK" in environ:
            raise ConfigError(f"RANK = {environ['RANK']} without WORLD_SIZE", TORCHRUN)
        return 0, 1
    size = _number(environ, "WORLD_SIZE", 1)
    if size == 1:
        return 0, 1
    rank = _number(environ, "RANK", 0, size - 1)
    if not environ.get("MASTER_ADDR"):
        raise ConfigError(f"WORLD_SIZE = {size} without MASTER_ADDR", TORCHRUN)
    _number(environ, "MASTER_PORT", 1, 2**16 - 1)
    return rank, size


def _number(environ: Mapping[str, str], name: str, low: int, high: int | None = None) -> int:
    text = environ.get(name)
    if text is None:
        raise ConfigError(f"WORLD_SIZE = {environ['WORLD_SIZE']} without {name}", TORCHRUN)
    try:
        number = int(text)
    except ValueError:
        raise ConfigError(f"{name} = '{text}' is no number", TORCHRUN) from None
    if number < low or (high is not None and number > high):
        span = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name} = {number} is out of range", f"it must be {span}")
    return number


def meet() -> Board | None:
    """Find the other ranks of this run; None if there is only this process.

    Raises:
        ConfigError: torchrun's variables are incomplete, or not all ranks came.
        SystemExit: not all ranks came, and rank 0 tells it.
    """
    rank, size = place_in_world()
    if size == 1:
        return None
    patience = agreement.MEETING_SECONDS
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=patience)))
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConfigError(
            f"rank {rank} of {size} did not meet the others at {address} in {patience:g} s",
            "check that all processes were started and that the address can be reached",
        ) from error
    call = call_everyone if rank == 0 else answer
    name = call(dist.PrefixStore("minillama", store), rank, size, time.monotonic() + patience)
    return Board(dist.PrefixStore(name, store), rank, size)


# torchrun keeps one store for all restarts, in which everything that ranks of earlier starts wrote
# is still there: their failures, their addresses. And its count of restarts differs from machine
# to machine. So rank 0 makes up a name for this start, and learns who is alive by their answers.


def call_everyone(store: dist.Store, _: int, size: int, end: float) -> str:
    """Make up a name for this start and wait until all ranks have answered to it."""
    name = uuid.uuid4().hex[:12]
    keys = {rank: f"{name}/{rank}" for rank in range(1, size)}
    store.set("start", name)
    while not store.check(list(keys.values())):
        if time.monotonic() > end:
            silent = [rank for rank, key in keys.items() if not store.check([key])]
            store.set(f"{name}/given up", "")
            raise ConfigError(
                f"no word from {name_ranks(silent)} in {agreement.MEETING_SECONDS:g} s",
                "see what they print",
            )
        time.sleep(_pause(size))
    store.set(f"{name}/go", b" ".join(store.multi_get(list(keys.values()))))
    return name


def answer(store: dist.Store, rank: int, size: int, end: float) -> str:
    """Answer to the name that rank 0 calls, until rank 0 says that it has heard this process."""
    mine = uuid.uuid4().hex[:12]
    answered = None
    while time.monotonic() < end + SAME_TIME:  # rank 0 gives up before
        if store.check(["start"]):
            name = store.get("start").decode()
            if name != answered:  # perhaps the name of an earlier start: then no go with mine comes
                store.set(f"{name}/{rank}", mine)
                answered = name
            if store.check([f"{name}/go"]) and mine.encode() in store.get(f"{name}/go"):
                return name
            if store.check([f"{name}/given up"]) and time.monotonic() > end - _pause(size):
                raise SystemExit(1)
        time.sleep(_pause(size))
    raise ConfigError(f"rank {rank} has had no word from rank 0", "see what it prints")


def _pause(size: int) -> float:
    """Seconds between two looks, so that 2,048 ranks do not ask too often."""
    return 0.02 + size / 10_000


def first_to_tell(failure: str) -> bool:
    """Whether no other process has just printed the same error, such as a misspelled preset.

    That can only be known if torchrun keeps the store; otherwise every rank prints.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        place_in_world()
        store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=10)))
        key, mine = f"minillama told/{failure}", json.dumps([time.time(), uuid.uuid4().hex])
        before = store.compare_set(key, "", mine).decode()
        if before != mine and time.time() - json.loads(before)[0] > SAME_TIME:
            before = store.compare_set(key, before, mine).decode()
        return before == mine
    except (ConfigError, RuntimeError, ValueError):
        return True
