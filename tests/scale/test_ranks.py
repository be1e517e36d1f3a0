"""Bad input and broken machines under several processes: one clear line, and all of them end."""

import dataclasses
import os
import re
import resource
import shutil
import signal

import pytest
import torch
from ranks import Ranks, at_step, train_ranks
from tiny import TinyCorpus, tiny_config

from minillama.apps import cli
from minillama.parallel.mesh import ParallelConfig
from minillama.scale import rendezvous
from minillama.scale.rendezvous import is_lost_peer
from minillama.train import checkpoint
from minillama.train.loop import train
from minillama.train.optimizer import OptimizerConfig

SHARDED = ParallelConfig(shard=2)
LIMIT = 30
"""Seconds; far more than needed, and far less than a collective waits by itself."""


@pytest.fixture
def config(tiny_corpus, tmp_path):
    return tiny_config(tiny_corpus.folder, tmp_path / "runs", micro_batch=2)


def assert_one_says(ranks, pattern, rank=None):
    """All have ended with code 1, and one line in all says why."""
    assert ranks.wait(LIMIT) == [1] * ranks.size
    assert len(ranks.told()) == 1, ranks.output()
    speaker = r"\d" if rank is None else rank
    assert re.search(rf"\[rank {speaker}\] error: .*{pattern}", ranks.told()[0]), ranks.told()


# ranks that do not agree


@pytest.mark.parametrize("change, told", [
    ({"seed": 7}, r"disagree on seed: 7 on rank 1, 0 on"),
    ({"optimizer": OptimizerConfig(lr=0.5, warmup_steps=3)},
     r"disagree on optimizer.lr: 0.5 on rank 1, 0.01 on"),
    ({"parallel": ParallelConfig(shard=3)}, r"disagree on parallel.shard: 3 on rank 1, 1 on"),
    ({"runs": "elsewhere"}, r'disagree on runs: "elsewhere" on rank 1'),
])  # fmt: skip
def test_settings_that_differ_are_named_with_their_ranks(config, tmp_path, change, told):
    config = dataclasses.replace(config, batch_tokens=16 * 9, tokens=16 * 9 * 5)
    other = dataclasses.replace(config, **change)
    assert_one_says(train_ranks([config, other, config], tmp_path), told)
    assert not config.run.exists()


def test_corpora_that_differ_are_named(config, tiny_corpus, tmp_path):
    data = shutil.copytree(tiny_corpus.data, tmp_path / "data")
    TinyCorpus(data).build(slice_mb=0.011)
    other = dataclasses.replace(config, corpus=str(data / "corpus" / "tiny"))
    ranks = train_ranks([config, other], tmp_path)
    assert_one_says(ranks, "disagree on the corpus: .* on rank 1")
    assert not config.run.exists()


def test_a_corpus_in_another_place_is_the_same_corpus(config, tiny_corpus, tmp_path):
    data = shutil.copytree(tiny_corpus.data, tmp_path / "data")
    other = dataclasses.replace(config, corpus=str(data / "corpus" / "tiny"), tokens=128 * 2)
    ranks = train_ranks([dataclasses.replace(config, tokens=128 * 2), other], tmp_path)
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()


def test_a_rank_that_sees_another_run_folder_is_named_and_no_checkpoint_is_deleted(
    config, tmp_path
):
    train(config)
    steps = checkpoint.steps(config.run)

    def prepare(rank):
        if rank:  # its machine has not mounted the file system
            checkpoint.steps = lambda run: []

    ranks = train_ranks([config] * 4, tmp_path, prepare)
    told = r"disagree on the checkpoints of .*run: .* on rank \d"
    assert_one_says(ranks, told)
    assert checkpoint.steps(config.run) == steps == [1, 9, 12]


def test_the_variables_are_checked_before_anything_is_written(config, tmp_path):
    ranks = train_ranks([config, config], tmp_path, environ={"MASTER_ADDR": ""})
    assert ranks.wait(LIMIT) == [1, 1]
    assert all("MASTER_ADDR" in line for line in ranks.told())
    assert not config.run.exists()


