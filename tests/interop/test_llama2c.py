"""llama2.c's files, read back by a reader of our own that knows only the format."""

import struct
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import TinyCorpus, prose

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError
from minillama.interop import llama2c
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

CONFIG = ModelConfig(dim=24, n_layers=3, n_heads=2, vocab_size=320, multiple_of=20, max_seq_len=18,
                     norm_eps=1e-5)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def new_model(dtype: torch.dtype = torch.float32) -> Llama:
    torch.manual_seed(0)
    model = Llama(CONFIG)
    for name, weight in model.named_parameters():  # norms too: ones would hide a mistake
        drawn = weight + 0.3 * torch.randn_like(weight) if name.endswith("norm.weight") else weight
        weight.data = drawn.detach().to(dtype)
    return model


class Reader:
    """A model file, and the model computed from it in float64, one position after another."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        header = struct.unpack_from("<7i", content)
        self.dim, self.hidden, self.layers, self.heads, self.kv_heads, vocab, self.length = header
        self.vocab, self.tied = abs(vocab), vocab > 0
        self.left = np.frombuffer(content, "<f4", offset=28)
        n, d, h, pairs = self.layers, self.dim, self.hidden, self.dim // self.heads // 2
        self.embeddings = self.take(self.vocab, d)
        self.attention_norm = self.take(n, d)
        self.wq, self.wk, self.wv, self.wo = (self.take(n, d, d) for _ in range(4))
        self.ffn_norm = self.take(n, d)
        self.w1, self.w2, self.w3 = self.take(n, h, d), self.take(n, d, h), self.take(n, h, d)
        self.norm = self.take(d)
        self.cos, self.sin = self.take(self.length, pairs), self.take(self.length, pairs)
        self.output = self.embeddings if self.tied else self.take(self.vocab, d)
        assert not len(self.left), "more than the format says"

    def take(self, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        taken, self.left = self.left[:count], self.left[count:]
        return taken.reshape(shape)

    def scaled(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean() + 1e-5) * weight

    def turned(self, x: np.ndarray, position: int) -> np.ndarray:
        """Pairs of neighbors of each head; x is (dim,)."""
        pairs = x.reshape(self.heads, -1, 2)
        c, s = self.cos[position], self.sin[position]
        first, second = pairs[..., 0], pairs[..., 1]
        return np.stack((first * c - second * s, first * s + second * c), -1).reshape(-1)

    def logits(self, tokens: list[int]) -> np.ndarray:
        keys = [[] for _ in range(self.layers)]
        values = [[] for _ in range(self.layers)]
        rows = []
        for position, token in enumerate(tokens):
            x = self.embeddings[token].astype(np.float64)
            for i in range(self.layers):
                normed = self.scaled(x, self.attention_norm[i])
                q = self.turned(self.wq[i] @ normed, position).reshape(self.heads, -1)
                keys[i].append(self.turned(self.wk[i] @ normed, position).reshape(self.heads, -1))
                values[i].append((self.wv[i] @ normed).reshape(self.heads, -1))
                scores = np.einsum("hd,thd->ht", q, keys[i]) / np.sqrt(self.dim / self.heads)
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                x = x + self.wo[i] @ np.einsum("ht,thd->hd", weights, values[i]).reshape(-1)
                normed = self.scaled(x, self.ffn_norm[i])
                gate = self.w1[i] @ normed
                x = x + self.w2[i] @ (gate / (1 + np.exp(-gate)) * (self.w3[i] @ normed))
            rows.append(self.output @ self.scaled(x, self.norm))
        return np.array(rows)


class Vocabulary:
    """``tokenizer.bin``, and llama2.c's way to encode and decode with it."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        (self.longest,) = struct.unpack_from("<i", content)
        at, self.scores, self.pieces = 4, [], []
        while at < len(content):
            score, length = struct.unpack_from("<fi", content, at)
            at += 8
            self.scores.append(score)
            self.pieces.append(content[at : at + length])
            at += length
        self.ids = {piece: i for i, piece in reversed(list(enumerate(self.pieces)))}

    def encode(self, text: str) -> list[int]:
        """A space, the characters (or their bytes, from id 3 on), then the best merges."""
        ids = [self.ids[b" "]]
        for character in text:
            data = character.encode()
            ids += [self.ids[data]] if data in self.ids else [byte + 3 for byte in data]
        while True:
            pairs = [self.ids.get(self.pieces[a] + self.pieces[b]) for a, b in pairwise(ids)]
            found = [(-self.scores[new], i) for i, new in enumerate(pairs) if new is not None]
            if not found:
                return ids
            _, i = min(found)
            ids[i : i + 2] = [pairs[i]]

    def decode(self, ids: list[int]) -> str:
        texts = []
        for i in ids:
            piece = self.pieces[i]
            is_byte = len(piece) == 6 and piece.startswith(b"<0x")
            texts.append(bytes([int(piece[3:5], 16)]) if is_byte else piece)
        return b"".join(texts).decode()


