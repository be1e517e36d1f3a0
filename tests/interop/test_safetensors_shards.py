"""Hugging Face folders in shards: as transformers writes them, read a tensor at a time."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TinyCorpus, python
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from minillama.config import ModelConfig
from minillama.errors import CheckpointError
from minillama.interop import huggingface, shards
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

CONFIG = ModelConfig(dim=24, n_layers=3, n_heads=2, vocab_size=320, multiple_of=24, max_seq_len=256)
LIMIT = 40_000
"""Bytes of a file; an embedding has 30,720."""


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def new_model(seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    return Llama(CONFIG)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    return huggingface.save(new_model(), tokenizer, tmp_path_factory.mktemp("saved") / "m", LIMIT)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def shard(folder: Path, number: int) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[number]


def same(one: Llama, other: Llama) -> bool:
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(w, there[n]) for n, w in here.items())


def test_a_plan_by_hand():
    sizes = {"a": 4, "b": 4, "big": 11, "c": 3, "d": 2}
    parts = list(shards.plan_shards(sizes, 10).filename_to_tensors.values())
    assert parts == [["big"], ["a", "b"], ["c", "d"]]
    names = list(shards.plan_shards(sizes, 10).filename_to_tensors)
    assert names == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert list(shards.plan_shards(sizes, 30).filename_to_tensors) == ["model.safetensors"]


@pytest.mark.parametrize("limit", [10_000, LIMIT, 60_000, 10**9])
def test_files_are_those_that_transformers_writes(limit, tokenizer, tmp_path):
    huggingface.save(new_model(), tokenizer, tmp_path / "ours", limit)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs = LlamaForCausalLM(read.config)  # from_pretrained changes the order
    theirs.load_state_dict(read.state_dict())
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    files = sorted(file.name for file in (tmp_path / "theirs").glob("model*"))
    assert sorted(file.name for file in (tmp_path / "ours").glob("model*")) == files
    for name in files:
        one, other = tmp_path / "ours" / name, tmp_path / "theirs" / name
        if name.endswith("json"):
            assert one.read_text() == other.read_text()
        else:
            here, there = load_file(one), load_file(other)
            assert here.keys() == there.keys()
            assert all(torch.equal(here[key], there[key]) for key in here)
    tokenizer.save(tmp_path / "theirs" / "tokenizer.model")
    assert same(huggingface.load(tmp_path / "theirs")[0], new_model())


def test_200_greedy_tokens_are_those_of_transformers(saved):
    theirs = AutoModelForCausalLM.from_pretrained(saved)
    ours, pieces = huggingface.load(saved)
    prompt = torch.tensor([pieces.encode("the old miller", bos=True)])
    expected = theirs.generate(
        prompt, max_new_tokens=200, min_new_tokens=200, do_sample=False, pad_token_id=0
    )
    tokens = prompt
    with torch.no_grad():
        for _ in range(200):
            logits = ours(tokens)[:, -1]
            logits[:, pieces.eos_id] = -torch.inf  # min_new_tokens
            tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), 1)
        assert (ours(expected) - theirs(expected).logits).abs().max() < 1e-5
    assert torch.equal(tokens, expected)


def test_tied_weights_are_written_twice(tokenizer, tmp_path):
    model = new_model()
    model.output.weight = model.tok_embeddings.weight
    again, _ = huggingface.load(huggingface.save(model, tokenizer, tmp_path))
    assert torch.equal(again.output.weight, model.tok_embeddings.weight)


def test_a_loaded_model_does_not_need_the_files(folder):
    model, _ = huggingface.load(folder)
    for file in folder.iterdir():
        file.write_bytes(b"")
    assert same(model, new_model())


def change_index(folder: Path, **places: str | None) -> None:
    """Set where tensors are (dots as two underscores); None removes one."""
    index = json.loads((folder / shards.INDEX).read_text())
    index["weight_map"] |= {name.replace("__", "."): file for name, file in places.items()}
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file}
    (folder / shards.INDEX).write_text(json.dumps(index))


def told(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        huggingface.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [
    "../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "a\\b", 3,
])  # fmt: skip
def test_an_index_that_leads_out_of_the_folder(name, folder, tmp_path):
    shutil.copy(shard(folder, 0), tmp_path / "outside.safetensors")
    index = json.loads((folder / shards.INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name
    (folder / shards.INDEX).write_text(json.dumps(index))
    assert f"names {name!r}, which is not in its folder" in told(folder)


def test_an_index_of_other_files(folder):
    change_index(folder, model__norm__weight=shard(folder, 0).name)
    said = f"lacks the tensor 'model.norm.weight', which the index has in {shard(folder, 0).name}"
    assert said in told(folder)
    change_index(folder, model__norm__weight=None)
    assert "has the tensor 'model.norm.weight', which the index has nowhere" in told(folder)
    for content in ("{}", '{"weight_map": []}', '{"weight_map": {}}'):
        (folder / shards.INDEX).write_text(content)
        assert "index.json names no file" in told(folder)


def test_a_tensor_in_two_files(folder):
    first, last = shard(folder, 0), shard(folder, -1)
    content = load_file(last)
    double = next(iter(load_file(first)))
    save_file(content | {double: torch.zeros(2)}, last)
    said = f"{last} has the tensor '{double}', which the index has in {first.name}"
    assert said in told(folder)


def test_a_shard_too_few(folder):
    lost = shard(folder, 1)
    lost.unlink()
    assert f"{lost} does not exist" in told(folder)


def test_shards_and_a_single_file(folder):
    shutil.copy(shard(folder, 0), folder / shards.SINGLE)
    assert "holds model.safetensors and model.safetensors.index.json" in told(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_shard(keep, folder):
    file = shard(folder, 1)
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{file} is damaged" in told(folder)


def test_other_weights_in_the_folder_are_not_mixed_in(folder, tokenizer):
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(CheckpointError, match="00001-of-.* is of another checkpoint"):
        huggingface.save(new_model(1), tokenizer, folder)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_files_that_are_not_ours_stay(folder, tokenizer):
    (folder / "notes.txt").write_text("mine")
    huggingface.save(new_model(1), tokenizer, folder, LIMIT)
    assert same(huggingface.load(folder)[0], new_model(1))
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_what_was_there(exists, folder, tokenizer, tmp_path, monkeypatch):
    calls = []

    def full(content: dict, path: Path, metadata: dict) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save_file(content, path, metadata)

    monkeypatch.setattr(shards, "save_file", full)
    target = folder if exists else tmp_path / "new"
    with pytest.raises(CheckpointError, match="No space left"):
        huggingface.save(new_model(1), tokenizer, target, LIMIT)
    assert len(calls) == 2 and not list(tmp_path.rglob(".*"))
    if exists:
        assert same(huggingface.load(folder)[0], new_model())
    else:
        assert not target.exists()


def test_a_folder_whose_files_were_half_moved_is_no_model(folder, tokenizer, monkeypatch):
    """A crash while files are put in their places: half are new, and nobody takes them for one."""
    from minillama.interop import common

    moved, replace = [], common.os.replace

    def crash(source: Path, target: Path) -> None:
        if Path(target).parent == folder and Path(target).suffix == ".safetensors":
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(common.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        huggingface.save(new_model(1), tokenizer, folder, LIMIT)
    monkeypatch.undo()
    assert "config.json does not exist" in told(folder)
    huggingface.save(new_model(1), tokenizer, folder, LIMIT)
    assert same(huggingface.load(folder)[0], new_model(1))


MEMORY = """
import sys, torch
from pathlib import Path
from minillama.interop import huggingface

def now(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

torch.set_num_threads(1)
huggingface.load(Path(sys.argv[1]))  # what the first call loads is not the model's
before = now("VmRSS")
model, _ = huggingface.load(Path(sys.argv[2]))
size = sum(weight.nbytes for weight in model.parameters())
print(size, now("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no account of memory")
@pytest.mark.parametrize("limit", [40_000_000, shards.MAX_BYTES], ids=["shards", "one file"])
def test_loading_takes_little_more_than_the_model(limit, saved, tokenizer, tmp_path):
    config = ModelConfig(dim=512, n_layers=16, n_heads=8, vocab_size=320, multiple_of=64)
    with torch.device("meta"):
        model = Llama(config)
    huggingface.save(model.to_empty(device="cpu"), tokenizer, tmp_path, limit)
    del model
    done = python("-c", MEMORY, str(saved), str(tmp_path))
    shutil.rmtree(tmp_path)  # pytest would keep 200 MB
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    print(f"{peak / size:.3f} times the model")
    assert size > 190e6
    assert size < peak < 1.2 * size
