"""A dry run says what real processes hold and send, and needs nothing but the configuration."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import run_processes
from tiny import tiny_config

from minillama.apps.cli import main
from minillama.errors import ConfigError
from minillama.parallel.communication import counted_bytes, totals
from minillama.parallel.memory import memory_per_gpu
from minillama.parallel.mesh import ParallelConfig
from minillama.scale.dry_run import (
    DryRun,
    FakeMemory,
    describe_corpus,
    dry_run,
    local_part,
    play,
    world_of,
)
from minillama.scale.runtime import join_world
from minillama.train.config import TrainConfig, load_preset
from minillama.train.loop import backward

MESHES = {
    "2 x shard 2": ParallelConfig(shard=2, recompute="full"),
    "shard 2 x tensor 2": ParallelConfig(shard=2, tensor=2, recompute="selective"),
}


def config_for(parallel: ParallelConfig) -> TrainConfig:
    return tiny_config(Path("corpus"), Path("runs"), parallel=parallel, micro_batch=1)


def real_step(rank: int, config: TrainConfig) -> dict[str, object]:
    """What a real process of a gloo group holds after a step, and has sent."""
    world = join_world("cpu", config.parallel)
    model, step_model = world.build_model(config)
    batch = torch.zeros(config.batch_sequences // world.data_size, config.seq_len + 1).long()
    with counted_bytes(world.mesh) as sent:
        backward(step_model, batch, config, world)
    held = {name: tuple(local_part(weight).shape) for name, weight in model.named_parameters()}
    gradients = sum(local_part(weight.grad).nbytes for weight in model.parameters())
    place = tuple(world.mesh.get_coordinate())
    world.leave()
    return {"held": held, "gradients": gradients, "place": place, "sent": sent}


@pytest.mark.parametrize("parallel", MESHES.values(), ids=MESHES)
def test_simulated_ranks_are_real_ones(parallel: ParallelConfig) -> None:
    config = config_for(parallel)
    simulated = run_processes(play, 4, [0, 1, 2, 3], config, 4)
    real = run_processes(real_step, 4, config)
    for told, found in zip(simulated, real, strict=True):
        assert told.place == found["place"]
        assert told.held["gradients"] == found["gradients"] == 4 * told.parameters
        assert told.held["Adam's moments"] == 2 * told.held["weights"] == 8 * told.parameters
        for name, (_, held) in told.shards.items():
            assert held == found["held"][name]
        assert totals(told.sent) == totals(found["sent"])

    # Together they hold the model once for each replica; norms lie whole on all of a tensor group.
    model, (replicate, _, tensor) = config.model, parallel.shape(4)
    norms = (2 * model.n_layers + 1) * model.dim
    whole = model.num_parameters() + (tensor - 1) * norms
    assert sum(rank.parameters for rank in simulated) == replicate * whole


def test_65b_in_two_layers_on_2048_ranks() -> None:
    """Calculated memory and traffic are what the simulated ranks hold and send."""
    config, world = load_preset("65b"), 2048
    config = replace(config, model=replace(config.model, n_layers=2))
    told = dry_run(config, world)
    assert [rank.rank for rank in told.ranks] == [0, world - 1]
    assert [rank.place for rank in told.ranks] == [(0, 0, 0), tuple(n - 1 for n in told.mesh)]
    expected = {key: sent for key, (_, sent) in totals(told.traffic).items()}
    for rank in told.ranks:
        for part in ("weights", "Adam's moments"):
            assert rank.held[part] == pytest.approx(told.memory[part], rel=1e-3)
        sent = {key: sent for key, (_, sent) in totals(rank.sent).items()}
        assert sent == pytest.approx(expected, rel=1e-3)
    text = told.render()
    assert all(line in text for line in told.summary())
    assert f"{config.total_steps:,} steps" in text


def test_memory_of_one_process_is_what_the_calculator_says() -> None:
    """Fake tensors' bytes at the highest moment, against the formulas, without Adam's moments."""
    config = replace(load_preset("nano-65b"), batch_tokens=2**14, micro_batch=32)
    told = dry_run(config, 1)
    memory = memory_per_gpu(config.model, 1, 1, 32, "none", passes=2, products="float32",
                            device="cpu")  # fmt: skip
    assert told.memory["activations"] == memory["activations"]
    expected = sum(memory.values()) - memory["Adam's moments"]
    assert told.ranks[0].peak == pytest.approx(expected, rel=0.1)


SPREAD = {
    "shard 8": ParallelConfig(shard=8, recompute="selective"),
    "shard 8, gathered once a step": ParallelConfig(shard=8, gather="step", recompute="selective"),
    "tensor 4": ParallelConfig(shard=2, tensor=4, recompute="selective"),
    "tensor 4, whole sequences": ParallelConfig(2, 4, sequence=False, recompute="selective"),
}


@pytest.mark.parametrize("parallel", SPREAD.values(), ids=SPREAD)
def test_memory_of_a_mesh_is_what_the_calculator_says(parallel: ParallelConfig) -> None:
    """As above for 7B's width: with whole copies it is half as much again."""
    preset = load_preset("7b")
    model, tokens = replace(preset.model, n_layers=6), 2**17 // parallel.tensor
    config = replace(preset, model=model, parallel=parallel, batch_tokens=tokens)
    assert DryRun(config, 8).passes == 2
    rank = run_processes(play, 1, [0], config, 8)[0]
    memory = DryRun(config, 8).memory
    assert rank.peak == pytest.approx(sum(memory.values()) - memory["Adam's moments"], rel=0.1)


