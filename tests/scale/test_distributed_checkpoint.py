"""Checkpoints of many processes: any number of processes goes on from them, and none can harm."""

import dataclasses
import json
import os
import pickle
import shutil

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.fsdp  # noqa: F401  (once, not in every process)
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from minillama.apps.cli import main
from minillama.apps.evaluate import EvalRecord
from minillama.errors import CheckpointError
from minillama.files import sha256
from minillama.model import Llama
from minillama.parallel.mesh import ParallelConfig
from minillama.scale import distributed_checkpoint
from minillama.scale.launcher import launch
from minillama.scale.runtime import join_world
from minillama.scale.runtime import train_distributed as train
from minillama.train import checkpoint
from minillama.train.log import read_metrics
from minillama.train.optimizer import build_optimizer

MESHES = {
    "1": (1, ParallelConfig()),
    "DDP 2": (2, ParallelConfig()),
    "FSDP 2": (2, ParallelConfig(shard=2)),
    "FSDP 4": (4, ParallelConfig(shard=4)),
    "hybrid 2 x 2": (4, ParallelConfig(shard=2)),
    "TP 2": (2, ParallelConfig(tensor=2)),
    "FSDP 2 x TP 2": (4, ParallelConfig(shard=2, tensor=2)),
}

SPREAD = [mesh for mesh, (_, parallel) in MESHES.items() if parallel != ParallelConfig()]


def train_on(config, mesh, timeout=60):
    """Train on a mesh of MESHES; returns the new configuration."""
    size, parallel = MESHES[mesh]
    config = dataclasses.replace(config, parallel=parallel)
    if size == 1:
        train(config)
    else:
        launch(lambda _: train(config) and None, size, group=False, timeout=timeout)
    return config


def losses(config):
    return [record["loss"] for record in read_metrics(config.run)]


@pytest.fixture(scope="module")
def runs(tiny_corpus, tmp_path_factory):
    """The same run on one process and on 2 x 2, each with checkpoints of steps 1, 9 and 12."""
    folder = tmp_path_factory.mktemp("runs of many")
    config = tiny_config(tiny_corpus.folder, folder, micro_batch=4, eval_every=12)
    names = {"1": "one", "FSDP 2 x TP 2": "four"}
    return {m: train_on(dataclasses.replace(config, name=n), m) for m, n in names.items()}


@pytest.fixture
def four(runs, tmp_path):
    """A copy of the run on 2 x 2 processes."""
    config = runs["FSDP 2 x TP 2"]
    shutil.copytree(config.run, tmp_path / "four")
    return dataclasses.replace(config, runs=str(tmp_path))


@pytest.mark.parametrize(
    ("before", "after"),
    [("FSDP 2 x TP 2", "1"), ("FSDP 2 x TP 2", "FSDP 2"), ("FSDP 2 x TP 2", "FSDP 4"),
     ("FSDP 2 x TP 2", "DDP 2"), ("1", "FSDP 2"), ("FSDP 2 x TP 2", "TP 2")],
)  # fmt: skip
def test_a_run_goes_on_with_the_same_losses_on_another_mesh(runs, tmp_path, before, after):
    source, golden = runs[before], losses(runs["1"])
    config = dataclasses.replace(source, runs=str(tmp_path))
    shutil.copytree(source.run, config.run)
    checkpoint.delete(checkpoint.folder(config.run, 12))
    config = train_on(config, after)
    assert losses(config)[:9] == losses(source)[:9]  # it went on after step 9
    assert losses(config) == pytest.approx(golden, abs=1e-5)
    assert losses(config)[9:] != pytest.approx(golden[8:11], abs=1e-3)  # these differ
    assert checkpoint.is_sharded(checkpoint.folder(config.run, 12)) == (after in SPREAD)
    assert checkpoint.is_sharded(checkpoint.folder(config.run, 9)) == (before in SPREAD)
    weights, expected = (checkpoint.load_model(r, 12)[0] for r in (config.run, runs["1"].run))
    for name, weight in weights.state_dict().items():
        torch.testing.assert_close(weight, expected.state_dict()[name], atol=2e-4, rtol=0)