def test_a_rank_that_never_comes(config, tmp_path):
    def prepare(rank):
        rendezvous.MEETING_SECONDS = 1.5
        if rank == 1:
            os._exit(1)

    ranks = train_ranks([config, config], tmp_path, prepare)
    assert_one_says(ranks, r"no word from rank 1 in 1.5 s", rank=0)
    assert not config.run.exists()


# bad meshes


@pytest.mark.parametrize("parallel, size, told", [
    (ParallelConfig(shard=2), 3, r"parallel.shard = 2 .* does not divide the 3 processes"),
    (ParallelConfig(shard=2, tensor=2), 2, r"needs 4 processes, and there are 2"),
    (ParallelConfig(tensor=3), 3, r"parallel.tensor = 3 does not divide the model's 2 heads"),
])  # fmt: skip
def test_a_mesh_that_does_not_fit(config, tmp_path, parallel, size, told):
    config = dataclasses.replace(config, parallel=parallel, batch_tokens=16 * 6, tokens=16 * 6 * 5)
    assert_one_says(train_ranks([config] * size, tmp_path), told)
    assert not config.run.exists()


# a rank that fails alone


def test_a_shard_cut_short_on_one_rank(config, tiny_corpus, tmp_path):
    data = shutil.copytree(tiny_corpus.data, tmp_path / "data")
    shard = next((data / "corpus" / "tiny" / "tokens").glob("*.train.00000.bin"))
    shard.write_bytes(shard.read_bytes()[1:])
    other = dataclasses.replace(config, corpus=str(data / "corpus" / "tiny"))
    ranks = train_ranks([config, other, config, config], tmp_path)
    assert_one_says(ranks, f"{shard.name} has", rank=1)
    assert not config.run.exists()


@pytest.mark.parametrize("parallel, agent, rank", [
    (ParallelConfig(), True, 1), (ParallelConfig(), False, 1), (SHARDED, True, 0),
    (SHARDED, False, 0),
], ids=["ddp", "ddp-alone", "sharded", "sharded-alone"])  # fmt: skip
def test_a_bug_on_one_rank_is_shown_once(config, tmp_path, parallel, agent, rank):
    config = dataclasses.replace(config, parallel=parallel)
    prepare = at_step(5, rank, lambda: [].pop())
    ranks = train_ranks([config, config], tmp_path, prepare, agent=agent)
    assert ranks.wait(LIMIT) == [1, 1]
    assert ranks.output().count("Traceback") == 1, ranks.output()
    assert "IndexError: pop from empty list" in ranks.output(rank)
    assert checkpoint.last_good(config.run) == 3


@pytest.mark.parametrize("parallel, rank", [(ParallelConfig(), 0), (SHARDED, 2)],
                         ids=["ddp", "sharded"])  # fmt: skip
def test_a_rank_that_is_killed_ends_the_others(config, tmp_path, parallel, rank):
    config = dataclasses.replace(config, parallel=parallel)
    prepare = at_step(5, rank, lambda: os.kill(os.getpid(), signal.SIGKILL))
    ranks = train_ranks([config] * 4, tmp_path, prepare)
    codes = ranks.wait(LIMIT)
    assert codes.pop(rank) == -signal.SIGKILL and codes == [1, 1, 1]
    assert len(ranks.told()) == 1, ranks.output()
    assert "error: lost another process of the run" in ranks.told()[0]
    assert ".cc:" not in ranks.told()[0]  # where in torch


