"""Batched scoring against one request at a time, and the paper's normalisation by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama.config import ModelConfig
from minillama.evaluate import multiple_choice
from minillama.evaluate.multiple_choice import (
    characters,
    credit,
    encode,
    log_likelihoods,
    summarise,
    windows,
)
from minillama.evaluate.tasks import Question
from minillama.model import Llama

CONFIG = ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=320, multiple_of=8, max_seq_len=40)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Llama(CONFIG).eval()
    for parameter in model.parameters():  # far from the start, where all guesses are alike
        parameter.data.normal_(0, 0.3)
    return model


def questions_of_ids(seed, count, choices=4, longest=60):
    """Requests in fours that share their context; some are longer than the model's context."""
    rng = np.random.default_rng(seed)
    requests = []
    for _ in range(count):
        context = rng.integers(3, 320, rng.integers(1, longest)).tolist()
        for _ in range(choices):
            completion = rng.integers(3, 320, rng.integers(1, 12)).tolist()
            requests.append((context + completion, len(context)))
    return requests


def naive_log_likelihood(model, ids, start):
    """One forward pass over the last ``max_seq_len + 1`` ids, and a loop over the completion."""
    kept = ids[-model.config.max_seq_len - 1 :]
    dropped = len(ids) - len(kept)
    with torch.no_grad():
        logits = model(torch.tensor([kept[:-1]]))[0].double().numpy()
    total = 0.0
    for position in range(start - dropped, len(kept)):
        row = logits[position - 1]
        total += row[kept[position]] - np.log(np.exp(row - row.max()).sum()) - row.max()
    return total


