"""Decision 4: the data of a step is a pure function of (seed, mixture, step)."""

from collections import Counter

import numpy as np
import pytest
import torch

from minillama.corpus.token_files import Corpus, open_corpus, write_tokens
from minillama.errors import ConfigError, DataError
from minillama.train.dataloader import BLOCK, StatelessDataLoader, quotas

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
    return Corpus(tmp_path, {name: file}, {name: file}, {name: 1.0}, {"vocab_size": 2**16})


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


LENGTHS = (30, 10, 1, 70, 50)
TOTAL = sum(LENGTHS)
FIRST = np.cumsum([0, *LENGTHS])[:-1]
LAST = np.cumsum(LENGTHS) - 1


@pytest.mark.parametrize("seq_len", [1, 4, 16, 40, 80, 160])
def test_an_epoch_reads_every_token_once_but_for_less_than_a_window(tmp_path, seq_len):
    order = StatelessDataLoader(numbered(tmp_path, LENGTHS), seq_len, BATCH, seed=5)
    per_epoch = order.windows_per_epoch("books")
    layouts = set()
    for epoch in range(6):
        numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        windows = [order.window("books", number) for number in numbers]
        inputs, targets = (np.concatenate([w[part] for w in windows])
                           for part in (slice(-1), slice(1, None)))  # fmt: skip
        for read in (inputs, targets):
            assert len(read) == len(set(read.tolist())) > TOTAL - 1 - seq_len
        for before, after in zip(inputs, targets, strict=True):
            within = after == before + 1 and before not in LAST
            assert within or (before in LAST and after in FIRST)  # documents stay whole
        layouts.add(tuple(inputs.tolist()))
    assert len(layouts) == 6  # in another order each time


def test_neighboring_windows_come_from_far_apart(tmp_path):
    """A small batch is not all of one document."""
    order = StatelessDataLoader(numbered(tmp_path, (10_000,)), SEQ, BATCH, seed=0)
    begins = [int(order.window("books", n)[0]) for n in range(500)]
    assert np.mean(np.abs(np.diff(begins)) == SEQ) < 0.02


def test_a_slice_shorter_than_a_window_is_read_round_and_round(tmp_path):
    order = StatelessDataLoader(numbered(tmp_path, (3, 4)), SEQ, BATCH, seed=0)
    for number in range(5):
        window = order.window("books", number).tolist()
        assert len(window) == SEQ + 1
        assert sorted(window[:7]) == list(range(7))
        assert window == (window[:7] * 3)[: SEQ + 1]


def test_slices_are_shuffled_apart(tmp_path):
    """Two slices of equal length do not run through their documents in the same order."""
    lengths = (1,) * 50
    streams = []
    for name in ("books", "c4"):
        order = StatelessDataLoader(numbered(tmp_path, lengths, name), 50, 1, seed=0)
        streams.append(order.window(name, 0).tolist())
    assert streams[0] != streams[1]


def test_epochs_count_what_was_read(order, corpus):
    for steps in (0, 1, 100, 125, 333):
        drawn = Counter(order.locate(n)[0] for n in range(steps * BATCH))
        expected = {name: drawn[name] * SEQ / corpus.train[name].tokens for name in order.quotas}
        assert order.epochs(steps) == pytest.approx(expected)


def test_a_corpus_without_training_tokens(tmp_path):
    with pytest.raises(DataError, match=r"no training tokens in \['books'\]"):
        StatelessDataLoader(numbered(tmp_path, ()), SEQ, BATCH, seed=0)
