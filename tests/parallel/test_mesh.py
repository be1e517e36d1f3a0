"""Which process is which: the shape of the mesh, what it must divide, and who reads what."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from processes import run_processes
from tiny import tiny_config
from torch.testing._internal.distributed.fake_pg import FakeStore

from minillama.apps import cli
from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.parallel.mesh import AXES, ParallelConfig, build_mesh, check_mesh
from minillama.scale.runtime import DistributedBackend
from minillama.train.config import MAY_CHANGE, TrainConfig, from_dict, read_config, write_config

MODEL = ModelConfig(dim=64, n_layers=2, n_heads=4, vocab_size=320, multiple_of=32, max_seq_len=32)


@pytest.mark.parametrize(
    "shard, tensor, world, expected",
    [
        (1, 1, 1, (1, 1, 1)),
        (1, 1, 6, (6, 1, 1)),
        (4, 1, 4, (1, 4, 1)),
        (2, 1, 4, (2, 2, 1)),
        (2, 2, 8, (2, 2, 2)),
        (0, 1, 1, (1, 1, 1)),
        (0, 1, 8, (1, 8, 1)),
        (0, 4, 8, (1, 2, 4)),
        (64, 8, 2048, (4, 64, 8)),
    ],
)
def test_the_shape_multiplies_to_the_number_of_processes(shard, tensor, world, expected):
    config = ParallelConfig(shard=shard, tensor=tensor)
    assert config.shape(world) == expected
    assert config.is_plain(world) == (expected[1:] == (1, 1))


@pytest.mark.parametrize(
    "config, world, message",
    [
        (ParallelConfig(shard=4), 2, r"shard = 4 x parallel.tensor = 1 needs 4 processes.* are 2"),
        (ParallelConfig(tensor=2), 1, "needs 2 processes.*torchrun --nproc-per-node=2"),
        (ParallelConfig(shard=0, tensor=4), 2, "needs 4 processes"),
        (ParallelConfig(shard=2, tensor=2), 6, "does not divide the 6 processes.*multiple of 4"),
        (ParallelConfig(shard=0, tensor=2), 7, "does not divide the 7 processes"),
    ],
)
def test_the_wrong_number_of_processes_is_refused(config, world, message):
    with pytest.raises(ConfigError, match=message):
        check_mesh(config, MODEL, world, 16)


@pytest.mark.parametrize(
    "model, seq_len, message",
    [
        ({"n_heads": 2}, 16, r"tensor = 4 does not divide the model's 2 heads.*one of \[1, 2\]"),
        ({"multiple_of": 2}, 16, "does not divide the feed-forward width of 170"),
        ({"vocab_size": 322}, 16, "does not divide the vocabulary of 322"),
        ({}, 18, "does not divide the sequence of 18 tokens"),
    ],
)
def test_what_tensor_parallelism_must_divide(model, seq_len, message):
    check_mesh(ParallelConfig(tensor=4), MODEL, 4, 16)
    changed = dataclasses.replace(MODEL, **model)
    with pytest.raises(ConfigError, match=message):
        check_mesh(ParallelConfig(tensor=4), changed, 4, seq_len)
    check_mesh(ParallelConfig(shard=4), changed, 4, seq_len)  # rows may be cut unevenly


def test_an_undivided_sequence_may_have_any_length():
    check_mesh(ParallelConfig(tensor=4, sequence=False), MODEL, 4, 18)


@pytest.mark.parametrize("field, value", [("shard", -1), ("tensor", 0), ("tensor", -2)])
def test_numbers_of_processes_must_be_positive(field, value):
    with pytest.raises(ConfigError, match=f"parallel.{field} = {value}"):
        ParallelConfig(**{field: value})


def places(_: int) -> list[tuple]:
    """What each of 8 simulated ranks is told, one after another in this process."""
    found = []
    for rank in range(8):
        dist.init_process_group("fake", rank=rank, world_size=8, store=FakeStore())
        mesh = build_mesh(ParallelConfig(shard=2, tensor=2), 8, "cpu")
        world = DistributedBackend(rank, 8, torch.device("cpu"), mesh)
        found.append((mesh.mesh_dim_names, mesh.get_coordinate(), world.data_rank, world.data_size))
        dist.destroy_process_group()
    return found


def test_tensor_groups_are_neighbors_and_read_the_same():
    (found,) = run_processes(places, 1)
    for rank, (names, coordinate, data_rank, data_size) in enumerate(found):
        assert names == AXES
        assert tuple(coordinate) == (rank // 4, rank // 2 % 2, rank % 2)
        assert (data_rank, data_size) == (rank // 2, 4)


def test_without_a_mesh_everybody_reads_something_else():
    world = DistributedBackend(3, 4, torch.device("cpu"))
    assert (world.data_rank, world.data_size) == (3, 4)


# in a run's configuration


def test_the_configuration_is_kept_in_the_run_folder(tmp_path):
    config = tiny_config(tmp_path, tmp_path, parallel=ParallelConfig(shard=0, recompute="full"))
    write_config(tmp_path / "config.toml", config)
    assert "[parallel]\nshard = 0" in (tmp_path / "config.toml").read_text()
    assert read_config(tmp_path / "config.toml") == config
    assert "parallel" in MAY_CHANGE


@pytest.mark.parametrize(
    "values, message",
    [
        ({"shards": 2}, r"unknown key 'shards' in \[parallel\].*'shard'"),
        ({"shard": "all"}, "shard = 'all'.*must be int"),
        ({"recompute": "some"}, "recompute = 'some'.*none or selective or full"),
    ],
)
def test_mistakes_in_a_table_are_told(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(TrainConfig, {"parallel": values}, "x.toml")


def test_the_backward_by_hand_is_selective_already():
    with pytest.raises(ConfigError, match="selective already"):
        TrainConfig(backward="by_hand", parallel=ParallelConfig(recompute="selective"))


def test_flags(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("minillama.scale.runtime.train_distributed", seen.append)
    flags = ["--parallel.shard", "4", "--parallel.tensor", "2", "--parallel.sequence", "False"]
    cli.main(["train", "--preset", "7b", *flags])
    assert seen[0].parallel.shape(16) == (2, 4, 2) and not seen[0].parallel.sequence
