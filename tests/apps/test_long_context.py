"""Loss beyond the trained context, against plain sums over the same tokens."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT, TinyCorpus, python, tiny_config
from torch import Tensor

from minillama.apps import long_context as lc
from minillama.config import ModelConfig, RopeScaling
from minillama.corpus.token_files import Corpus, open_corpus
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.files import read_json, sha256
from minillama.model import Llama
from minillama.train import checkpoint
from minillama.train.loop import train
from minillama.train.validation import target_bytes

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=2, vocab_size=320, multiple_of=8, max_seq_len=96)
LENGTHS = (64, 96, 192)


@pytest.fixture(scope="module")
def corpus(tiny_corpus: TinyCorpus) -> Corpus:
    return open_corpus(tiny_corpus.folder)


@pytest.fixture(scope="module")
def run(tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    return train(tiny_config(tiny_corpus.folder, runs, seq_len=32, batch_tokens=256))


@pytest.fixture(scope="module")
def model() -> Llama:
    torch.manual_seed(0)
    model = Llama(CONFIG)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return model


def naive_losses(model: Llama, tokens: Tensor) -> Tensor:
    """One token at a time, from softmax itself, in 64 bits."""
    rows = []
    for row in tokens:
        with torch.no_grad():
            p = torch.softmax(model(row[None, :-1])[0].double(), dim=-1)
        rows.append([-math.log(p[t, row[t + 1]]) for t in range(len(row) - 1)])
    return torch.tensor(rows, dtype=torch.float64)


def test_which_scaling_a_length_needs():
    assert lc.scaling_for("yarn", 256, 1024) == RopeScaling("yarn", 4.0, 256)
    assert lc.scaling_for("ntk", 256, 384).factor == 1.5
    assert lc.scaling_for("linear", 256, 256) is lc.scaling_for("none", 256, 1024) is None


def test_rescaled_is_a_new_model_of_the_same_weights(model):
    scaling = RopeScaling("yarn", 2.0, 96)
    reader = lc.rescaled(model, scaling, 192)
    config = dataclasses.replace(CONFIG, rope_scaling=scaling, max_seq_len=192)
    fresh = Llama(config)
    fresh.load_state_dict(model.state_dict())
    tokens = torch.randint(320, (2, 192))
    assert reader.config == config
    assert torch.equal(reader(tokens), fresh(tokens))
    assert reader.output.weight.data_ptr() == model.output.weight.data_ptr()
    assert model.config == CONFIG
    tokens = tokens[:, :50]
    assert torch.equal(lc.rescaled(reader, None, 50)(tokens), model(tokens))


def test_stretches_lie_in_one_document_and_no_target_counts_twice(corpus):
    found = lc.stretches(corpus, 50, 10**6)
    texts = [file.document(i) for file in corpus.valid.values() for i in range(file.n_documents)]
    assert len(found) == sum((len(text) - 1) // 50 for text in texts)
    windows = [
        tuple(window) for text in texts for window in np.lib.stride_tricks.sliding_window_view(
            text, 51) if len(text) > 50
    ]  # fmt: skip
    assert {tuple(row.tolist()) for row in found} <= set(windows)
    assert torch.equal(found[0], torch.from_numpy(texts[0][:51].astype(np.int64)))
    assert torch.equal(found[1][:1], found[0][-1:])  # the next one begins with the last target
    some = lc.stretches(corpus, 50, 5)
    assert torch.equal(some, found[[i * len(found) // 5 for i in range(5)]])
    with pytest.raises(DataError, match="no held-out document has 100001 tokens"):
        lc.stretches(corpus, 100_000, 5)


def test_losses_are_minus_log_p(model, monkeypatch):
    tokens = torch.randint(320, (5, 97), generator=torch.Generator().manual_seed(1))
    expected = naive_losses(model, tokens)
    for batch_tokens in (10**6, 200, 1):
        monkeypatch.setattr(lc, "BATCH_TOKENS", batch_tokens)
        torch.testing.assert_close(lc.losses(model, tokens).double(), expected, atol=1e-5, rtol=0)


def test_measure_against_plain_sums(model, corpus):
    tokens, size_of = lc.stretches(corpus, 192, 4), target_bytes(corpus.tokenizer())
    found = lc.measure(model, tokens, torch.from_numpy(size_of), 96, LENGTHS)
    rows = {(row["scaling"], row["length"]): row for row in found["by_length"]}
    assert set(rows) == {(method, length) for method in lc.METHODS for length in LENGTHS}
    n_bytes = sum(len(corpus.tokenizer().piece_bytes[t]) for t in tokens[:, -64:].flatten())
    for (method, length), row in rows.items():
        factor = max(1.0, length / 96)
        scaling = RopeScaling(method, 2.0, 96) if method != "none" and length > 96 else None
        reader = Llama(dataclasses.replace(CONFIG, rope_scaling=scaling, max_seq_len=length))
        reader.load_state_dict(model.state_dict())
        nats = naive_losses(reader, tokens[:, 192 - length :])[:, length - 64 :]
        assert row["factor"] == factor
        assert row["loss"] == pytest.approx(float(nats.mean()), abs=1e-5)
        assert row["perplexity"] == pytest.approx(math.exp(float(nats.mean())), rel=1e-5)
        bits = float(nats.sum()) / math.log(2) / n_bytes
        assert row["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
        means = nats.mean(dim=1)
        error = float(((means - means.mean()) ** 2).sum() / 3 / 4) ** 0.5
        assert row["standard_error"] == pytest.approx(error, rel=1e-3)
        if length == 192:
            assert found["by_position"][method][-1] == pytest.approx(row["loss"], abs=1e-6)
            reader = lc.rescaled(model, scaling, 192)
            first = naive_losses(reader, tokens)[:, :64].mean()
            assert found["by_position"][method][0] == pytest.approx(float(first), abs=1e-5)
            assert len(found["by_position"][method]) == 3
    for row in found["by_attention_factor"]:
        scaling = RopeScaling("yarn", 2.0, 96, attention_factor=row["attention_factor"])
        expected = naive_losses(lc.rescaled(model, scaling, 192), tokens).mean()
        assert row["loss"] == pytest.approx(float(expected), abs=1e-5)
    assert len(found["by_attention_factor"]) == len(lc.ATTENTION_FACTORS)
    at_length = {length: {rows[m, length]["loss"] for m in lc.METHODS} for length in LENGTHS}
    assert [len(at_length[length]) for length in LENGTHS] == [1, 1, 5]  # what fits is not scaled


def test_lengths_that_do_not_fit_are_refused(model, corpus):
    tokens = lc.stretches(corpus, 96, 2)
    for lengths in ((64, 192), (32, 96)):
        with pytest.raises(ConfigError, match="From 64 up to 96"):
            lc.measure(model, tokens, torch.ones(320), 96, lengths)


def test_the_command_writes_what_it_measured(run, corpus, tmp_path):
    out = lc.long_context(run, corpus.folder, lengths=(64, 128), n_stretches=3)
    assert out == run / "long_context.json"
    record = read_json(out)
    step = checkpoint.last_good(run)
    weights = checkpoint.folder(run, step) / "model.safetensors"
    assert (record["run"], record["step"]) == ("run", step)
    assert record["model_sha256"] == sha256(weights)
    assert record["settings"]["trained_length"] == 32
    assert record["settings"]["stretches"] == 3
    table = lc.table(record).splitlines()
    assert table[0].split() == ["tokens", "read", *lc.METHODS]
    assert [line.split()[0] for line in table[1:]] == ["64", "128"]
    lc.long_context(run, corpus.folder, tmp_path / "early.json", (64,), 2, step=3)
    assert read_json(tmp_path / "early.json")["step"] == 3
    assert read_json(out) == record


def test_mistakes_are_named(run, corpus, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no checkpoint of step 5"):
        lc.long_context(run, corpus.folder, step=5)
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        lc.long_context(tmp_path, corpus.folder)
    with pytest.raises(ConfigError, match="fewer than 2 stretches"):
        lc.long_context(run, corpus.folder, n_stretches=1)
    with pytest.raises(ConfigError, match="lengths \\(128, 0\\) below 64"):
        lc.long_context(run, corpus.folder, lengths=(128, 0))
    (tmp_path / "tokenizer.model").write_bytes(b"another")
    other = dataclasses.replace(corpus, folder=tmp_path)
    monkeypatch.setattr(lc, "open_corpus", lambda folder: other)
    with pytest.raises(CheckpointError, match="has another tokenizer than"):
        lc.long_context(run, corpus.folder)


def test_the_module_is_a_command(run, corpus, tmp_path):
    command = ["-m", "minillama.apps.long_context"]
    flags = ["--corpus", str(corpus.folder), "--lengths", "64", "128", "--n-stretches", "2"]
    done = python(*command, str(run), *flags, "--out", str(tmp_path / "o.json"), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == lc.table(read_json(tmp_path / "o.json"))
    failed = python(*command, str(tmp_path), *flags, cwd=ROOT)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1


@pytest.mark.parametrize("path", sorted(ROOT.glob("data/runs/*/long_context.json")), ids=str)
def test_published_measurements_are_whole(path):
    record = read_json(path)
    assert record["run"] == path.parent.name
    rows = {(row["scaling"], row["length"]): row for row in record["by_length"]}
    assert set(rows) == {(m, n) for m in lc.METHODS for n in record["settings"]["lengths"]}
    for (method, length), row in rows.items():
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert row["factor"] == max(1.0, length / record["settings"]["trained_length"])
        assert row["loss"] == rows["none", length]["loss"] or row["factor"] > 1
        if length == max(record["settings"]["lengths"]):
            assert record["by_position"][method][-1] == pytest.approx(row["loss"])
