"""Batched scoring against one request at a time."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama.config import ModelConfig
from minillama.errors import DataError
from minillama.evaluate import multiple_choice, packed
from minillama.evaluate.multiple_choice import (
    Requests,
    cut_request,
    encode,
    log_likelihoods,
    truncated,
)
from minillama.evaluate.packed import PackedRow, RowMask, Window
from minillama.evaluate.scoring import make_row, summarize
from minillama.evaluate.tasks import Question
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

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
    cut = cut_request(7, list(range(size)), start, length)
    scored = [window.ids[-window.scored :] for window in cut]
    assert sum(scored, []) == list(range(start, size))
    for window in cut:
        ids = window.ids
        assert window.request == 7 and window.scored + 1 <= len(ids) <= length + 1
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert len(ids) == min(length, ids[-1]) + 1 or window.scored == length  # all that fits


def test_encoding_is_that_of_running_text(tokenizer):
    ids, start = encode(tokenizer, ("Answer:", " a small boat"))
    assert ids == tokenizer.encode("Answer: a small boat", bos=True)
    assert ids[:start] == tokenizer.encode("Answer:", bos=True)
    trailing, at = encode(tokenizer, ("Answer: ", "a small boat"))
    assert (trailing, at) == (ids, start)  # the blank is the completion's


def test_the_mask_of_a_row_is_the_picture_in_its_module(model):
    windows = [Window(i, [7, 8, 9, 20 + i, 30 + i, 40], 2) for i in range(2)]
    row, short = PackedRow(windows), PackedRow([Window(2, [5, 6], 1)])
    assert row.part == [0, 0, 0, 1, 1, 2, 2] and row.positions == [0, 1, 2, 3, 4, 3, 4]
    assert row.tokens == [7, 8, 9, 20, 30, 21, 31]
    picture = packed.__doc__.split("\n\n")[3].splitlines()
    sees = [[mark == "x" for mark in line.split()[2:9]] for line in picture]
    mask = RowMask([row, short], torch.device("cpu"))
    assert mask.sees[0, 0].tolist() == sees
    assert mask.inside.tolist() == [*range(7), 7]
    flat = torch.randn(8, 2, 4)  # (all positions, heads, head_dim)
    padded = mask.pad(flat)
    assert torch.equal(padded[0], flat[:7].transpose(0, 1))
    assert torch.equal(padded[1, :, :1], flat[7:].transpose(0, 1)) and not padded[1, :, 1:].any()


def question(*completions, answer=0):
    return Question(tuple(("Answer:", completion) for completion in completions), answer)


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus):
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def test_each_request_is_made_once_and_goes_to_its_questions(tokenizer):
    asked = [question(" yes", " no"), question(" yes", " no", answer=1)]
    other = Question((("It rains.", " yes"), ("It rains.", " no")), 0, id="3", group="g")
    requests = Requests(tokenizer, [*asked, other], bare=True)
    assert len(requests) == len(requests.encoded) == 4  # the first two are bare themselves
    values = [-float(sum(ids)) for ids, _ in requests.encoded]
    rows = requests.rows("boolq", values)
    expected = [-float(sum(encode(tokenizer, request)[0])) for request in other.requests]
    assert rows[2]["log_likelihoods"] == expected and rows[2]["bare"] == rows[0]["bare"]
    assert rows[0]["log_likelihoods"] == rows[0]["bare"] == rows[1]["bare"] != expected
    assert [row["answer"] for row in rows] == [0, 1, 0]
    assert (rows[2]["task"], rows[2]["id"], rows[2]["group"]) == ("boolq", "3", "g")
    [row] = Requests(tokenizer, [other]).rows("boolq", values)  # else the right one alone is bare
    assert row["bare"][0] is not None and row["bare"][1] is None


def test_what_does_not_fit_is_counted(tokenizer):
    long = "the old miller walked along the river" * 9
    asked = [Question(((long, " boat"), (long, " a small boat")), 0), question(" boat", " lamp")]
    requests = Requests(tokenizer, asked)
    rows = requests.rows("task", [0.0] * len(requests), max_seq_len=40)
    sizes = [
        len(tokenizer.encode(long + choice, bos=True)) for choice in (" boat", " a small boat")
    ]
    assert rows[0]["truncated"] == [size - 41 for size in sizes]
    assert rows[1]["truncated"] == [0, 0]


@given(st.integers(2, 200), st.integers(1, 199), st.integers(1, 50))
def test_truncated_is_what_no_window_holds(size, start, length):
    start = min(start, size - 1)
    first = cut_request(0, list(range(size)), start, length)[0]
    assert truncated(list(range(size)), start, length) == first.ids[0]


def test_output_that_is_not_finite_is_an_error(model):
    broken = copy.deepcopy(model)
    broken.output.weight.data[5] = math.nan
    with pytest.raises(DataError, match="not finite"):
        log_likelihoods(broken, [([1, 2, 3], 2)])


def test_bytes_outside_the_vocabulary_are_scored(model, tokenizer):
    asked = [Question((("\x00 \U0001f999", " \ud7a3"), ("\x00 \U0001f999", " \u00ff")), 0)]
    requests = Requests(tokenizer, asked)
    [row] = requests.rows("task", log_likelihoods(model, requests.encoded))
    assert all(math.isfinite(value) and value < 0 for value in row["log_likelihoods"])
    assert row["characters"] == [1, 1] and row["bytes"] == [3, 2]


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
    rows = [make_row("t", q, [next(values) for _ in range(4)], [0] * 4, [0] * 4) for q in asked]
    return summarize(rows, "characters")["accuracy"]


def test_a_model_that_knows_gets_everything_and_its_opposite_nothing():
    asked, requests = planted(8)
    assert accuracy_of(bigram_model(slice(0, None, 2)), asked, requests) == 1
    assert accuracy_of(bigram_model(slice(1, None, 2)), asked, requests) == 0


def test_a_model_that_cannot_tell_gets_chance():
    asked, requests = planted(9)
    assert accuracy_of(bigram_model(slice(0, 0)), asked, requests) == 0.25