def test_batches_equal_one_by_one(model):
    requests = questions_of_ids(1, 25)
    expected = [naive_log_likelihood(model, *request) for request in requests]
    np.testing.assert_allclose(log_likelihoods(model, requests), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bucket, batch_tokens", [(1, 2_048), (8, 64), (16, 1), (1_000, 512)])
def test_batching_changes_nothing(model, monkeypatch, bucket, batch_tokens):
    requests = questions_of_ids(2, 10)
    expected = log_likelihoods(model, requests)
    monkeypatch.setattr(multiple_choice, "BUCKET", bucket)
    monkeypatch.setattr(multiple_choice, "BATCH_TOKENS", batch_tokens)
    np.testing.assert_allclose(log_likelihoods(model, requests), expected, rtol=1e-5, atol=1e-4)


def test_the_same_twice(model):
    requests = questions_of_ids(3, 10)
    assert log_likelihoods(model, requests) == log_likelihoods(model, requests)


def test_progress_counts_every_request(model):
    told = []
    log_likelihoods(model, questions_of_ids(4, 5), told.append)
    assert sum(told) == 20


def test_too_long_a_context_loses_its_beginning(model):
    rng = np.random.default_rng(5)
    ids = rng.integers(3, 320, 90).tolist()
    changed = [*rng.integers(3, 320, 49).tolist(), *ids[49:]]  # 41 ids are kept
    nearer = [*ids[:49], (ids[49] + 1) % 320, *ids[50:]]
    full, same, other = log_likelihoods(model, [(ids, 84), (changed, 84), (nearer, 84)])
    assert full == pytest.approx(naive_log_likelihood(model, ids, 84), abs=1e-4)
    assert same == pytest.approx(full, abs=1e-5)
    assert abs(other - full) > 1e-4


def test_a_completion_longer_than_the_model_is_scored_whole(model):
    ids = np.random.default_rng(6).integers(3, 320, 110).tolist()
    parts = [  # 40 targets behind one id of context, 40 behind one, the last 25 behind 16
        naive_log_likelihood(model, ids[4:45], 1),
        naive_log_likelihood(model, ids[44:85], 1),
        naive_log_likelihood(model, ids[69:], 16),
    ]
    assert log_likelihoods(model, [(ids, 5)])[0] == pytest.approx(sum(parts), abs=1e-3)


@given(st.integers(2, 200), st.integers(1, 199), st.integers(1, 50))
def test_windows_score_each_id_of_the_completion_once(size, start, length):
    start = min(start, size - 1)
    cut = windows(7, list(range(size)), start, length)
    whole = [[*window.prefix, *window.rest] for window in cut]
    assert sum((ids[-w.scored :] for ids, w in zip(whole, cut, strict=True)), []) == list(
        range(start, size)
    )
    for ids, window in zip(whole, cut, strict=True):
        assert window.request == 7 and window.scored + 1 <= len(ids) <= length + 1
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert len(ids) == min(length, ids[-1]) + 1 or window.scored == length  # all that fits


def test_encoding_is_that_of_running_text(tiny_corpus):
    from minillama.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    ids, start = encode(tokenizer, ("Answer:", " a small boat"))
    assert ids == tokenizer.encode("Answer: a small boat", bos=True)
    assert ids[:start] == tokenizer.encode("Answer:", bos=True)
    trailing, at = encode(tokenizer, ("Answer: ", "a small boat"))
    assert (trailing, at) == (ids, start)  # the blank is the completion's


def question(*completions, answer=0):
    return Question(tuple(("Answer:", completion) for completion in completions), answer)


def test_characters_not_bytes_and_not_the_space():
    assert characters(question(" naïve", " 12", "x", " ")) == [5, 2, 1, 1]


def test_the_paper_divides_by_characters():
    asked = [question(" four", " fifteen chars!", answer=1)]
    values = [[-8.0, -15.0]]  # -2 a character against -1.07
    result = summarise(asked, values)
    assert result["accuracy"] == 1 and result["accuracy_unnormalised"] == 0


def test_bits_per_byte_of_the_right_answers():
    asked = [question(" é", " b"), question(" a", " bcd", answer=1)]
    result = summarise(asked, [[-6.0, -1.0], [-1.0, -8.0]])
    assert result["gold_bpb"] == pytest.approx(14.0 / math.log(2) / (3 + 4))


def test_chance_and_standard_error():
    asked = [question(" a", " b"), question(" a", " b", " c", " d"), question(" a", " b")]
    result = summarise(asked, [[-1, -2], [-2, -1, -3, -3], [-1, -2]])
    assert result["chance"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    assert result["accuracy"] == pytest.approx(2 / 3) and result["n"] == 3
    expected = np.std([1, 0, 1], ddof=1) / math.sqrt(3)
    assert result["se"] == pytest.approx(expected)


def test_ties_share_the_point():
    assert credit([-1, -1, -2], 0) == credit([-1, -1, -2], 1) == 0.5
    assert credit([-1, -1, -2], 2) == 0 and credit([-1, -3], 0) == 1


def bigram_model(preferred):
    """A Llama whose blocks add nothing: every token is followed by one of ``preferred``."""
    model = Llama(CONFIG).eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.wo.weight.zero_()
            layer.feed_forward.w2.weight.zero_()
        model.tok_embeddings.weight.fill_(1.0)
        model.output.weight.fill_(-0.1)
        model.output.weight[preferred] = 0.1
    return model


def planted(seed, n=40):
    """Questions on ids: the right answer is made of even ids, the others of odd ids."""
    rng = np.random.default_rng(seed)
    asked, requests = [], []
    for _ in range(n):
        answer = int(rng.integers(4))
        context = rng.integers(3, 320, int(rng.integers(1, 50))).tolist()
        for i in range(4):
            completion = 2 * rng.integers(2, 160, 6) + (i != answer)
            requests.append((context + completion.tolist(), len(context)))
        asked.append(question(" a", " b", " c", " d", answer=answer))
    return asked, requests


def accuracy_of(model, asked, requests):
    values = iter(log_likelihoods(model, requests))
    return summarise(asked, [[next(values) for _ in q.requests] for q in asked])["accuracy"]


def test_a_model_that_knows_gets_everything_and_its_opposite_nothing():
    asked, requests = planted(8)
    assert accuracy_of(bigram_model(slice(0, None, 2)), asked, requests) == 1
    assert accuracy_of(bigram_model(slice(1, None, 2)), asked, requests) == 0


def test_a_model_that_cannot_tell_gets_chance():
    asked, requests = planted(9)
    assert accuracy_of(bigram_model(slice(0, 0)), asked, requests) == 0.25
