"""Checkpoints are whole or absent, and the last good one is always found."""

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import warnings

import pytest
import torch
from tiny import tiny_config

from minillama.errors import CheckpointError, MinillamaError
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train import checkpoint
from minillama.train.config import write_config
from minillama.train.optimizer import OptimizerConfig, build_optimizer

PARTS = ("model.safetensors", "optimizer.pt", "state.json", "manifest.json")


def trained(config, steps=2, seed=0):
    """A model and an optimizer that have moved."""
    torch.manual_seed(seed)
    model = Llama(config.model)
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.01))
    for _ in range(steps):
        tokens = torch.randint(0, 320, (2, 17))
        model(tokens[:, :-1], targets=tokens[:, 1:]).backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def config(tmp_path, tiny_corpus):
    config = tiny_config(tiny_corpus.folder, tmp_path / "runs")
    write_config(config.run / "config.toml", config)
    shutil.copyfile(tiny_corpus.folder / "tokenizer.model", config.run / "tokenizer.model")
    return config


@pytest.fixture
def three(config):
    """A run with checkpoints of steps 3, 6 and 9."""
    for step in (3, 6, 9):
        checkpoint.save(config.run, step, *trained(config, seed=step), {"data": "x"})
    return config


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_restored_bit_for_bit(config):
    model, optimizer = trained(config)
    where = checkpoint.save(config.run, 7, model, optimizer, {"data": "x", "tokens": 896})
    assert sorted(p.name for p in where.iterdir()) == sorted(PARTS)
    other, its_optimizer = trained(config, seed=1)
    checkpoint.restore(config.run, 7, other, its_optimizer)
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    saved, loaded = optimizer.state_dict(), its_optimizer.state_dict()
    assert saved["param_groups"] == loaded["param_groups"]
    for key, moments in saved["state"].items():
        assert all(torch.equal(moments[m], loaded["state"][key][m]) for m in moments)
    assert checkpoint.load_state(config.run, 7) == {"data": "x", "tokens": 896, "step": 7}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_named_and_the_one_before_is_used(three, name, damage):
    path = checkpoint.folder(three.run, 9) / name
    if damage == "flip":
        flip(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    if name == "manifest.json":  # a flipped digit there makes a whole file look damaged
        name = "step-00000009"
    with pytest.raises(CheckpointError, match=name):
        checkpoint.verify(path.parent)
    with pytest.warns(UserWarning, match=f"skipping a damaged checkpoint: .*{name}"):
        assert checkpoint.last_good(three.run) == 6
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load_model(three.run, 9)
    with pytest.warns(UserWarning):
        model, _ = checkpoint.load_model(three.run)
    expected, _ = trained(three, seed=6)
    assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))


@pytest.mark.parametrize("content", ["{}", "[]", '{"model.safetensors": "0"}'])
def test_a_manifest_that_lists_too_little_is_no_manifest(three, content):
    (checkpoint.folder(three.run, 9) / "manifest.json").write_text(content)
    with pytest.warns(UserWarning, match="manifest.json is malformed"):
        assert checkpoint.last_good(three.run) == 6


def test_half_written_and_strange_folders_are_no_checkpoints(three):
    folder = three.run / "checkpoints"
    for name in (".step-00000012.0a1b2c3d.tmp", "step-12", "step-00000012.old", "best"):
        shutil.copytree(folder / "step-00000009", folder / name)
    assert checkpoint.steps(three.run) == [3, 6, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.last_good(three.run) == 9


def test_nothing_to_load(config, three, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere has no checkpoints"):
        checkpoint.load_model(tmp_path / "nowhere")
    assert checkpoint.last_good(tmp_path / "nowhere") is None
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4. It has \[3, 6, 9\]"):
        checkpoint.load_model(three.run, 4)
    for step in (3, 6, 9):
        flip(checkpoint.folder(three.run, step) / "model.safetensors")
    with (
        pytest.warns(UserWarning),
        pytest.raises(CheckpointError, match="every checkpoint of .* is damaged"),
    ):
        checkpoint.load_model(three.run)


def test_pruning_keeps_the_newest_two_and_the_milestones(config):
    for step in range(1, 8):
        checkpoint.save(config.run, step, *trained(config, 1), {})
        checkpoint.prune(config.run, keep={2, 5})
    assert checkpoint.steps(config.run) == [2, 5, 6, 7]
    assert not list(config.run.glob("checkpoints/.*"))


def test_saving_a_step_again_replaces_it(config):
    for seed in (0, 1):
        model, optimizer = trained(config, seed=seed)
        checkpoint.save(config.run, 3, model, optimizer, {})
    loaded, _ = checkpoint.load_model(config.run, 3)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


def test_another_model_or_tokenizer_is_refused(three):
    other = dataclasses.replace(three, model=dataclasses.replace(three.model, dim=32))
    with pytest.raises(CheckpointError, match="step-00000009 does not fit the model"):
        checkpoint.restore(three.run, 9, *trained(other, 0))
    pieces = Tokenizer.load(three.run / "tokenizer.model").vocab_size
    assert pieces == 320
    larger = dataclasses.replace(three.model, vocab_size=512)
    write_config(three.run / "config.toml", dataclasses.replace(three, model=larger))
    with pytest.raises(CheckpointError, match="has 320 pieces but the model has 512"):
        checkpoint.load_model(three.run)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["checkpoint.save_file", "checkpoint.torch.save",
                                   "checkpoint.write_json", "checkpoint.sha256"])  # fmt: skip
def test_a_full_disk_leaves_the_last_good_checkpoint(three, monkeypatch, where):
    before = {p: p.read_bytes() for p in three.run.rglob("*") if p.is_file()}
    monkeypatch.setattr(f"minillama.train.{where}", no_space)
    with pytest.raises(
        CheckpointError, match="the disk is full. The checkpoint of step 9 is intact"
    ):
        checkpoint.save(three.run, 12, *trained(three), {})
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in three.run.rglob("*") if p.is_file()} == before
    assert checkpoint.last_good(three.run) == 9


def test_a_full_disk_before_the_first_checkpoint(config, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(CheckpointError, match="the disk is full. None was written before"):
        checkpoint.save(config.run, 3, *trained(config), {})


@pytest.mark.parametrize("limit", [0, 200, 5_000, 100_000])
def test_writes_that_really_fail(three, limit):
    """The kernel refuses the write itself: a process of ours may write files of ``limit`` bytes."""
    size = (checkpoint.folder(three.run, 9) / "optimizer.pt").stat().st_size
    assert size > 100_000
    read, write = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            checkpoint.save(three.run, 12, *trained(three), {})
        except MinillamaError as error:
            os.write(write, json.dumps(str(error)).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, "rb") as pipe:
        told = json.loads(pipe.read() or b'"no error of ours"')
    assert told.startswith("cannot write ") and "step 9 is intact" in told and "\n" not in told
    assert checkpoint.steps(three.run) == [3, 6, 9]
    assert checkpoint.last_good(three.run) == 9
    assert not list(three.run.glob("checkpoints/.*"))
