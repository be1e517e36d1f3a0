"""Validation loss and bits per byte, against a loop over windows and tokens."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama.config import ModelConfig
from minillama.corpus.document import read_documents
from minillama.corpus.token_files import open_corpus
from minillama.model import Llama
from minillama.train import validation
from minillama.train.backend import LocalBackend
from minillama.train.validation import (
    score,
    target_bytes,
    valid_bits_per_byte,
    windows,
    windows_log_prob,
)

SEQ_LEN = 16


@pytest.fixture(scope="module")
def corpus(tiny_corpus):
    return open_corpus(tiny_corpus.folder)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    config = ModelConfig(
        dim=16, n_layers=2, n_heads=2, vocab_size=320, multiple_of=8, max_seq_len=SEQ_LEN
    )
    model = Llama(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model


def documents(lengths):
    """A stand-in for a token file: document i holds the ids 1000 i, 1000 i + 1, ..."""
    held = [1_000 * i + np.arange(length) for i, length in enumerate(lengths)]
    tokens = np.concatenate([*held, []]).astype(int)
    return SimpleNamespace(
        offsets=np.cumsum([0, *lengths]),
        document=lambda i: held[i],
        read=lambda begin, end: tokens[begin:end],
    )


@given(st.lists(st.integers(2, 70), max_size=8), st.integers(1, 20))
def test_every_target_is_scored_in_exactly_one_window(lengths, seq_len):
    file = documents(lengths)
    cut = windows(file, seq_len, max_tokens=10**9)
    targets = [int(target) for window in cut for target in window[1:]]
    assert targets == [int(t) for i in range(len(lengths)) for t in file.document(i)[1:]]
    for window in cut:
        assert 2 <= len(window) <= seq_len + 1
        assert list(np.diff(window)) == [1] * (len(window) - 1)  # so it lies in one document


def test_too_many_windows_are_thinned_evenly():
    file = documents([SEQ_LEN + 1] * 40)
    kept = windows(file, SEQ_LEN, max_tokens=10 * SEQ_LEN)
    assert [int(window[0]) // 1_000 for window in kept] == list(range(0, 40, 4))
    assert len(windows(file, SEQ_LEN, max_tokens=1)) == 1


def test_bytes_of_the_pieces_are_those_of_the_text(corpus, tiny_corpus):
    sizes = target_bytes(corpus.tokenizer())
    for name in corpus.slices:
        texts = read_documents(tiny_corpus.folder / "text" / f"{name}.valid.jsonl")
        for i, row in enumerate(texts):
            ids = corpus.valid[name].document(i)
            assert sizes[ids].sum() == len(row["text"].encode()) + 1  # and the space before it


def test_a_uniform_model(corpus):
    result = score(corpus, lambda parts: -math.log(320) * sum(len(p) - 1 for p in parts), 10**9, 16)
    assert result["loss"] == pytest.approx(math.log(320))
    sizes = target_bytes(corpus.tokenizer())
    for name in corpus.slices:
        file = corpus.valid[name]
        size = sum(int(sizes[file.document(i)[1:]].sum()) for i in range(file.n_documents))
        targets = file.tokens - file.n_documents
        assert result["bpb_by_slice"][name] == pytest.approx(targets * math.log2(320) / size)


def naive(model, corpus, max_tokens):
    """Loss and bits per byte by slice: one window at a time, one token at a time."""
    pieces = corpus.tokenizer().piece_bytes
    loss, bpb = {}, {}
    for name in corpus.slices:
        nats = size = count = 0
        for window in windows(corpus.valid[name], SEQ_LEN, max_tokens):
            with torch.no_grad():
                log_p = model(torch.from_numpy(window[None, :-1])).double().log_softmax(-1)[0]
            for position, target in enumerate(window[1:].tolist()):
                nats -= float(log_p[position, target])
                size += len(pieces[target])
                count += 1
        loss[name], bpb[name] = nats / count, nats / math.log(2) / size
    return loss, bpb


@pytest.mark.parametrize("batch_tokens", [1, 100, 16_384])
def test_a_model_against_a_loop(model, corpus, monkeypatch, batch_tokens):
    monkeypatch.setattr(validation, "BATCH_TOKENS", batch_tokens)
    result = valid_bits_per_byte(model, corpus, 300, SEQ_LEN)
    loss, bpb = naive(model, corpus, 300)
    assert result["loss_by_slice"] == pytest.approx(loss, rel=1e-5)
    assert result["bpb_by_slice"] == pytest.approx(bpb, rel=1e-5)
    weights = corpus.weights
    mean = sum(weights[name] * bpb[name] for name in bpb) / sum(weights[name] for name in bpb)
    assert result["bpb"] == pytest.approx(mean, rel=1e-5)


def test_filling_up_short_windows_counts_nothing(model):
    rng = np.random.default_rng(0)
    parts = [rng.integers(3, 320, size) for size in (2, 17, 5, 9, 17, 3)]
    backend = LocalBackend("cpu")
    alone = sum(windows_log_prob(model, [part], backend) for part in parts)
    assert windows_log_prob(model, parts, backend) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_stays_in_its_mode(model, corpus, mode):
    model.train(mode)
    valid_bits_per_byte(model, corpus, 32, SEQ_LEN)
    assert model.training is mode