def test_the_header_and_every_weight(tokenizer, tmp_path):
    model = new_model()
    with torch.no_grad():
        model.layers[1].feed_forward.w2.weight[3, 5] = torch.nan
    read = Reader(llama2c.save(model, tokenizer, tmp_path / "model.bin"))
    assert (read.dim, read.hidden, read.layers, read.heads, read.kv_heads) == (24, 80, 3, 2, 2)
    assert (read.vocab, read.tied, read.length) == (320, False, 18)
    state = {name: weight.numpy() for name, weight in model.state_dict().items()}
    assert np.array_equal(read.embeddings, state["tok_embeddings.weight"])
    assert np.array_equal(read.output, state["output.weight"])
    assert np.array_equal(read.norm, state["norm.weight"])
    for i in range(3):
        for name in ("attention_norm", "ffn_norm"):
            assert np.array_equal(getattr(read, name)[i], state[f"layers.{i}.{name}.weight"])
        for part, names in {"attention": "wq wk wv wo", "feed_forward": "w1 w2 w3"}.items():
            for name in names.split():
                here, there = getattr(read, name)[i], state[f"layers.{i}.{part}.{name}.weight"]
                assert np.array_equal(here, there, equal_nan=True), name
    assert np.isnan(read.w2[1, 3, 5])
    angles = np.outer(np.arange(18), 10_000.0 ** (-np.arange(0, 12, 2) / 12))
    assert np.allclose(read.cos, np.cos(angles), atol=1e-6)
    assert np.allclose(read.sin, np.sin(angles), atol=1e-6)


def test_logits_from_the_file_are_the_models(tokenizer, tmp_path):
    model = new_model()
    read = Reader(llama2c.save(model, tokenizer, tmp_path / "model.bin"))
    tokens = torch.randint(320, (1, 18), generator=torch.Generator().manual_seed(1))
    expected = model(tokens)[0].detach().double().numpy()
    found = read.logits(tokens[0].tolist())
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_tied_output_is_written_once(tokenizer, tmp_path):
    model = new_model()
    large = llama2c.save(model, tokenizer, tmp_path / "model.bin").stat().st_size
    model.output.weight = model.tok_embeddings.weight
    read = Reader(llama2c.save(model, tokenizer, tmp_path / "model.bin"))
    assert read.tied and read.vocab == 320
    assert large - (tmp_path / "model.bin").stat().st_size == 4 * 320 * 24
    expected = model(torch.tensor([[5, 7]]))[0].detach().numpy()
    assert np.allclose(read.logits([5, 7]), expected, rtol=1e-4, atol=1e-4)


def test_half_the_bits_become_float32(tokenizer, tmp_path):
    model = new_model(torch.bfloat16)
    read = Reader(llama2c.save(model, tokenizer, tmp_path / "model.bin"))
    weight = model.layers[2].attention.wo.weight.detach()
    assert np.array_equal(read.wo[2], weight.float().numpy())


def test_the_vocabulary_encodes_as_ours(tokenizer, tmp_path):
    llama2c.save(new_model(), tokenizer, tmp_path / "model.bin")
    read = Vocabulary(tmp_path / "tokenizer.bin")
    assert len(read.pieces) == 320 and read.longest == max(map(len, read.pieces))
    assert all(read.pieces)  # llama2.c cannot read an empty piece
    assert read.pieces[:4] == [b"<unk>", b"\n<s>\n", b"\n</s>\n", b"<0x00>"]
    for text in (prose(3), "def boat_1(value):\n    return value\n", "żółw  1066\t\U0001f422"):
        ids = tokenizer.encode(text)
        assert read.encode(text) == ids
        assert read.decode(ids) == " " + text