def save_and_gather(rank, run, config):
    """Train a step on a mesh, save; all tensors as they were, whole."""
    world = join_world("cpu", config.parallel)
    model, step_model = world.build_model(config)
    optimizer = build_optimizer(model, config.optimizer)
    torch.manual_seed(world.data_rank)
    tokens = torch.randint(0, 320, (2, 17))
    for _ in range(3):
        step_model(tokens[:, :-1], targets=tokens[:, 1:]).backward()
        optimizer.step()
    tensors = distributed_checkpoint.named_tensors(model, optimizer)
    distributed_checkpoint.save_shards(run, 3, tensors, {"data": "x"})
    return whole_tensors(tensors)


def restore_and_gather(rank, run, config):
    """All tensors of a checkpoint, read on a mesh and put together by communication."""
    world = join_world("cpu", config.parallel)
    model, _ = world.build_model(config)
    optimizer = build_optimizer(model, config.optimizer)
    distributed_checkpoint.restore(run, 3, model, optimizer)
    return whole_tensors(distributed_checkpoint.named_tensors(model, optimizer))


def whole_tensors(tensors):
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in tensors.items()}


def test_weights_and_moments_are_the_same_bit_for_bit_on_every_mesh(runs, tmp_path):
    """Hybrid sharding has copies; each shard is written once."""
    model = dataclasses.replace(runs["1"].model, dim=20, vocab_size=321)  # uneven shards
    of = {
        mesh: dataclasses.replace(runs["1"], model=model, parallel=parallel)
        for mesh, (_, parallel) in MESHES.items()
    }
    saved, *_ = launch(save_and_gather, 4, tmp_path, of["hybrid 2 x 2"], group=False)
    assert len(saved) == 4 * len(Llama(model).state_dict())
    folder = checkpoint.folder(tmp_path, 3)
    checkpoint.verify(folder)
    values = sum(t.numel() for t in saved.values()) * 4
    assert values < sum(f.stat().st_size for f in folder.glob("*.safetensors")) < values + 40_000
    for loaded in launch(restore_and_gather, 4, tmp_path, of["FSDP 4"], group=False):
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    alone = restore_and_gather(0, tmp_path, of["1"])
    assert all(torch.equal(alone[name], saved[name]) for name in saved)
    shutil.rmtree(folder)
    restored = Llama(model)
    optimizer = build_optimizer(restored, of["1"].optimizer)
    for name, tensor in distributed_checkpoint.named_tensors(restored, optimizer).items():
        tensor.copy_(saved[name])
    checkpoint.save(tmp_path, 3, restored, optimizer, {})  # and from the form of one process
    for loaded in launch(restore_and_gather, 2, tmp_path, of["FSDP 2"], group=False):
        assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert {float(saved[name]) for name in saved if name.endswith(".step")} == {3.0}


def shards_of_every_kind(rank, run, size):
    """Uneven shards, an empty one, shards along two dimensions, a copy, a number."""
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("a", "b"))
    even = torch.arange(48.0).view(6, 8)
    tensors = {
        "both": distribute_tensor(even, mesh, [Shard(0), Shard(1)]),
        "uneven": distribute_tensor(torch.arange(15.0).view(5, 3), mesh, [Shard(0), Shard(0)]),
        "short": distribute_tensor(torch.arange(3.0), mesh, [Shard(0), Replicate()]),
        "copy": distribute_tensor(even + 1, mesh, [Replicate(), Replicate()]),
        "state.copy.exp_avg": torch.arange(4.0),
        "state.copy.step": torch.tensor(7.0),
    }
    if not checkpoint.steps(run):
        distributed_checkpoint.save_shards(run, 1, tensors, {})
        return None
    for tensor in tensors.values():
        tensor.zero_()
    folder = checkpoint.folder(run, 1)
    checkpoint.read_tensors(folder, tensors, together=True)
    return whole_tensors(tensors)


