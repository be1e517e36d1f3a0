"""Start processes from a notebook: what torchrun does for a program, for a function of a cell.

Children are forked, so that they know everything the notebook has defined so far and start in
milliseconds. On a machine with GPUs fork before the first ``backward()`` of the parent: autograd's
threads do not survive a fork.
"""

import io
import logging
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch._dynamo  # FSDP asks for it: once here, not in every child
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.tensor.parallel  # noqa: F401


def launch(
    function: Callable[..., Any],
    processes: int,
    *args: Any,
    timeout: float = 120,
    group: bool = True,
) -> list[Any]:
    """Call ``function(rank, *args)`` in new processes, and return its results in order of rank.

    Each process computes with one thread and stands in a gloo group of them all; what it prints is
    discarded. None outlives the call, nor the process that made it.

    Args:
        function: any function, also one that a notebook's cell defines.
        processes: how many.
        args: passed on. Results come back pickled, so tensors must be ordinary ones: no DTensor.
        timeout: seconds after which all are killed.
        group: join the processes to a group; without, only torchrun's environment variables are
            set, for functions that join by themselves.

    Raises:
        RuntimeError: the first failure, with its rank and text.
        TimeoutError: not all returned in time; says who did not.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    fork = multiprocessing.get_context("fork")
    alive, hold = os.pipe()  # closed when this process ends, however it ends
    # None may connect before all are forked: a child forked while the store's thread is at work
    # inherits the locks that this thread holds, and nobody there to release them.
    start, go = os.pipe()
    children, mouths = [], {}
    for rank in range(processes):
        mouth, tell = fork.Pipe(duplex=False)
        places = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True,
        }  # fmt: skip
        others = (mouth, *mouths)
        inside = (function, rank, args, group, places, tell, others, (alive, hold, start, go))
        child = fork.Process(target=_run, args=inside, daemon=True)
        child.start()
        tell.close()
        children.append(child)
        mouths[mouth] = rank
    os.close(start)
    os.close(go)
    try:
        return _collect(mouths, processes, timeout)
    finally:
        for child in children:
            child.kill()
            child.join()
        os.close(alive)
        os.close(hold)


def _collect(mouths: dict[Connection, int], processes: int, timeout: float) -> list[Any]:
    """What every process returned; stops at the first that failed."""
    results, end = {}, time.monotonic() + timeout
    while len(results) < processes:
        missing = [mouth for mouth, rank in mouths.items() if rank not in results]
        ready = wait(missing, max(0.0, end - time.monotonic()))
        if not ready:
            ranks = ", ".join(str(mouths[mouth]) for mouth in missing)
            raise TimeoutError(f"no answer from rank {ranks} within {timeout:g} s")
        failures = []
        for mouth in ready:
            try:
                moment, done, result = pickle.loads(mouth.recv_bytes())
            except EOFError:
                moment, done, result = time.time(), False, "ended without an answer"
            if done:
                results[mouths[mouth]] = result
            else:
                failures.append((moment, f"rank {mouths[mouth]}: {result}"))
        if failures:  # a neighbor may fail for want of the first that did
            raise RuntimeError(min(failures)[1])
    return [results[rank] for rank in range(processes)]


def _run(
    function: Callable[..., Any],
    rank: int,
    args: tuple[Any, ...],
    group: bool,
    places: dict[str, object],
    tell: Connection,
    others: tuple[Connection, ...],
    pipes: tuple[int, int, int, int],
) -> None:
    """The life of one child."""
    _leave_the_parent(others, pipes)
    os.environ |= {name: str(value) for name, value in places.items()}
    torch.set_num_threads(1)
    try:
        if group:
            dist.init_process_group("gloo")
        result = function(rank, *args)
        if group:
            dist.barrier()  # nobody leaves while another still needs it
        answer = pickle.dumps((time.time(), True, result))  # with a tensor's numbers, unlike send()
        tell.send_bytes(answer)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} (line {place.lineno} in {place.name})"
        tell.send_bytes(pickle.dumps((time.time(), False, text)))
    finally:
        os._exit(0)  # no destructor, no exit handler: they belong to the parent


def _leave_the_parent(others: tuple[Connection, ...], pipes: tuple[int, int, int, int]) -> None:
    """Silence both outputs, also of C++; wait for the start; end when the parent has ended."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    logging.disable()  # handlers write to the stream that they began with
    for mouth in others:
        mouth.close()
    alive, hold, start, go = pipes
    os.close(hold)
    os.close(go)
    os.read(start, 1)
    threading.Thread(target=lambda: os.read(alive, 1) or os._exit(1), daemon=True).start()