def test_what_cannot_be_saved(tokenizer, tmp_path):
    other = Llama(ModelConfig(dim=8, n_layers=1, n_heads=1, vocab_size=321))
    with pytest.raises(CheckpointError, match="320 pieces but the model has 321"):
        llama2c.save(other, tokenizer, tmp_path / "m" / "model.bin")
    turned = Llama(ModelConfig(**{**CONFIG.__dict__, "rope_theta": 5e5}))
    with pytest.raises(ConfigError, match="rope_theta = 500000, but llama2.c knows only 10000"):
        llama2c.save(turned, tokenizer, tmp_path / "m" / "model.bin")
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        llama2c.save(new_model(), tokenizer, tmp_path / "file" / "model.bin")


def test_a_full_disk_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = llama2c.save(new_model(), tokenizer, tmp_path / "model.bin")
    before = path.read_bytes()

    def full(*sizes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(llama2c, "HEADER", SimpleNamespace(pack=full))
    with pytest.raises(CheckpointError, match="No space left"):
        llama2c.save(new_model(), tokenizer, path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "tokenizer.bin"]


@pytest.mark.parametrize("tied", [False, True])
def test_saved_and_loaded_is_the_same(tied, tokenizer, tmp_path):
    model = new_model()
    if tied:
        model.output.weight = model.tok_embeddings.weight
    with torch.no_grad():
        model.layers[1].feed_forward.w2.weight[3, 5] = torch.nan
    path = llama2c.save(model, tokenizer, tmp_path / "model.bin")
    again, pieces = llama2c.load(path)
    state = again.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(state[name].view(torch.uint8), weight.view(torch.uint8)), name
    assert (again.config.hidden_dim, again.config.norm_eps, again.config.max_seq_len) == (
        80,
        1e-5,
        18,
    )
    for text in (
        prose(3),
        "def boat_1(value):\n    return value\n",
        "  żółw  1066\t\U0001f422",
        "<s>",
    ):
        assert pieces.encode(text) == tokenizer.encode(text)
        assert pieces.decode(pieces.encode(text)) == text
    second = llama2c.save(again, pieces, tmp_path / "second" / "model.bin")
    assert second.read_bytes() == path.read_bytes()
    beside = second.with_name("tokenizer.bin")
    assert beside.read_bytes() == (tmp_path / "tokenizer.bin").read_bytes()
    path.unlink()  # the model does not need the file
    again(torch.randint(320, (1, 18)))


@pytest.mark.parametrize("name", ["model.bin", "tokenizer.bin"])
def test_a_missing_or_damaged_file_is_named(name, tokenizer, tmp_path):
    path = llama2c.save(new_model(), tokenizer, tmp_path / "model.bin")
    content = (tmp_path / name).read_bytes()
    for damaged in (
        content[:-4],
        content[: len(content) // 2],
        content[:27],
        b"",
        content + b"\0" * 4,
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name) as told:
            llama2c.load(path)
        assert "\n" not in str(told.value)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        llama2c.load(path)


@pytest.mark.parametrize("field, value, kind, said", [
    (4, 1, ConfigError, "num_key_value_heads = 1"),
    (0, 25, ConfigError, "not a multiple"),
    (2, 4, CheckpointError, "bytes, not"),
    (2, -1, ConfigError, "n_layers = -1"),
    (5, -321, CheckpointError, "the tokenizer has 320 pieces but the model has 321"),
    (6, 2**20, CheckpointError, "bytes, not"),
    (6, 2**31 - 1, CheckpointError, "max_seq_len = 2147483647, but at most"),
    (2, 2**31 - 1, CheckpointError, "n_layers = 2147483647, but at most"),
])  # fmt: skip
def test_headers_of_other_models(field, value, kind, said, tokenizer, tmp_path):
    path = llama2c.save(new_model(), tokenizer, tmp_path / "model.bin")
    content = bytearray(path.read_bytes())
    struct.pack_into("<i", content, 4 * field, value)
    path.write_bytes(content)
    with pytest.raises(kind, match=said):
        llama2c.load(path)


def test_a_piece_length_that_leads_backwards_ends(tokenizer, tmp_path):
    path = llama2c.save(new_model(), tokenizer, tmp_path / "model.bin")
    beside = tmp_path / "tokenizer.bin"
    content = bytearray(beside.read_bytes())
    struct.pack_into("<i", content, 8, -8)
    beside.write_bytes(content)
    with pytest.raises(CheckpointError, match="tokenizer.bin"):
        llama2c.load(path)
