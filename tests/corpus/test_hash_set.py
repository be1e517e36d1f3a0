"""The set on disk says what a set in memory says, and its memory stays bounded."""

import tracemalloc

import numpy as np
import pytest

from minillama.corpus.deduplicate import HashSet, hash64


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
