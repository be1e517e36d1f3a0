"""Start processes from a notebook: what torchrun does for a program, for a function of a cell.

Children are forked, so that they know everything the notebook has defined so far and start in
milliseconds. On a machine with GPUs fork before the first ``backward()`` of the parent: autograd's
threads do not survive a fork.
"""

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
from multiprocessing.synchronize import Event
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

    Each computes with one thread; what it prints is discarded. None outlives the call, nor the
    process that made it. Results come back pickled: ordinary tensors, no DTensor.

    Args:
        timeout: seconds after which all are killed.
        group: join the processes to a gloo group; without, only torchrun's environment variables
            are set, for functions that join by themselves.

    Raises:
        RuntimeError: the first failure, with its rank and text.
        TimeoutError: not all returned in time; says who did not.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    places = {
        "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }  # fmt: skip
    fork = multiprocessing.get_context("fork")
    # None may connect before all are forked: a child forked while the store's thread is at work
    # inherits the locks that this thread holds, and nobody there to release them.
    go = fork.Event()
    children, receivers = [], {}
    for rank in range(processes):
        receiver, sender = fork.Pipe(duplex=False)
        call = (function, rank, args, group)
        child = fork.Process(target=_run, args=(*call, places, go, sender), daemon=True)
        child.start()
        sender.close()
        children.append(child)
        receivers[receiver] = rank
    go.set()
    try:
        return _collect(receivers, timeout)
    finally:
        for child in children:
            child.kill()
            child.join()


def _collect(receivers: dict[Connection, int], timeout: float) -> list[Any]:
    """What every process returned; stops at the first that failed."""
    results, end = {}, time.monotonic() + timeout
    while len(results) < len(receivers):
        missing = [receiver for receiver, rank in receivers.items() if rank not in results]
        ready = wait(missing, max(0.0, end - time.monotonic()))
        if not ready:
            ranks = ", ".join(str(receivers[receiver]) for receiver in missing)
            raise TimeoutError(f"no answer from rank {ranks} within {timeout:g} s")
        failures = []
        for receiver in ready:
            rank = receivers[receiver]
            try:
                moment, done, result = pickle.loads(receiver.recv_bytes())
            except EOFError:
                moment, done, result = time.time(), False, "ended without an answer"
            if done:
                results[rank] = result
            else:
                failures.append((moment, f"rank {rank}: {result}"))
        if failures:  # a neighbor may fail for want of the first that did
            raise RuntimeError(min(failures)[1])
    return [results[rank] for rank in sorted(results)]


def _run(
    function: Callable[..., Any], rank: int, args: tuple[Any, ...], group: bool,
    places: dict[str, object], go: Event, sender: Connection,
) -> None:  # fmt: skip
    """The life of one child."""
    _prepare_child()
    go.wait()
    places = places | {"RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in places.items()}
    try:
        if group:
            dist.init_process_group("gloo")
        result = function(rank, *args)
        if group:
            dist.barrier()  # nobody leaves while another still needs it
        answer = pickle.dumps((time.time(), True, result))  # with a tensor's numbers, unlike send()
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} (line {place.lineno} in {place.name})"
        answer = pickle.dumps((time.time(), False, text))
    sender.send_bytes(answer)
    os._exit(0)  # no destructor, no exit handler: they belong to the parent


def _prepare_child() -> None:
    """Silence both outputs, also of C++; take one thread; end when the parent has ended."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (a notebook's are no files)
    logging.disable()  # handlers write to the stream that they began with
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
