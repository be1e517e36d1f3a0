"""Exact duplicates, and near ones: signatures find candidates, the exact overlap rules."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import prose

from minillama.corpus.deduplicate import (
    HashSet,
    Library,
    candidate_probability,
    drop_near_duplicates,
    hash64,
    overlap,
    precision_recall,
    shingles,
    signature,
)
from minillama.corpus.document import Document


def naive_overlap(a: str, b: str, size: int = 5) -> float:
    """With Python's own sets of tuples of words; words of letters only."""

    def runs(text):
        words = text.casefold().replace(".", " ").replace(",", " ").replace(";", " ").split()
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    return len(runs(a) & runs(b)) / len(runs(a) | runs(b))


def numbered(start: int, stop: int) -> str:
    """A text whose shingles are all different."""
    return " ".join(f"word{i}" for i in range(start, stop))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 300))
def test_overlap_is_that_of_sets_of_word_runs(seed, cut):
    a = prose(seed, words=300)
    b = " ".join(a.split()[cut:]) + " " + prose(seed + 1, words=100)
    assert overlap(shingles(a), shingles(b)) == pytest.approx(naive_overlap(a, b))


def test_case_punctuation_and_spacing_do_not_count():
    assert np.array_equal(
        shingles("One, two: three four five!"), shingles("one two THREE\nfour five")
    )
    assert len(shingles("one")) == len(shingles("")) == 1
    assert not np.array_equal(shingles("a b c d e"), shingles("e d c b a"))  # order does


@pytest.mark.parametrize("common", [100, 500, 900])
def test_the_signature_estimates_the_overlap(common):
    a, b = shingles(numbered(0, 1_004)), shingles(numbered(1_000 - common, 2_004 - common))
    exact = overlap(a, b)
    assert exact == pytest.approx(common / (2_000 - common), abs=0.005)
    agree = (signature(a, 4_096) == signature(b, 4_096)).mean()
    assert agree == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 4_096) ** 0.5)


def test_the_probability_of_being_a_candidate_is_the_measured_one():
    found = 0
    for trial in range(300):
        texts = [numbered(trial * 5_000, trial * 5_000 + 404),
                 numbered(trial * 5_000 + 80, trial * 5_000 + 484)]  # fmt: skip
        sets = [shingles(text) for text in texts]
        bands = [signature(s).reshape(16, -1) for s in sets]
        found += bool((bands[0] == bands[1]).all(axis=1).any())
        exact = overlap(*sets)
    assert exact == pytest.approx(2 / 3)
    expected = candidate_probability(exact)
    assert found / 300 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 300) ** 0.5)
    assert candidate_probability(0.9) > 0.999 and candidate_probability(0.3) < 0.002


def document(text: str, name: str) -> Document:
    return Document(text, "books", "x==1", name)


def edited(text: str, share: float) -> str:
    """Every 1 / share-th word replaced: each spoils five runs of words."""
    words = text.split()
    for i in range(0, len(words), round(1 / share)):
        words[i] = f"new{i}"
    return " ".join(words)


def test_what_90_percent_keeps_and_drops():
    book = numbered(0, 2_000)
    books = [
        document(book, "first"), document(edited(book, 0.02), "much edited"),
        document(edited(book, 0.005), "little edited"), document(book.upper(), "shouted"),
        document(numbered(5_000, 7_000), "other"),
    ]  # fmt: skip
    kept, dropped = drop_near_duplicates(books)
    assert [d.path for d in kept] == ["first", "much edited", "other"]
    assert [(d.document.path, d.like.path) for d in dropped] == [
        ("little edited", "first"), ("shouted", "first"),
    ]  # fmt: skip
    assert [d.overlap for d in dropped] == pytest.approx([1950 / 2042, 1.0])
    kept, _ = drop_near_duplicates(books, threshold=0.8)
    assert [d.path for d in kept] == ["first", "other"]


def test_candidates_find_what_comparing_all_pairs_finds():
    texts = [numbered(0, 1_500)]
    texts += [edited(texts[0], 0.002 * i) + f" {i}" for i in range(1, 12)]
    texts += [numbered(10_000 * i, 10_000 * i + 1_000) for i in range(2, 9)]
    sets = [shingles(text) for text in texts]
    library, found = Library(lambda i: texts[i]), set()
    for i, text in enumerate(texts):
        if pair := library.find_or_add(i, text):
            found.add((pair[0], i))
    pairs = itertools.combinations(range(len(texts)), 2)
    true = {(i, j) for i, j in pairs if overlap(sets[i], sets[j]) > 0.9}
    precision, _ = precision_recall(found, true)
    assert precision == 1  # nothing is dropped that does not overlap
    dropped = {j for _, j in found}
    assert all(i in dropped or j in dropped for i, j in true)  # no such pair is left


def test_precision_and_recall():
    assert precision_recall([(0, 1), (2, 3)], [(0, 1), (4, 5), (6, 7), (8, 9)]) == (0.5, 0.25)
    assert precision_recall([], []) == (0, 0)


@pytest.mark.parametrize("buffer", [1, 7, 100, 10_000])
def test_it_says_what_a_set_says(buffer):
    rng = np.random.default_rng(0)
    seen, plain = HashSet(buffer), set()
    for _ in range(150):
        batch = rng.integers(0, 1_500, rng.integers(0, 40), dtype=np.uint64).tolist()
        batch = [n * 0x9E3779B97F4A7C15 % 2**64 for n in batch]
        expected = []
        for number in batch:
            expected.append(number not in plain)
            plain.add(number)
        assert seen.first_time(batch) == expected
    assert len(seen) == len(plain)


def test_the_ends_of_the_range_and_merges_of_unequal_runs(tmp_path):
    seen = HashSet(2, tmp_path)
    assert seen.first_time([0, 2**64 - 1]) == [True, True]
    assert seen.first_time([1, 0, 2**64 - 1, 1]) == [True, False, False, False]
    assert seen.first_time(range(2, 50)) == [True] * 48
    assert seen.first_time([*range(50), 2**64 - 1]) == [False] * 51
    assert len(list(tmp_path.glob("run-*.npy"))) <= 6


def test_memory_does_not_grow_with_the_number_of_hashes():
    def peak(count: int) -> int:
        seen = HashSet(2_000)
        tracemalloc.start()
        for start in range(0, count, 500):
            seen.first_time(hash64(str(i)) for i in range(start, start + 500))
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(seen) == count
        return high

    peak(5_000)
    assert peak(200_000) < 1.3 * peak(20_000)


def test_hashes_do_not_depend_on_the_process():
    assert hash64("llama") == 0x1ED4FC79E6FA1347
