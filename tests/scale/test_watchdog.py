"""A rank that hangs ends the run, with one clear message; a slow one does not."""

import dataclasses
import os
import re
import signal
import sys
import time

import pytest
import torch.distributed as dist
from minillama.scale.agreement import Board
from minillama.scale.rank_log import RankLog
from minillama.scale.watchdog import Watchdog, hang_report, place
from ranks import at_step, train_ranks
from tiny import tiny_config

from minillama.parallel.mesh import ParallelConfig
from minillama.train import loop
from minillama.train.log import read_metrics

LIMIT = 40


@pytest.fixture
def config(tiny_corpus, tmp_path):
    return tiny_config(
        tiny_corpus.folder,
        tmp_path / "runs",
        micro_batch=2,
        hang_seconds=2,
        save_every=100,
        milestones=1,
        eval_every=100,
    )  # a busy disk is no hang


def sleep_for_ever():
    while True:
        time.sleep(60)


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(shard=2)],
                         ids=["ddp", "sharded"])  # fmt: skip
def test_a_rank_that_sleeps_for_ever_is_named_and_all_end(config, tmp_path, parallel):
    config = dataclasses.replace(config, parallel=parallel)
    ranks = train_ranks([config, config], tmp_path, at_step(5, 1, sleep_for_ever))
    assert ranks.wait(LIMIT) == [1, 1]
    assert len(ranks.told()) == 1, ranks.output()
    (line,) = ranks.told()
    assert re.search(r"\[rank \d\] error: no step has finished for 2 s after step 4: ", line)
    assert re.search(r"rank 1 in sleep_for_ever \(test_watchdog.py:\d+\)", line)
    assert "rank 0 in" in line and "raise --hang-seconds" in line
    stacks = ranks.output()
    assert re.search(r"\[rank \d\] rank 1, sleep_for_ever \(test_watchdog.py", stacks)
    assert re.search(r"\[rank \d\] +while True|\[rank \d\] +time.sleep\(60\)", stacks)
    for rank, place_ in enumerate(("in _train", "in sleep_for_ever")):
        log = (config.run / "logs" / f"rank-{rank:05d}.log").read_text()
        assert f"rank {rank} of 2" in log and "the stacks of all threads" in log
        assert place_ in log and "in run" in log  # the training loop, and the watchdog itself
    again = train_ranks([config, config], tmp_path)
    assert again.wait(LIMIT) == [0, 0], again.output()
    assert len(read_metrics(config.run)) == 12


def test_a_process_that_is_stopped_is_said_not_to_answer(config, tmp_path):
    prepare = at_step(5, 1, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    ranks = train_ranks([config, config], tmp_path, prepare)
    end = time.monotonic() + LIMIT
    while not ranks.told() and time.monotonic() < end:
        time.sleep(0.05)
    (line,) = ranks.told()
    assert "rank 1 without an answer; rank 0 in" in line
    os.kill(ranks.children[1], signal.SIGCONT)  # it comes back, sees what happened and ends
    assert ranks.wait(LIMIT) == [1, 1]
    assert ranks.told() == [line]


@pytest.fixture
def board():
    return Board(dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), 0, 4)


def watch(board, monkeypatch, seconds, moments, beat_at=None):
    """Let a watchdog look at a clock of our own; the moments at which it would give up."""
    dog, given_up, looks = Watchdog(board, RankLog(0), seconds), [], iter(moments[1:])
    now = [moments[0]]

    def wait(_):
        now[0] = next(looks, None)
        if now[0] == beat_at:
            dog.beat(1)
        return now[0] is None

    monkeypatch.setattr("minillama.scale.watchdog.time.monotonic", lambda: now[0])
    monkeypatch.setattr(dog._done, "wait", wait)
    monkeypatch.setattr(dog, "_give_up", lambda: given_up.append(now[0]))
    dog.run()
    return given_up


def test_the_first_step_has_three_times_as_long(board, monkeypatch):
    assert watch(board, monkeypatch, 100, range(0, 304))[0] == 301
    assert watch(board, monkeypatch, 100, range(0, 304), beat_at=50)[0] == 150
    assert not watch(board, monkeypatch, 100, range(0, 150), beat_at=50)


def test_a_limit_of_zero_is_none(board, monkeypatch):
    assert not watch(board, monkeypatch, 0, range(0, 100_000, 2))


def test_time_in_which_the_process_was_stopped_does_not_count(board, monkeypatch):
    assert not watch(board, monkeypatch, 100, [0, 1, 2, 9_000, 9_001])


def test_a_report_names_every_group_of_ranks_and_shows_one_stack_of_each(board, tmp_path):
    def note(where):
        return {"place": where, "stack": f"  File x\n    {where}\n"}

    stand = {
        0: note("all_reduce (a.py:1)"),
        1: note("read (b.py:2)"),
        3: note("all_reduce (a.py:1)"),
    }
    log = RankLog(0)
    log.open(tmp_path)
    report = hang_report(stand, board, 1800, 41, log)
    first, *rest = report.strip().splitlines()
    assert first.startswith(
        "[rank 0] error: no step has finished for 1800 s after step 41: rank 2 without an answer; "
        "rank 1 in read (b.py:2); ranks 0, 3 in all_reduce (a.py:1)."
    )
    assert first.endswith(f"All stacks: {tmp_path / 'logs'}.")
    assert [line.split("] ")[1].strip() for line in rest] == [
        "rank 1, read (b.py:2):", "File x", "read (b.py:2)",
        "ranks 0, 3, all_reduce (a.py:1):", "File x", "all_reduce (a.py:1)",
    ]  # fmt: skip
    assert "before the first step" in hang_report(stand, board, 1800, None, log)


def test_the_place_of_a_thread_is_outside_of_torch():
    places = []

    def hook(*_):
        places.append(place(sys._getframe(1)))  # torch's function that called this one

    module = loop.nn.Linear(2, 2)
    module.register_forward_hook(hook)
    module(loop.torch.zeros(1, 2))
    assert re.fullmatch(r"test_the_place_of_a_thread_is_outside_of_torch \(.*py:\d+\)", places[0])
    assert place(None) == "an unknown place"
