"""The n-gram baseline against Kneser-Ney with dictionaries, and as a probability distribution."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from tiny import tiny_config

from minillama.corpus.token_files import open_corpus
from minillama.errors import ConfigError
from minillama.evaluate import baselines
from minillama.evaluate.baselines import (
    BORDER,
    NGram,
    baseline_result,
    byte_ngram_bits_per_byte,
    byte_symbols,
    ladder_baselines,
    ngram_bits_per_byte,
    request_log_likelihoods,
    training_tokens,
)
from minillama.evaluate.generation import Generation
from minillama.evaluate.task_run import GenerationRun
from minillama.evaluate.tasks import TASKS, Problem
from minillama.tokenizer import Tokenizer
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.validation import windows

BOS, VOCAB = 1, 12


def text(seed, documents=30, vocab=VOCAB):
    """Documents of a random bigram language: <s>, ids from 3 on, </s>."""
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(99).dirichlet([0.25] * (vocab - 3), size=vocab)
    ids = []
    for _ in range(documents):
        ids.append(BOS)
        for _ in range(int(rng.integers(3, 15))):
            ids.append(3 + int(rng.choice(vocab - 3, p=table[ids[-1]])))
        ids.append(2)
    return np.array(ids)


class Naive:
    """Interpolated modified Kneser-Ney, as Chen and Goodman write it, in dictionaries."""

    def __init__(self, tokens, order):
        starts = [i for i, token in enumerate(tokens) if token == BOS] + [len(tokens)]
        documents = [tuple(tokens[a:b]) for a, b in zip(starts, starts[1:], strict=False)]
        raw = [
            Counter(d[i : i + n] for d in documents for i in range(len(d) - n + 1))
            for n in range(1, order + 1)
        ]
        self.counts = []
        for n in range(1, order + 1):
            if n == order:
                counts = dict(raw[n - 1])
            else:
                left = defaultdict(set)
                for gram in raw[n]:
                    left[gram[1:]].add(gram[0])
                counts = {
                    gram: raw[n - 1][gram] if gram[0] == BOS else len(left[gram])
                    for gram in raw[n - 1]
                }
            if n == 1:
                counts.pop((BOS,), None)
            self.counts.append(counts)

    def discount(self, n, count):
        of = Counter(self.counts[n - 1].values())
        n1, n2, n3, n4 = (max(1, of[k]) for k in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        k = min(count, 3)
        value = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}[k]
        return min(max(value, 0.1 * k), k - 0.05)

    def p(self, context, word):
        lower = self.p(context[1:], word) if context else 1 / (VOCAB - 1)
        n = len(context) + 1
        followers = {g: c for g, c in self.counts[n - 1].items() if g[:-1] == context}
        if not followers:
            return lower
        total = sum(followers.values())
        freed = sum(self.discount(n, c) for c in followers.values())
        count = followers.get((*context, word), 0)
        direct = count - self.discount(n, count) if count else 0
        return (direct + freed * lower) / total


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_equal_the_naive_ones(order):
    tokens, held_out = text(0), text(1, documents=4)
    model, naive = NGram(tokens, VOCAB, order), Naive(tokens.tolist(), order)
    at = [i for i, token in enumerate(held_out) if token == BOS] + [len(held_out)]
    for begin, end in zip(at, at[1:], strict=False):
        document = held_out[begin:end]
        expected = [
            naive.p(tuple(document[max(0, i - order + 1) : i].tolist()), int(document[i]))
            for i in range(1, len(document))
        ]
        np.testing.assert_allclose(model.probabilities(document), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "context", [[1], [1, 5], [5, 6], [3, 4, 5, 6], [1, 3, 3, 3], [11, 2, 11, 2], [2], [7, 8, 9]]
)
@pytest.mark.parametrize("order", [1, 3, 5])
def test_probabilities_sum_to_one_over_the_vocabulary(context, order):
    model = NGram(text(2), VOCAB, order)
    words = [word for word in range(VOCAB) if word != BOS]  # <s> only ever begins a text
    p = [model.probabilities(np.array([*context, word]))[-1] for word in words]
    assert min(p) > 0 and sum(p) == pytest.approx(1, abs=1e-12)


def test_longer_contexts_help_on_text_that_has_them():
    tokens, held_out = text(3, documents=200), text(4)
    loss = {order: -NGram(tokens, VOCAB, order).log_prob([held_out]) for order in (1, 2)}
    assert loss[2] < 0.8 * loss[1]


def test_too_large_a_vocabulary_for_the_order():
    with pytest.raises(ConfigError, match="5-grams of 32000 pieces do not fit"):
        NGram(np.arange(3, 9), 32_000, 5)


@pytest.fixture(scope="module")
def corpus(tiny_corpus):
    return open_corpus(tiny_corpus.folder)


def documents_of(files):
    return [tuple(f.document(i).tolist()) for f in files.values() for i in range(f.n_documents)]


def test_only_training_documents_are_counted(corpus):
    tokens = training_tokens(corpus).tolist()
    at = [i for i, token in enumerate(tokens) if token == BOS] + [len(tokens)]
    counted = [tuple(tokens[a:b]) for a, b in zip(at, at[1:], strict=False)]
    assert counted == documents_of(corpus.train)
    assert not set(counted) & set(documents_of(corpus.valid))


def test_what_a_run_has_read(corpus):
    order = StatelessDataLoader(corpus, seq_len=16, batch_sequences=4, seed=0)
    tokens = training_tokens(corpus, order, steps=3).reshape(12, 17)
    assert (tokens[:, 0] == BORDER).all()
    for step in range(3):
        batch = order.batch(step)[:, :-1].numpy()
        np.testing.assert_array_equal(tokens[4 * step : 4 * step + 4, 1:], batch)


def test_what_a_run_reads_again_is_counted_once(corpus):
    """After some epochs of each slice, the text is what its first epoch is."""
    loader = StatelessDataLoader(corpus, seq_len=16, batch_sequences=4, seed=0)
    steps = 4_000
    assert min(loader.epochs(steps).values()) > 1
    rows = training_tokens(corpus, loader, steps).reshape(-1, 17)
    assert len(rows) == sum(loader.windows_per_epoch(name) for name in corpus.slices)
    expected = []
    for name in corpus.slices:
        text = corpus.train[name].read(0, loader.windows_per_epoch(name) * 16)
        expected += text.reshape(-1, 16).tolist()
    assert sorted(rows[:, 1:].tolist()) == sorted(expected)


def test_the_baselines_of_a_ladder(tiny_corpus, tmp_path):
    """The curve is of what a run has read by each milestone; its last point is all that it read."""
    config = tiny_config(tiny_corpus.folder, tmp_path, tokens=64 * 128, milestones=4)
    found = ladder_baselines(config)
    steps = sorted(config.milestone_steps())
    assert [line["tokens"] for line in found["curve"]] == [step * 128 for step in steps]
    corpus = open_corpus(config.corpus)
    loader = StatelessDataLoader(corpus, config.seq_len, config.batch_sequences, config.seed)
    settings = (corpus, config.eval_tokens, config.seq_len)
    for step, line in zip(steps, found["curve"], strict=True):
        assert line["bpb"] == ngram_bits_per_byte(*settings, seen=loader, steps=step)["bpb"]
    assert found["seen"] == found["curve"][-1] and found["data"] == corpus.fingerprint
    assert found["all"]["bpb"] == ngram_bits_per_byte(*settings)["bpb"]
    assert found["bytes"]["bpb"] == byte_ngram_bits_per_byte(*settings)["bpb"]
    assert found["all"]["tokens"] == sum(file.tokens for file in corpus.train.values())


def test_bits_per_byte_against_a_loop(corpus):
    result = ngram_bits_per_byte(corpus, max_tokens=10**9, seq_len=16, order=3)
    trained = np.concatenate([np.array(d) for d in documents_of(corpus.train)])
    model, pieces = NGram(trained, corpus.vocab_size, 3), corpus.tokenizer().piece_bytes
    for name in corpus.slices:
        bits = size = 0
        for window in windows(corpus.valid[name], 16, 10**9):
            bits -= float(np.log2(model.probabilities(window)).sum())
            size += sum(len(pieces[target]) for target in window[1:].tolist())
        assert result["bpb_by_slice"][name] == pytest.approx(bits / size)
        assert result["bpb_by_slice"][name] < math.log2(256)


def test_three_pieces_beat_one_on_the_corpus(corpus):
    bpb = [ngram_bits_per_byte(corpus, 2_000, 16, order)["bpb"] for order in (1, 3)]
    assert bpb[1] < 0.8 * bpb[0]


def test_bytes_of_documents(corpus):
    """Spelling documents out gives <s> and then the text's own bytes."""
    tokenizer, file = corpus.tokenizer(), corpus.train["books"]
    ids = np.concatenate([file.document(i) for i in range(3)])
    symbols = byte_symbols(ids, tokenizer)
    texts = [" " + tokenizer.decode(file.document(i).tolist()) for i in range(3)]
    assert symbols.tolist() == [s for t in texts for s in (1, *(b + 2 for b in t.encode()))]


