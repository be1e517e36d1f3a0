"""Meta's layout: shards cut as its model-parallel layers cut them, whole again when read."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from tiny import TinyCorpus, python

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError
from minillama.interop import huggingface, meta
from minillama.model import Llama
from minillama.tokenizer import Tokenizer, train_tokenizer

CONFIG = ModelConfig(dim=64, n_layers=2, n_heads=8, vocab_size=320, multiple_of=8, max_seq_len=24,
                     norm_eps=1e-5)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def new_model(dtype: torch.dtype = torch.float32, config: ModelConfig = CONFIG) -> Llama:
    torch.manual_seed(0)
    model = Llama(config)
    for weight in model.parameters():  # norms too: ones would hide a mistake
        weight.data = torch.randn_like(weight).to(dtype)
    return model


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    return meta.save(new_model(), tokenizer, tmp_path_factory.mktemp("saved") / "a model", 4)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy in 4 shards, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def shard(folder: Path, rank: int) -> Path:
    return folder / f"consolidated.{rank:02}.pth"


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    """Set tensors of a shard; None removes one. Dots of a name are written as two underscores."""
    named = {name.replace("__", "."): value for name, value in tensors.items()}
    content = torch.load(path, weights_only=True) | named
    torch.save({name: value for name, value in content.items() if value is not None}, path)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in type and in every bit, NaN included."""
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_saved_and_loaded_is_the_same(shards, dtype, tokenizer, tmp_path):
    model = new_model(dtype)
    with torch.no_grad():
        model.layers[1].feed_forward.w2.weight[3, 5] = torch.nan
    meta.save(model, tokenizer, tmp_path, shards)
    assert len(list(tmp_path.glob("consolidated.*.pth"))) == shards
    again, pieces = meta.load(tmp_path, CONFIG.max_seq_len)
    assert again.config == CONFIG
    assert pieces.model == tokenizer.model
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(same_bits(state[name], weight) for name, weight in model.state_dict().items())
    assert torch.equal(again.rotary, model.rotary)


def test_a_loaded_model_works_and_does_not_need_the_files(folder):
    model, _ = meta.load(folder, CONFIG.max_seq_len)
    shutil.rmtree(folder)
    tokens = torch.randint(320, (2, 20))
    assert torch.equal(model(tokens), new_model()(tokens))
    model(tokens, targets=tokens).backward()  # it can be trained further


