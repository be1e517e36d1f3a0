"""Validation of a model that is spread over processes, whatever share of the windows each has."""

import numpy as np
import pytest
import torch
from processes import run_processes

from minillama.config import ModelConfig
from minillama.model import Llama
from minillama.parallel.mesh import ParallelConfig
from minillama.scale.runtime import join_world
from minillama.train import validation
from minillama.train.backend import LocalBackend
from minillama.train.config import TrainConfig
from minillama.train.validation import windows_log_prob

MODEL = ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=40, multiple_of=8, max_seq_len=16)


def windows(count: int) -> list[np.ndarray]:
    """Of 2 to 17 ids, so that batches differ in length."""
    rng = np.random.default_rng(count)
    return [rng.integers(0, 40, rng.integers(2, 18)) for _ in range(count)]


def shared(rank: int, config: ParallelConfig, counts: list[int]) -> list[float]:
    validation.BATCH_TOKENS = 40  # several batches
    world = join_world("cpu", config)
    model, _ = world.build_model(TrainConfig(model=MODEL, parallel=config, seq_len=16))
    return [windows_log_prob(model, windows(count), world) for count in counts]


@pytest.mark.parametrize(
    "size, config",
    [
        (2, ParallelConfig(shard=2)),
        (4, ParallelConfig(shard=2)),
        (2, ParallelConfig(tensor=2)),
        (4, ParallelConfig(shard=2, tensor=2)),
        (3, ParallelConfig()),
    ],
    ids=["fsdp 2", "hybrid", "tensor 2", "2 x 2", "plain"],
)
def test_every_window_counts_once(size, config):
    counts = [1, 3, 10]  # fewer than processes, not a multiple, several batches each
    torch.manual_seed(0)
    model = Llama(MODEL)
    expected = [windows_log_prob(model, windows(count), LocalBackend("cpu")) for count in counts]
    for told in run_processes(shared, size, config, counts):
        assert told == pytest.approx(expected, rel=1e-6)