def test_byte_model_against_a_loop(corpus):
    result = byte_ngram_bits_per_byte(corpus, max_tokens=300, seq_len=16, order=3)
    tokenizer = corpus.tokenizer()
    model = NGram(byte_symbols(training_tokens(corpus), tokenizer), 258, order=3)
    for name in corpus.slices:
        bits, size = 0.0, 0
        for part in windows(corpus.valid[name], 16, 300):
            spelled = [byte_symbols(part[i : i + 1], tokenizer) for i in range(len(part))]
            for i in range(1, len(part)):
                before = np.concatenate(spelled[:i])
                for j in range(len(spelled[i])):
                    history = np.concatenate([before, spelled[i][: j + 1]])[-3:]
                    bits -= np.log2(model.probabilities(history)[-1])
                    size += 1
        assert result["bpb_by_slice"][name] == pytest.approx(bits / size)


def test_no_n_gram_crosses_a_border():
    """Two texts with a border between them are counted as each on its own."""
    apart = NGram(np.array([BORDER, 3, 4, 5, BORDER, 6, 7, 3]), VOCAB, order=2)
    assert look_up_gram(apart, [4, 5]) and look_up_gram(apart, [6, 7])
    assert not look_up_gram(apart, [5, 6]) and not look_up_gram(apart, [BORDER, 3])