def test_only_what_a_collective_throws_is_a_lost_process():
    """By type, and by the place in gloo's source: not by a word in the text."""
    assert is_lost_peer(torch.distributed.DistBackendError("ncclSystemError"))
    assert is_lost_peer(torch.distributed.DistNetworkError("connection reset"))
    assert is_lost_peer(RuntimeError("[/x/gloo/transport/tcp/pair.cc:553] Connection closed"))
    for text in ("nccl: timed out, connection closed by peer", "shapes (2,) and (3,), gloo/a.cc:1"):
        assert not is_lost_peer(RuntimeError(text))
    assert not is_lost_peer(torch.OutOfMemoryError("CUDA out of memory in nccl"))
    assert not is_lost_peer(ValueError("[/x/gloo/transport/tcp/pair.cc:553] Connection closed"))


def limit_files(size):
    """From now on this process can write no file of more than ``size`` bytes: a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("parallel, rank", [(ParallelConfig(), 0), (SHARDED, 0), (SHARDED, 1)],
                         ids=["ddp", "sharded-0", "sharded-1"])  # fmt: skip
def test_a_full_disk_on_one_rank(config, tmp_path, parallel, rank):
    config = dataclasses.replace(config, parallel=parallel)
    ranks = train_ranks([config] * 2, tmp_path, at_step(5, rank, lambda: limit_files(4_000)))
    assert_one_says(ranks, "cannot write .*step-00000006")
    assert checkpoint.last_good(config.run) == 3
    assert not list(config.run.glob("checkpoints/.*.tmp"))
    ranks = train_ranks([config] * 2, tmp_path)
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()


# a run of other settings


def test_a_run_started_with_other_settings(config, tmp_path):
    train(config)
    other = dataclasses.replace(config, seed=5)
    ranks = train_ranks([other, other], tmp_path)
    assert_one_says(ranks, "was started with seed = 0, not 5")


def lose_a_piece(run, steps):
    """Delete the last rank's file of some checkpoints; returns the last that went."""
    for step in steps:
        pieces = sorted(checkpoint.folder(run, step).glob("*.safetensors"))
        pieces[-1].unlink()
    return pieces[-1]


def test_a_missing_file_of_one_rank(config, tmp_path):
    config = dataclasses.replace(config, parallel=SHARDED, tokens=128 * 6)
    assert train_ranks([config] * 2, tmp_path).wait(LIMIT) == [0, 0]
    lost = lose_a_piece(config.run, [6])
    ranks = train_ranks([config] * 2, tmp_path)
    assert ranks.wait(LIMIT) == [0, 0], ranks.output()
    assert f"skipping a damaged checkpoint: {lost} is missing" in ranks.output()
    assert len(ranks.told()) == 1, ranks.told()  # by one rank only
    assert all(line.startswith("[rank ") for line in ranks.told())
    assert checkpoint.last_good(config.run) == 6


def test_a_run_of_damaged_checkpoints_is_left_as_it_is(config, tmp_path):
    config = dataclasses.replace(config, parallel=SHARDED, tokens=128 * 6)
    assert train_ranks([config] * 2, tmp_path).wait(LIMIT) == [0, 0]
    steps = checkpoint.steps(config.run)
    lose_a_piece(config.run, steps)
    ranks = train_ranks([config] * 2, tmp_path)
    assert all(ranks.wait(LIMIT))
    assert ranks.output().count(f"every checkpoint of {config.run} is damaged") == 1
    assert checkpoint.steps(config.run) == steps


def test_a_checkpoint_of_another_model(config, tmp_path):
    config = dataclasses.replace(config, parallel=SHARDED, tokens=128 * 4)
    assert train_ranks([config] * 2, tmp_path).wait(LIMIT) == [0, 0]
    (config.run / "config.toml").unlink()
    wider = dataclasses.replace(config.model, dim=32)
    other = dataclasses.replace(config, model=wider, tokens=128 * 6)
    assert_one_says(train_ranks([other] * 2, tmp_path), "does not fit the model")


def test_a_misspelled_preset_is_told_once(tmp_path):
    ranks = Ranks(4, lambda _: cli.main(["train", "--preset", "nano-66b"]), tmp_path)
    assert_one_says(ranks, "unknown preset 'nano-66b'")