def test_shards_of_every_kind_come_back_on_another_mesh(tmp_path):
    launch(shards_of_every_kind, 4, tmp_path, 4)
    for tensors in launch(shards_of_every_kind, 2, tmp_path, 2):
        assert torch.equal(tensors["both"], torch.arange(48.0).view(6, 8))
        assert torch.equal(tensors["uneven"], torch.arange(15.0).view(5, 3))
        assert torch.equal(tensors["short"], torch.arange(3.0))
        assert torch.equal(tensors["copy"], torch.arange(1.0, 49.0).view(6, 8))
        assert torch.equal(tensors["state.copy.exp_avg"], torch.arange(4.0))
        assert torch.equal(tensors["state.copy.step"], torch.tensor(7.0))


# using it


def test_convert_generate_and_evaluate_read_it(four, tmp_path, capsys):
    main(["convert", str(four.run), "--to", "huggingface", "--out", str(tmp_path / "one file")])
    assert (tmp_path / "one file" / "model.safetensors").exists()
    main(["convert", str(tmp_path / "one file"), "--to", "meta", "--out", str(tmp_path / "meta"),
          "--max-seq-len", "32"])  # fmt: skip
    back = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    weights = checkpoint.load_model(four.run)[0].state_dict()
    assert torch.equal(back["tok_embeddings.weight"], weights["tok_embeddings.weight"])
    capsys.readouterr()
    main(["generate", str(four.run), "the", "--max-new-tokens", "4",
          "--temperature", "0"])  # fmt: skip
    assert capsys.readouterr().out.startswith("the")
    settings, logged = {"style": "llama", "limit": None}, {"tokens": 1, "loss": 1.0}
    books = [EvalRecord(four.run, step, settings, logged) for step in (1, 9, 12)]
    assert len({book.record["settings"]["model_sha256"] for book in books}) == 3


# what is damaged


def file_names(run):
    return sorted(p.name for p in checkpoint.folder(run, 12).iterdir())


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_named_and_the_one_before_is_used(four, number, damage):
    names = file_names(four.run)
    assert len(names) == 10
    path = checkpoint.folder(four.run, 12) / names[number]
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "remove":
        path.write_bytes(content[:-3] if damage == "cut" else content)
    name = path.name if path.name != "manifest.json" else "step-00000012"
    with pytest.raises(CheckpointError, match=f"{name}.*elete this checkpoint folder"):
        checkpoint.load_model(four.run, 12)
    with pytest.warns(UserWarning, match=f"skipping a damaged checkpoint: .*{name}"):
        assert checkpoint.last_good(four.run) == 9


def test_all_ranks_agree_on_the_last_good_one_and_each_file_is_summed_once(four):
    whole = checkpoint.folder(four.run, 9)
    (checkpoint.folder(four.run, 12) / "shard-00002-model-00002-of-00002.safetensors").unlink()

    def search(rank):
        summed, real = [], checkpoint.sha256
        checkpoint.sha256 = lambda path: (summed.append(path), real(path))[1]
        world = join_world("cpu")
        with pytest.warns(UserWarning, match="shard-00002-model-00002.* is missing"):
            step = distributed_checkpoint.last_good(four.run, world)
        return step, [str(path) for path in summed if path.parent == whole]

    found = launch(search, 3, group=False)
    assert [step for step, _ in found] == [9, 9, 9]
    summed = sorted(path for _, paths in found for path in paths)
    assert summed == sorted(str(p) for p in whole.iterdir() if p.name != "manifest.json")


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("form", ["1", "FSDP 2 x TP 2"])
def test_another_model_is_refused_on_all_ranks(runs, size, form):
    config = dataclasses.replace(
        runs[form], parallel=MESHES[f"FSDP {size}" if size > 1 else "1"][1]
    )
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, n_layers=3))

    def attempt(rank):
        world = join_world("cpu", other.parallel)
        model, _ = world.build_model(other)
        with pytest.raises(CheckpointError, match="does not fit the model: .*layers.2"):
            distributed_checkpoint.restore(
                other.run, 12, model, build_optimizer(model, other.optimizer)
            )

    launch(attempt, size, group=False) if size > 1 else attempt(0)