def look_up_gram(model, gram):
    """Whether the highest level has counted these ids in a row."""
    return int(model._pack(np.array(gram), len(gram))[0]) in model.levels[-1].grams.tolist()


@pytest.mark.parametrize("at_once", [1, 3, 4_096])
def test_requests_are_scored_as_running_text(monkeypatch, at_once):
    monkeypatch.setattr(baselines, "REQUESTS_AT_ONCE", at_once)
    tokens, rng = text(1), np.random.default_rng(2)
    model, naive = NGram(tokens, VOCAB, 4), Naive(tokens.tolist(), 4)
    requests = []
    for _ in range(20):
        ids = [BOS, *rng.integers(3, VOCAB, int(rng.integers(1, 12))).tolist()]
        requests.append((ids, int(rng.integers(1, len(ids)))))
    expected = [
        sum(
            math.log(naive.p(tuple(ids[max(0, i - 3) : i]), ids[i])) for i in range(start, len(ids))
        )
        for ids, start in requests
    ]
    np.testing.assert_allclose(request_log_likelihoods(model, requests), expected, rtol=1e-9)


def test_the_baseline_of_written_answers_counts_the_blanks_before_them(tiny_corpus, monkeypatch):
    """``encode`` counts a prompt's last blanks to the answer, and so must its bytes."""
    problem = Problem("def f():\n    ", "return 1")
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    task_run = GenerationRun(TASKS["humaneval"], 0, [problem], tokenizer, Generation())
    monkeypatch.setattr(
        baselines, "request_log_likelihoods", lambda model, asked: [-8 * math.log(2)]
    )
    result = baseline_result(None, task_run)
    assert result == {
        "n": 1,
        "accuracy": None,
        "gold_bpb": pytest.approx(8 / len("\n    return 1")),
    }
