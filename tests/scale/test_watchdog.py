"""A rank that hangs ends the run, with one clear message; a slow one does not."""

import dataclasses
import os
import signal
import time

import pytest
from ranks import at_step, train_ranks
from tiny import tiny_config

from minillama.parallel.mesh import ParallelConfig
from minillama.train.log import read_metrics

LIMIT = 40


@pytest.fixture
def config(tiny_corpus, tmp_path):
    return tiny_config(
        tiny_corpus.folder,
        tmp_path / "runs",
        micro_batch=2,
        hang_seconds=3,
        save_every=100,
        milestones=1,
        eval_every=100,
    )  # a busy disk is no hang


def sleep_for_ever():
    while True:
        time.sleep(60)


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(shard=2)],
                         ids=["ddp", "sharded"])  # fmt: skip
def test_a_rank_that_sleeps_for_ever_ends_all_and_shows_its_stack(config, tmp_path, parallel):
    config = dataclasses.replace(config, parallel=parallel)
    ranks = train_ranks([config, config], tmp_path, at_step(5, 1, sleep_for_ever))
    assert ranks.wait(LIMIT) == [1, 1]
    (line,) = ranks.told()
    assert "error: no step has finished for 3 s" in line and "--hang-seconds" in line
    assert "in sleep_for_ever" in ranks.output(1)
    again = train_ranks([config, config], tmp_path)
    assert again.wait(LIMIT) == [0, 0], again.output()
    assert len(read_metrics(config.run)) == 12


def test_a_rank_that_is_stopped_ends_the_other(config, tmp_path):
    prepare = at_step(5, 1, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    ranks = train_ranks([config, config], tmp_path, prepare)
    end = time.monotonic() + LIMIT
    while not ranks.told() and time.monotonic() < end:
        time.sleep(0.05)
    assert "[rank 0] error: no step has finished" in ranks.told()[0]
    os.kill(ranks.children[1], signal.SIGCONT)  # it comes back, sees what happened and ends
    assert ranks.wait(LIMIT) == [1, 1]
    assert len(ranks.told()) == 1


def test_a_slow_step_is_no_hang_and_the_first_has_longer(config, tmp_path):
    prepare = at_step(1, 1, lambda: time.sleep(4))
    ranks = train_ranks([config, config], tmp_path, prepare)
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()


def test_a_limit_of_zero_is_none(config, tmp_path):
    config = dataclasses.replace(config, hang_seconds=0)
    ranks = train_ranks([config, config], tmp_path, at_step(2, 0, lambda: time.sleep(2)))
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()
