"""Requests to stop that reach one process of several, or different ones, at any moment."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from ranks import train_ranks
from safetensors.torch import load_file
from tiny import ROOT, tiny_config

from minillama.parallel.mesh import ParallelConfig
from minillama.scale import distributed_checkpoint
from minillama.train import checkpoint, loop
from minillama.train.config import write_config
from minillama.train.log import read_metrics
from minillama.train.loop import train
from minillama.train.stop import StopRequest

SHARDED = ParallelConfig(shard=2)
CLOCK = ("seconds", "tokens_per_s")
LIMIT = 40


@pytest.fixture
def config(tiny_corpus, tmp_path):
    return tiny_config(tiny_corpus.folder, tmp_path / "runs", micro_batch=2, tokens=128 * 8)


def records(run):
    return [{k: v for k, v in r.items() if k not in CLOCK} for r in read_metrics(run)]


def send_when(moments):
    """Signals by rank: ``{rank: (function of the loop, its n-th call, signals)}``."""

    def prepare(rank):
        if rank not in moments:
            return
        where, call, numbers = moments[rank]
        holder, name = where
        real, calls = getattr(holder, name), iter(range(1, 1_000))

        def send(*arguments, **options):
            if next(calls) == call:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return real(*arguments, **options)

        setattr(holder, name, send)

    return prepare


STEP = (loop, "clip_gradients")
SAVE = (distributed_checkpoint.Saver, "save")
OPEN = (loop, "open_run")
TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize("parallel", [ParallelConfig(), SHARDED], ids=["ddp", "sharded"])
@pytest.mark.parametrize("moments, code, step", [
    ({1: (STEP, 4, [TERM])}, 143, 4),
    ({0: (STEP, 4, [INT]), 1: (STEP, 4, [TERM])}, 143, 4),
], ids=["one", "different"])  # fmt: skip
def test_all_stop_after_the_same_step_and_go_on(config, tmp_path, parallel, moments, code, step):
    config = dataclasses.replace(config, parallel=parallel)
    ranks = train_ranks([config, config], tmp_path, send_when(moments))
    assert ranks.wait(LIMIT) == [code, code], ranks.output()
    assert len(ranks.told()) == 1, ranks.output()
    assert f"stopped after step {step}; run the same command to go on" in ranks.told()[0]
    assert checkpoint.last_good(config.run) == step
    ranks = train_ranks([config, config], tmp_path)
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()
    whole = dataclasses.replace(config, name="whole")
    ranks = train_ranks([whole, whole], tmp_path)
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()
    assert records(config.run) == records(whole.run)
    for file in checkpoint.folder(config.run, 8).glob("*.safetensors"):
        saved, expected = load_file(file), load_file(checkpoint.folder(whole.run, 8) / file.name)
        assert saved.keys() == expected.keys()
        assert all(torch.equal(saved[name], expected[name]) for name in saved)


@pytest.mark.parametrize("moments, code, step", [
    ({1: (STEP, 4, [INT])}, 130, 4),
    ({0: (STEP, 4, [TERM, TERM])}, 143, 4),  # a scheduler and torchrun both send it
    ({0: (SAVE, 2, [TERM])}, 143, 4),  # while step 3 is saved
    ({1: (OPEN, 1, [TERM])}, 143, 1),  # before there is a step
], ids=["interrupt", "twice", "in-a-save", "before-step-1"])  # fmt: skip
def test_moments_of_a_stop(config, tmp_path, moments, code, step):
    config = dataclasses.replace(config, parallel=SHARDED)
    ranks = train_ranks([config, config], tmp_path, send_when(moments))
    assert ranks.wait(LIMIT) == [code, code], ranks.output()
    assert checkpoint.last_good(config.run) == step
    assert [r["step"] for r in read_metrics(config.run)] == list(range(1, step + 1))


def test_a_stop_in_the_last_step_ends_the_run(config, tmp_path):
    ranks = train_ranks([config, config], tmp_path, send_when({1: (STEP, 8, [TERM])}))
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()
    assert checkpoint.last_good(config.run) == 8


def test_sigterm_to_torchrun_itself(config, tmp_path):
    config = dataclasses.replace(config, parallel=SHARDED, tokens=128 * 5_000, save_every=10_000,
                                 eval_every=10_000, milestones=1)  # fmt: skip
    write_config(tmp_path / "config.toml", config)
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         "-m", "minillama.train", "--config", str(tmp_path / "config.toml")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        metrics, end = config.run / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and len(read_metrics(config.run)) > 2):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(TERM)
        err = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    step = len(read_metrics(config.run))
    assert process.returncode and err.count(f"error: stopped after step {step};") == 1, err
    assert checkpoint.last_good(config.run) == step < 5_000


def test_what_sigterm_twice_does_to_one_process(config, monkeypatch):
    monkeypatch.setattr(loop, "clip_gradients", loop.clip_gradients)  # put back at the end
    send_when({0: (STEP, 3, [TERM, TERM])})(0)
    with pytest.raises(loop.Interrupted) as stopped:
        train(config)
    assert stopped.value.exit_code == 143 and checkpoint.last_good(config.run) == 3


@pytest.mark.parametrize("sent, decided", [
    ([0, 0, 0], 0), ([INT, 0, 0], INT), ([0, 0, TERM], TERM), ([INT, TERM, INT], TERM),
])  # fmt: skip
def test_all_stop_for_one_reason(sent, decided):
    received = []
    for number in sent:
        stop = StopRequest()
        stop.number = number
        received.append(stop.received())
    shares = [sum(column) / len(sent) for column in zip(*received, strict=True)]
    assert stop.agree(shares) == stop.agreed == decided