# what comes from elsewhere


class Harm:
    """A pickle of it creates a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def alter(folder, name, content):
    """Change a file and its checksum, as who makes a checkpoint can."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = sha256(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "state.json",
        "shard-00001-model-00001-of-00002.safetensors",
        "shard-00001-model-00002-of-00002.safetensors",
        ".metadata",
    ],
)
def test_a_pickle_is_not_opened(four, tmp_path, name):
    content = pickle.dumps(Harm(tmp_path / "harm"))
    folder = checkpoint.folder(four.run, 12)
    if name == ".metadata":  # where torch's own storage keeps one
        (folder / name).write_bytes(content)
    else:
        alter(folder, name, content)
    model, _ = join_world("cpu").build_model(dataclasses.replace(four, parallel=ParallelConfig()))
    try:
        distributed_checkpoint.last_good(four.run, join_world("cpu"))
        checkpoint.load_state(four.run, 12)
        distributed_checkpoint.restore(four.run, 12, model, build_optimizer(model, four.optimizer))
        assert name == ".metadata"
    except Exception as error:
        assert "Error" in type(error).__name__ and "step-00000012" in str(error)
    assert not (tmp_path / "harm").exists()


def test_a_pickle_in_a_checkpoint_of_one_process_is_not_opened(runs, tmp_path):
    config = dataclasses.replace(runs["1"], runs=str(tmp_path))
    shutil.copytree(runs["1"].run, config.run)
    where = checkpoint.folder(config.run, 12)
    torch.save({"state": Harm(tmp_path / "harm"), "param_groups": []}, where / "optimizer.pt")
    alter(where, "optimizer.pt", (where / "optimizer.pt").read_bytes())
    checkpoint.verify(where)

    def attempt(rank, parallel):
        model, _ = join_world("cpu", parallel).build_model(config)
        with pytest.raises(CheckpointError, match="optimizer.pt is not an optimizer's state"):
            distributed_checkpoint.restore(
                config.run, 12, model, build_optimizer(model, config.optimizer)
            )

    attempt(0, ParallelConfig())
    launch(attempt, 2, ParallelConfig(shard=2), group=False)
    assert not (tmp_path / "harm").exists()


def rewrite(offset=None, shape=None, other=None):
    """Change what the first weights' file says of ``norm.weight``, in its header."""

    def apply(folder):
        name = "shard-00001-model-00001-of-00002.safetensors"
        with safe_open(folder / name, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header = json.loads(file.metadata()["DCP_SHARDING_INFO"])
        header["norm.weight"] = {"saved_offsets": offset} if offset else other
        tensors["norm.weight"] = torch.zeros(shape or (16,))
        save_file(tensors, folder / name, {"DCP_SHARDING_INFO": json.dumps(header)})
        alter(folder, name, (folder / name).read_bytes())

    return apply


def leave_out(folder):
    """A manifest that does not know one of the files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shard-00001-model-00001-of-00002.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def drop(folder):
    """A file is gone, and the manifest does not know it either."""
    leave_out(folder)
    (folder / "shard-00001-model-00001-of-00002.safetensors").unlink()


@pytest.mark.parametrize(
    ("alteration", "what"),
    [
        (rewrite(offset=[8]), "does not fit the model: norm.weight"),
        (rewrite(offset=[8], shape=(8,)), "do not fill it"),
        (rewrite(offset=[-8]), "does not fit|do not fill"),
        (rewrite(offset=["a"]), "cannot read"),
        (rewrite(other=3), "cannot read"),
        (leave_out, "manifest.json misses shard-00001-model-00001"),
        (drop, "does not fit the model|do not fill it"),
    ],
)
def test_files_that_make_no_sense_are_refused(four, alteration, what):
    folder = checkpoint.folder(four.run, 12)
    alteration(folder)
    with pytest.raises(CheckpointError, match=what):
        checkpoint.load_model(four.run, 12)
    assert not dist.is_initialized()