def test_blocks_that_are_emptied_do_not_count() -> None:
    with FakeMemory([]) as memory:
        first = torch.zeros(1000)
        first.view(10, 100).t()  # no new block
        assert memory.now == 4000
        first.untyped_storage().resize_(0)
        second = torch.ones(500)
        assert (memory.now, memory.peak) == (2000, 4000)
        first.untyped_storage().resize_(4000)
        assert (memory.now, memory.peak) == (6000, 6000)
        del first, second
        assert memory.now == 0


def test_the_command_prints_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--parallel.shard", "2", "--parallel.tensor", "2", "--compile", "True"]
    main(["train", "--preset", "nano-7b", "--dry-run", "--world", "8", *flags])
    text = capsys.readouterr().out
    assert "8 x a100-80gb, replicate 2 x shard 2 x tensor 2" in text
    assert "data/corpus/nano is not built yet." in text
    assert "rank 0" in text and "rank 7" in text and "tensor all-gather" in text
    assert not list(tmp_path.iterdir())


WRONG = {
    "--world 0": "at least 1",
    "--world many": "at least 1",
    "--world 6 --parallel.shard 4": "does not divide the 6 processes",
    "--world 2 --parallel.shard 4": "needs 4 processes",
    "--world 4 --parallel.tensor 4": "heads",
    "--world 16": "cannot be shared by 16",
}


@pytest.mark.parametrize("flags", WRONG)
def test_impossible_plans_are_one_line(flags: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--preset", "nano-7b", "--dry-run", *flags.split()])
    printed = capsys.readouterr()
    assert ended.value.code == 1 and not printed.out
    assert printed.err.count("\n") == 1 and WRONG[flags] in printed.err


def test_how_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requested, torchrun's, the preset's own, or as few as the mesh takes."""
    config = config_for(ParallelConfig(shard=2, tensor=2))
    assert world_of(config, None) == 4
    assert world_of(load_preset("65b"), "65b") == 2048
    assert world_of(config, "nano-7b") == 4
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert world_of(load_preset("65b"), "65b") == 16
    assert world_of(config, None, "8") == 8
    with pytest.raises(ConfigError, match="at least 1"):
        world_of(config, None, "-1")


def test_under_torchrun_one_rank_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("RANK", "1")
    main(["train", "--preset", "nano-7b", "--dry-run"])
    assert capsys.readouterr().out == ""


def test_the_corpus_is_looked_at(tiny_corpus, tmp_path: Path) -> None:
    config = tiny_config(tiny_corpus.folder, tmp_path)
    assert "slices; the run reads" in describe_corpus(config)
    wide = replace(config, model=replace(config.model, vocab_size=512))
    assert "a vocabulary of 320, not 512" in describe_corpus(wide)
    (tmp_path / "empty").mkdir()
    assert "holds no corpus" in describe_corpus(replace(config, corpus=str(tmp_path / "empty")))


def test_accumulation_and_days() -> None:
    told = DryRun(replace(load_preset("7b"), micro_batch=3), 128)
    assert (told.sequences, told.passes) == (16, 6)  # 5 x 3 + 1
    assert DryRun(told.config, 256).days == pytest.approx(told.days / 2)
    assert os.environ.get("RANK") is None