def by_hand(shards: int, config: ModelConfig = CONFIG) -> tuple[list[dict], dict]:
    """What each GPU of a model-parallel run holds, drawn at random; and the whole, as the products
    of those layers define it: outputs one after another, inputs each to its part."""
    torch.manual_seed(shards)
    dim, hidden, vocab = config.dim, config.hidden_dim, config.vocab_size
    rows = {"attention.wq": dim, "attention.wk": dim, "attention.wv": dim,
            "feed_forward.w1": hidden, "feed_forward.w3": hidden}  # fmt: skip
    ranks: list[dict] = [{} for _ in range(shards)]
    whole = {}

    def draw(name: str, height: int, width: int, axis: int) -> None:
        parts = [torch.randn(height, width, dtype=torch.float16) for _ in ranks]
        for rank, part in zip(ranks, parts, strict=True):
            rank[name] = part
        whole[name] = torch.cat(parts, axis)

    draw("tok_embeddings.weight", vocab, dim // shards, 1)
    draw("output.weight", vocab // shards, dim, 0)
    norms = ["norm.weight"]
    for i in range(config.n_layers):
        for name, height in rows.items():
            draw(f"layers.{i}.{name}.weight", height // shards, dim, 0)
        draw(f"layers.{i}.attention.wo.weight", dim, dim // shards, 1)
        draw(f"layers.{i}.feed_forward.w2.weight", dim, hidden // shards, 1)
        norms += [f"layers.{i}.attention_norm.weight", f"layers.{i}.ffn_norm.weight"]
    for name in norms:
        whole[name] = torch.randn(dim, dtype=torch.float16)
        for rank in ranks:
            rank[name] = whole[name]
    for rank in ranks:
        rank["rope.freqs"] = torch.rand(config.head_dim // 2).half()
    return ranks, whole


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_a_folder_as_meta_made_them(shards, tokenizer, tmp_path):
    """The tokenizer stands in the folder above, beside the folders of all sizes."""
    ranks, whole = by_hand(shards)
    folder = tmp_path / "7B"
    folder.mkdir()
    tokenizer.save(tmp_path / "tokenizer.model")
    (folder / "params.json").write_text(
        '{"dim": 64, "multiple_of": 8, "n_heads": 8, "n_layers": 2, "norm_eps": 1e-06, '
        '"vocab_size": -1}'
    )
    for rank, tensors in enumerate(ranks):
        torch.save(tensors, shard(folder, rank))
    model, _ = meta.load(folder)
    assert (model.config.vocab_size, model.config.max_seq_len, model.config.norm_eps) == (
        320, 2048, 1e-6,
    )  # fmt: skip
    state = model.state_dict()
    assert all(same_bits(state[name], whole[name]) for name in state) and len(state) == len(whole)
    # and back: what is written is what was read, but for the frequencies
    meta.save(model, tokenizer, tmp_path / "again", shards)
    for rank, tensors in enumerate(ranks):
        written = torch.load(shard(tmp_path / "again", rank), weights_only=True)
        assert written.keys() == tensors.keys()
        del written["rope.freqs"]
        assert all(same_bits(written[name], tensors[name]) for name in written)
    assert json.loads((tmp_path / "again" / "params.json").read_text()) == json.loads(
        (folder / "params.json").read_text()
    )


def test_shards_are_no_larger_than_their_part(saved):
    sizes = [shard(saved, rank).stat().st_size for rank in range(4)]
    weights = 4 * CONFIG.num_parameters()
    assert weights < sum(sizes) < 1.2 * weights
    freqs = torch.load(shard(saved, 3), weights_only=True)["rope.freqs"]
    assert torch.allclose(freqs, 10_000 ** (-torch.arange(0, 8, 2) / 8))


def test_frequencies_of_the_first_release_are_passed_over(folder):
    name = "layers__0__attention__inner_attention__rope__freqs"
    change(shard(folder, 0), **{name: torch.rand(4)})
    meta.load(folder)


def test_another_rotary_base_comes_back(tokenizer, tmp_path):
    config = ModelConfig(**{**CONFIG.__dict__, "rope_theta": 5e5})
    meta.save(new_model(config=config), tokenizer, tmp_path)
    assert meta.load(tmp_path, CONFIG.max_seq_len)[0].config == config


def test_through_hugging_faces_format_and_back(folder, tmp_path):
    first, pieces = meta.load(folder, CONFIG.max_seq_len)
    huggingface.save(first, pieces, tmp_path / "between")
    second, pieces = huggingface.load(tmp_path / "between")
    meta.save(second, pieces, tmp_path / "last", 4)
    for rank in range(4):
        one, other = (torch.load(shard(f, rank)) for f in (folder, tmp_path / "last"))
        assert all(same_bits(one[name], other[name]) for name in one)


def test_a_shard_too_few_or_too_many(folder):
    shard(folder, 3).rename(folder / "away")
    with pytest.raises(ConfigError, match="3 shards. Meta's format has 1, 2, 4, 8"):
        meta.load(folder)
    shard(folder, 2).unlink()
    with pytest.raises(CheckpointError, match="00.pth.*is .* not"):
        meta.load(folder)
    (folder / "away").rename(shard(folder, 3))
    with pytest.raises(CheckpointError, match="consolidated.02.pth does not exist"):
        meta.load(folder)


def test_no_shard_at_all(folder):
    for rank in range(4):
        shard(folder, rank).unlink()
    with pytest.raises(CheckpointError, match="consolidated.00.pth does not exist"):
        meta.load(folder)


@pytest.mark.parametrize("tensors, said", [
    ({"norm__weight": None}, "lacks the tensor 'norm.weight'"),
    ({"more": torch.ones(2)}, "has an unknown tensor 'more'"),
    ({"norm__weight": torch.ones(63)}, r"'norm.weight' is \(63,\)"),
    ({"output__weight": torch.ones(80, 64, dtype=torch.int8)}, "int8"),
    ({"output__weight": torch.ones(80, 64).half()}, "float16, but torch.float32 in the first"),
    ({"output__weight": torch.ones(64, 80)}, r"is \(64, 80\) torch.float32, not \(80, 64\)"),
])  # fmt: skip
def test_shards_that_do_not_fit_are_named(folder, tensors, said):
    change(shard(folder, 2), **tensors)
    with pytest.raises(CheckpointError, match=f"consolidated.02.pth.*{said}"):
        meta.load(folder)


@pytest.mark.parametrize("name", ["params.json", "consolidated.01.pth", "tokenizer.model"])
def test_a_missing_or_damaged_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (content[: len(content) // 2], content[:50], b"", b"\xff\xfe" * 50):
        (folder / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name) as told:
            meta.load(folder)
        assert "\n" not in str(told.value)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} does not exist"):
        meta.load(folder)


class Malicious:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("old", [False, True])
def test_a_malicious_pickle_is_refused(old, folder, tmp_path):
    harm = tmp_path / "harm"
    torch.save({"norm.weight": Malicious(harm)}, shard(folder, 1),
               _use_new_zipfile_serialization=not old)  # fmt: skip
    with pytest.raises(CheckpointError, match="consolidated.01.pth is damaged") as told:
        meta.load(folder)
    assert "\n" not in str(told.value) and not harm.exists()
    assert old or "could run code" in str(told.value)
    torch.load(shard(folder, 1), weights_only=False)  # it is what it is said to be
    assert harm.exists()


def test_a_plain_pickle_is_refused(folder, tmp_path):
    shard(folder, 0).write_bytes(pickle.dumps(Malicious(tmp_path / "harm")))
    with pytest.raises(CheckpointError, match="consolidated.00.pth is damaged"):
        meta.load(folder)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [
    [torch.ones(64)],
    {"model": {"norm.weight": torch.ones(64)}},
    {0: torch.ones(64)},
    {"norm.weight": torch.ones(64).to_sparse()},
    {"norm.weight": torch.ones(64, device="meta")},
], ids=["list", "nested", "numbered", "sparse", "no numbers"])  # fmt: skip
def test_a_checkpoint_of_something_else(content, folder):
    torch.save(content, shard(folder, 0))
    with pytest.raises(CheckpointError, match="no plain table of weights"):
        meta.load(folder)


@pytest.mark.parametrize("settings, kind, said", [
    ({"dim": None}, CheckpointError, "params.json lacks 'dim'"),
    ({"dim": "wide"}, CheckpointError, "params.json is malformed"),
    ({"n_layers": 3}, CheckpointError, "lacks the tensor 'layers.2"),
    ({"dim": 128}, CheckpointError, "00.pth.*not"),
    ({"vocab_size": 321}, CheckpointError, "the tokenizer has 320 pieces but the model has 321"),
    ({"n_kv_heads": 2}, ConfigError, "n_kv_heads = 2 instead of 8"),
    ({"ffn_dim_multiplier": 1.3}, ConfigError, "ffn_dim_multiplier = 1.3"),
    ({"n_heads": 2}, ConfigError, "n_heads = 2 cannot be cut into 4 shards"),
    ({"n_heads": 7}, ConfigError, "not a multiple of n_heads"),
])  # fmt: skip
def test_settings_that_do_not_fit(folder, settings, kind, said):
    path = folder / "params.json"
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(kind, match=said):
        meta.load(folder)


def test_another_vocabulary_is_told_by_the_shapes(folder, tmp_path, tiny_corpus):
    text = (tiny_corpus.folder / "text" / "books.train.jsonl").read_text()
    train_tokenizer([text], folder / "tokenizer.model", 360)
    with pytest.raises(CheckpointError, match=r"tok_embeddings.weight' is \(320, 16\).*360, 16"):
        meta.load(folder)


def test_what_cannot_be_saved(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="3 shards. Meta's format has 1, 2, 4, 8"):
        meta.save(new_model(), tokenizer, tmp_path / "m", 3)
    two = Llama(ModelConfig(dim=64, n_layers=1, n_heads=2, vocab_size=320, multiple_of=8))
    with pytest.raises(ConfigError, match="n_heads = 2 cannot be cut into 8 shards"):
        meta.save(two, tokenizer, tmp_path / "m", 8)
    other = Llama(ModelConfig(dim=8, n_layers=1, n_heads=1, vocab_size=321))
    with pytest.raises(CheckpointError, match="320 pieces but the model has 321"):
        meta.save(other, tokenizer, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        meta.save(new_model(), tokenizer, tmp_path / "file")


def test_shards_of_another_checkpoint_are_not_mixed_in(folder, tokenizer):
    before = shard(folder, 0).read_bytes()
    with pytest.raises(CheckpointError, match="consolidated.02.pth is of another checkpoint"):
        meta.save(new_model(), tokenizer, folder, 2)
    assert shard(folder, 0).read_bytes() == before


MEMORY = """
import sys, torch
from pathlib import Path
from minillama.interop import meta

def now(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

torch.set_num_threads(1)
meta.load(Path(sys.argv[1]))  # what the first call loads is not the model's
before = now("VmRSS")
model, _ = meta.load(Path(sys.argv[2]))
size = sum(weight.nbytes for weight in model.parameters())
print(size, now("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no account of memory")
@pytest.mark.parametrize("shards", [1, 4])
def test_loading_takes_little_more_than_the_model(shards, saved, tokenizer, tmp_path):
    """Measured: 1.06 times its size from one shard, 1.02 from four. (``ru_maxrss`` would count what
    the parent held when it started the process.)"""
    config = ModelConfig(dim=512, n_layers=16, n_heads=8, vocab_size=320, multiple_of=64)
    with torch.device("meta"):
        model = Llama(config)
    model = model.to_empty(device="cpu")
    meta.save(model, tokenizer, tmp_path, shards)
    del model
    done = python("-c", MEMORY, str(saved), str(tmp_path))
    shutil.rmtree(tmp_path)  # pytest would keep 200 MB
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    assert size > 190e6
    assert size < peak < 1.2 * size
