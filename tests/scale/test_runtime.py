"""torchrun with two processes trains the run that one process trains."""

import dataclasses
import json
import os
import socket

import pytest
import torch
from tiny import ROOT, python, tiny_config

from minillama.errors import ConfigError
from minillama.parallel.mesh import ParallelConfig
from minillama.scale.runtime import DistributedBackend, train_distributed
from minillama.train import checkpoint, loop
from minillama.train.config import write_config
from minillama.train.log import read_metrics
from minillama.train.loop import train


def torchrun(config, where):
    """``torchrun --standalone --nproc-per-node=2 -m minillama.train --config FILE``."""
    write_config(where / "config.toml", config)
    return python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "minillama.train", "--config", str(where / "config.toml"),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def losses(run):
    return [record["loss"] for record in read_metrics(run)]


def test_two_processes_give_the_losses_of_one_and_may_become_one(tiny_corpus, tmp_path):
    alone = tiny_config(tiny_corpus.folder, tmp_path, name="alone", micro_batch=2)
    train(alone)
    both = dataclasses.replace(alone, name="both")
    done = torchrun(both, tmp_path)
    assert not done.returncode, done.stderr[-3_000:]
    assert losses(both.run) == pytest.approx(losses(alone.run), abs=1e-5)
    norms = [[r["grad_norm"] for r in read_metrics(c.run)] for c in (both, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    bpb = [read_metrics(c.run)[-1]["valid_bpb"] for c in (both, alone)]
    assert bpb[0] == pytest.approx(bpb[1], abs=1e-4)

    # Back to the checkpoint of step 9, and on with one process.
    last = read_metrics(both.run)
    checkpoint.delete(checkpoint.folder(both.run, 12))
    train(both)
    again = read_metrics(both.run)
    assert again[:9] == last[:9] and again[9:] != last[9:]
    assert [r["loss"] for r in again] == pytest.approx(losses(alone.run), abs=1e-5)
    assert checkpoint.steps(both.run) == checkpoint.steps(alone.run)


def train_as_rank(config, rank, size, port, report):
    """What torchrun does for one process; writes down the losses it saw and its final weights."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    seen, models = [], []
    check, build = loop.check_finite, loop.build_optimizer
    loop.check_finite = lambda *a: (seen.append(a[:3]), check(*a))
    loop.build_optimizer = lambda *a: (models.append(a[0]), build(*a))[1]
    train_distributed(config)
    weights = [p.detach().double().sum().item() for p in models[0].parameters()]
    report.write_text(json.dumps([seen, weights]))


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_see_the_same_losses_and_weights(tiny_corpus, tmp_path, size):
    config = tiny_config(tiny_corpus.folder, tmp_path, micro_batch=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        children.append(os.fork())
        if not children[-1]:
            try:
                train_as_rank(config, rank, size, port, tmp_path / f"rank-{rank}")
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * size
    reports = [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in range(size)]
    assert all(report == reports[0] for report in reports)
    assert [loss for loss, *_ in reports[0][0]] == losses(config.run)
    alone = dataclasses.replace(config, name="alone")
    assert losses(config.run) == pytest.approx(losses(train(alone)), abs=1e-5)


def test_a_batch_that_two_processes_cannot_share_is_refused_at_once(tiny_corpus, tmp_path):
    config = tiny_config(tiny_corpus.folder, tmp_path, batch_tokens=3 * 16, tokens=48 * 12)
    with pytest.raises(ConfigError, match="3 sequences a step cannot be shared by 2 processes"):
        train(config, DistributedBackend(0, 2, torch.device("cpu")))
    assert not config.run.exists()


@pytest.mark.parametrize(
    "change", [{"backward": "by_hand"}, {"parallel": ParallelConfig(recompute="full")}]
)
def test_alone_the_loop_has_autograd_only(tiny_corpus, tmp_path, change):
    config = tiny_config(tiny_corpus.folder, tmp_path, **change)
    with pytest.raises(ConfigError, match="train_distributed"):
        train(config)
    assert train_distributed(config) == config.run
