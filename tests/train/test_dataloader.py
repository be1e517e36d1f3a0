"""Decision 4: the data of a step is a pure function of (seed, mixture, step)."""

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillama.corpus import token_files
from minillama.corpus.token_files import SPLITS, Corpus, open_corpus, write_tokens
from minillama.errors import ConfigError, DataError
from minillama.train.dataloader import BLOCK, ROUNDS, StatelessDataLoader, permute, quotas

SEQ, BATCH = 16, 8


@pytest.fixture(scope="module")
def corpus(tiny_corpus):
    return open_corpus(tiny_corpus.folder)


@pytest.fixture(scope="module")
def order(corpus):
    return StatelessDataLoader(corpus, SEQ, BATCH, seed=0)


def numbered(tmp_path, lengths, name="books"):
    """A corpus of one slice, whose tokens are numbered 0, 1, 2, ... through all documents."""
    ends = np.cumsum(lengths, dtype=int)
    documents = ((list(range(e - n, e)), n) for n, e in zip(lengths, ends, strict=True))
    file = write_tokens(tmp_path / f"{name}.train", documents, 2**16)
    files = {split: {name: file} for split in SPLITS}
    return Corpus(tmp_path, files, {name: 1.0}, {"vocab_size": 2**16})


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("step", [0, 7, 124, 125, 1_000_003])
def test_the_parts_of_all_ranks_are_the_global_batch(order, world, step):
    whole = order.batch(step)
    assert whole.shape == (BATCH, SEQ + 1) and whole.dtype == torch.int64
    parts = [order.batch(step, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {BATCH // world}
    assert torch.equal(torch.cat(parts), whole)


def test_a_batch_that_cannot_be_shared(order):
    with pytest.raises(ConfigError, match="8 sequences a step cannot be shared by 3 processes"):
        order.batch(0, 0, 3)


def test_steps_may_be_asked_for_in_any_order_by_anyone(corpus, order):
    """A resumed run sees the same stream, token by token: nothing is remembered."""
    straight = [order.batch(step) for step in range(300)]
    for start in (299, 1, 150, 125):
        resumed = StatelessDataLoader(corpus, SEQ, BATCH, seed=0)
        assert torch.equal(resumed.batch(start), straight[start])
    shuffled = np.random.default_rng(1).permutation(300)
    assert all(torch.equal(order.batch(int(s)), straight[s]) for s in shuffled)


def test_the_batch_size_does_not_change_the_stream(corpus, order):
    other = StatelessDataLoader(corpus, SEQ, 2 * BATCH, seed=0)
    for step in (0, 3, 61, 62):
        assert torch.equal(
            other.batch(step), torch.cat([order.batch(2 * step + i) for i in (0, 1)])
        )


def test_another_seed_is_another_order(corpus, order):
    other = StatelessDataLoader(corpus, SEQ, BATCH, seed=1)
    assert not any(torch.equal(order.batch(step), other.batch(step)) for step in range(50))
    assert [order.locate(n)[0] for n in range(50)] != [other.locate(n)[0] for n in range(50)]


@pytest.mark.parametrize(
    "weights, by_hand",
    [
        ({"a": 1.0}, {"a": 1000}),
        ({"a": 1 / 3, "b": 2 / 3}, {"a": 333, "b": 667}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 334, "b": 333, "c": 333}),
        ({"a": 0.625, "b": 0.1875, "c": 0.1875}, {"a": 625, "b": 188, "c": 187}),
    ],
)
def test_quotas_are_the_shares_in_whole_numbers(weights, by_hand):
    assert quotas(weights) == by_hand


def test_every_block_holds_the_mixture_exactly(order):
    for block in (0, 1, 57):
        names = Counter(order.locate(block * BLOCK + i)[0] for i in range(BLOCK))
        assert dict(names) == order.quotas == {"c4": 625, "github": 187, "books": 188}


def test_a_slice_is_read_window_after_window(order):
    numbers = {}
    for sequence in range(3 * BLOCK):
        name, number = order.locate(sequence)
        assert number == numbers.get(name, 0)
        numbers[name] = number + 1


# the permutation of an epoch


def keys(seed):
    return tuple(np.random.default_rng(seed).integers(0, 2**63, ROUNDS).tolist())


@pytest.mark.parametrize("n", [*range(1, 35), 63, 64, 65, 1_000, 4_095, 4_097, 16_385])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_permutation_is_one(n, seed):
    assert sorted(permute(i, n, keys(seed)) for i in range(n)) == list(range(n))


@given(st.integers(1, 2**62), st.integers(0, 2**32), st.data())
def test_a_permutation_of_any_size_stays_in_range(n, seed, data):
    index = data.draw(st.integers(0, n - 1))
    assert 0 <= permute(index, n, keys(seed)) < n


@pytest.mark.parametrize("n", [1_000, 50_021])
def test_neighbors_are_scattered_and_every_key_scatters_anew(n):
    first, other = ([permute(i, n, keys(seed)) for i in range(n)] for seed in (0, 1))
    for image in (first, other):
        moves = np.abs(np.diff(image))
        assert np.mean(moves) == pytest.approx(n / 3, rel=0.05)  # as of two random places
        assert np.mean(moves == 1) < 5 / n + 0.005
        assert np.mean(np.array(image) == np.arange(n)) < 0.01
        assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 0.1
    assert np.mean(np.array(first) == np.array(other)) < 0.01


def test_every_place_is_reached_equally_often():
    """Over many keys an index goes everywhere: 2,000 draws of 10 places."""
    counts = Counter(permute(3, 10, keys(seed)) for seed in range(2_000))
    assert min(counts[i] for i in range(10)) > 150 and max(counts.values()) < 250


LENGTHS = (30, 10, 1, 70, 50)
TOTAL = sum(LENGTHS)


@pytest.mark.parametrize("seq_len", [1, 4, 16, 40, 80, 160])
def test_an_epoch_reads_every_token_once_but_for_less_than_a_window(tmp_path, seq_len):
    order = StatelessDataLoader(numbered(tmp_path, LENGTHS), seq_len, BATCH, seed=5)
    per_epoch = order.windows_per_epoch("books")
    orders = set()
    for epoch in range(6):
        numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        windows = [order.window("books", number) for number in numbers]
        inputs, targets = (np.concatenate([w[part] for w in windows])
                           for part in (slice(-1), slice(1, None)))  # fmt: skip
        for read in (inputs, targets):
            assert len(read) == len(set(read.tolist())) > TOTAL - 1 - seq_len
        assert (targets == inputs + 1).all()  # documents lie end to end
        orders.add(tuple(inputs.tolist()))
    assert len(orders) == 6 or per_epoch < 6  # in another order each time


def test_a_window_is_read_across_shards(tmp_path, monkeypatch):
    whole = StatelessDataLoader(numbered(tmp_path, LENGTHS), SEQ, BATCH, seed=0)
    expected = whole.batch(0)
    monkeypatch.setattr(token_files, "SHARD_TOKENS", 32)
    (tmp_path / "cut").mkdir()
    corpus = numbered(tmp_path / "cut", LENGTHS)
    assert len(list((tmp_path / "cut").glob("*.bin"))) > 2
    assert torch.equal(StatelessDataLoader(corpus, SEQ, BATCH, seed=0).batch(0), expected)


# reading ahead


def test_batches_read_ahead_are_the_same(order):
    read = list(order.batches(3, 9, 1, 2))
    assert len(read) == 6
    assert all(torch.equal(batch, order.batch(3 + i, 1, 2)) for i, batch in enumerate(read))


def test_one_batch_is_read_while_the_one_before_is_used(corpus, monkeypatch):
    loader, read = StatelessDataLoader(corpus, SEQ, BATCH, seed=0), []
    batch = loader.batch
    monkeypatch.setattr(loader, "batch", lambda *a: read.append(a[0]) or batch(*a))
    batches = loader.batches(0, 5)
    next(batches)
    batches.close()  # waits for the thread
    assert read == [0, 1]
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_an_error_in_the_thread_comes_out_at_its_step(corpus, monkeypatch):
    loader = StatelessDataLoader(corpus, SEQ, BATCH, seed=0)
    batch = loader.batch
    monkeypatch.setattr(loader, "batch", lambda step, *a: batch(step, *a) if step < 2 else 1 / 0)
    batches = loader.batches(0, 5)
    assert torch.equal(next(batches), batch(0)) and torch.equal(next(batches), batch(1))
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_neighboring_windows_come_from_far_apart(tmp_path):
    """A small batch is not all of one document."""
    order = StatelessDataLoader(numbered(tmp_path, (10_000,)), SEQ, BATCH, seed=0)
    begins = [int(order.window("books", n)[0]) for n in range(500)]
    assert np.mean(np.abs(np.diff(begins)) == SEQ) < 0.02


def test_a_slice_shorter_than_a_window_is_read_round_and_round(tmp_path):
    order = StatelessDataLoader(numbered(tmp_path, (3, 4)), SEQ, BATCH, seed=0)
    for number in range(5):
        assert order.window("books", number).tolist() == (list(range(7)) * 3)[: SEQ + 1]


def test_slices_are_shuffled_apart(tmp_path):
    """Two slices of equal length do not run through their windows in the same order."""
    streams = []
    for name in ("books", "c4"):
        order = StatelessDataLoader(numbered(tmp_path, (500,), name), 5, 1, seed=0)
        streams.append([int(order.window(name, number)[0]) for number in range(20)])
    assert streams[0] != streams[1]


def test_epochs_count_what_was_read(order, corpus):
    for steps in (0, 1, 100, 125, 333):
        drawn = Counter(order.locate(n)[0] for n in range(steps * BATCH))
        expected = {name: drawn[name] * SEQ / corpus.train[name].tokens for name in order.quotas}
        assert order.epochs(steps) == pytest.approx(expected)


def test_a_corpus_without_training_tokens(tmp_path):
    with pytest.raises(DataError, match=r"no training tokens in \['books'\]"):
        StatelessDataLoader(numbered(tmp_path, ()), SEQ, BATCH, seed=0)
