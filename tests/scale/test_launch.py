"""Processes from a notebook: results in order, the first failure by name, nobody left behind."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import torch
import torch.distributed as dist

from minillama.scale.launcher import launch


@pytest.fixture(autouse=True)
def nobody_is_left_behind() -> Iterator[None]:
    """No child of this process is there that was not before (other tests' fork server may be)."""
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


def summed(rank: int, scale: float) -> tuple[int, float, int, torch.Tensor]:
    print("nobody reads this")
    os.write(2, b"nor this")
    logging.getLogger("torch").critical("nor this")
    total = torch.tensor(scale * (rank + 1))
    dist.all_reduce(total)
    return rank, total.item(), torch.get_num_threads(), torch.arange(rank)


def test_results_come_in_order_and_nothing_is_printed(capfd: pytest.CaptureFixture) -> None:
    results = launch(summed, 3, 10.0)
    assert [r[:3] for r in results] == [(0, 60.0, 1), (1, 60.0, 1), (2, 60.0, 1)]
    assert [len(r[3]) for r in results] == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_a_function_of_a_cell_sees_what_the_cell_sees() -> None:
    box = {"number": 1}

    def inside(rank: int) -> int:
        box["number"] += rank
        return box["number"]

    assert launch(inside, 2, group=False) == [1, 2]
    assert box == {"number": 1}  # a copy: nothing comes back but the result


def test_without_a_group_the_function_joins_as_under_torchrun() -> None:
    def inside(rank: int) -> tuple[bool, int]:
        before = dist.is_initialized()
        dist.init_process_group("gloo")
        return before, dist.get_world_size(), os.environ["LOCAL_RANK"]

    assert launch(inside, 2, group=False) == [(False, 2, "0"), (False, 2, "1")]


def broken(rank: int) -> None:
    if rank == 1:
        raise ValueError("the second one is broken")
    dist.barrier()  # waits for rank 1, in vain


def test_the_first_failure_is_raised_with_its_rank() -> None:
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"rank 1: ValueError: the second one is broken \(line"):
        launch(broken, 3)
    assert time.monotonic() - start < 30


def test_a_process_that_is_killed_is_missed() -> None:
    def dies(rank: int) -> None:
        if rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(RuntimeError, match="rank 0: ended without an answer"):
        launch(dies, 2, group=False)


def test_a_result_that_cannot_be_sent_is_a_failure() -> None:
    with pytest.raises(RuntimeError, match="rank 0: .*(pickle|local)"):
        launch(lambda rank: lambda: rank, 1, group=False)


def test_whoever_hangs_is_killed_at_the_time_limit() -> None:
    with pytest.raises(TimeoutError, match=r"rank 0, 1 within 0\.3 s"):
        launch(lambda rank: time.sleep(60), 2, timeout=0.3, group=False)


ORPHANS = """
import os, time
from minillama.scale.launcher import launch
def wait(rank):
    os.write(int(os.environ["TOLD"]), f"{os.getpid()}\\n".encode())
    time.sleep(60)
launch(wait, 2, group=False)
"""


def test_no_child_outlives_a_parent_that_is_killed() -> None:
    told, tell = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS], pass_fds=[tell], env=os.environ | {"TOLD": str(tell)}
    )
    os.close(tell)
    text = b""
    while text.count(b"\n") < 2:
        text += os.read(told, 100)
    os.close(told)
    parent.kill()
    parent.wait()
    pids = [int(line) for line in text.split()]
    end = time.monotonic() + 20
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(running, pids))


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie that waits to be collected."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
