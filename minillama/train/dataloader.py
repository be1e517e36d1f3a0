"""Stateless data order: the tokens of global step s are a pure function of (seed, mixture, s).

Nothing is remembered between steps and nothing grows with the corpus, so resuming needs only the
step number, a run may change its number of processes, and any batch can be looked at again.

1. Sequences are numbered 0, 1, 2, ... over the whole run. Every block of 1,000 sequences holds each
   slice exactly its share of times (Table 1), in an order shuffled by (seed, block).
2. A slice is read epoch after epoch. Its documents, which were shuffled once when the corpus was
   built, lie end to end; window w is the tokens [w T, w T + T + 1). In each epoch all windows are
   read in an order shuffled by (seed, slice, epoch): a permutation that is computed, not stored.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from minillama.corpus.token_files import Corpus, TokenFile
from minillama.errors import ConfigError, DataError

BLOCK = 1_000
"""Sequences over which the shares of the mixture hold exactly."""
ROUNDS = 6
"""Of the Feistel network; 4 make it a strong pseudo-random permutation (Luby and Rackoff, 1988)."""
WORD = 2**64 - 1


def quotas(weights: dict[str, float], total: int = BLOCK) -> dict[str, int]:
    """Whole numbers that add up to ``total``, in proportion to ``weights`` (largest remainder)."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    missing = total - sum(counts.values())
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[:missing]:
        counts[name] += 1
    return counts


def mix(value: int) -> int:
    """Scramble a 64-bit number so that every bit depends on every other (SplitMix64's last step,
    Steele et al., 2014)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & WORD
    return value ^ value >> 31


def permute(index: int, n: int, keys: tuple[int, ...]) -> int:
    """Where a permutation of ``range(n)`` sends ``index``: the one with these keys.

    A Feistel network permutes the numbers of 2 h bits, whatever its scrambling function: halves
    change places, and each is mixed into the other. A number that falls out of range is sent on
    until it is back ("cycle walking", Black and Rogaway, 2002): fewer than 4 times on average, as
    4^h < 4 n. Takes no memory.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            left, right = right, left ^ mix(right ^ key) & mask
        index = left << half | right
        if index < n:
            return index


class StatelessDataLoader:
    """Batches of token windows, addressed by step.

    Args:
        corpus: the built corpus.
        seq_len: tokens per sequence T; a window holds T + 1, so that every input has its target.
        batch_sequences: sequences per global step.
        seed: same seed, same data.
    """

    def __init__(self, corpus: Corpus, seq_len: int, batch_sequences: int, seed: int) -> None:
        empty = [name for name in corpus.weights if corpus.train[name].tokens == 0]
        if empty or not corpus.weights:
            raise DataError(f"the corpus has no training tokens in {empty}", "build it again")
        self.files: dict[str, TokenFile] = {name: corpus.train[name] for name in corpus.weights}
        self.seq_len, self.batch_sequences, self.seed = seq_len, batch_sequences, seed
        self.quotas = quotas(corpus.weights)
        self._block = lru_cache(maxsize=4)(self._shuffle_block)
        self._keys = lru_cache(maxsize=4 * len(self.files))(self._epoch_keys)

    def _shuffle_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """For each sequence of a block: its slice, and how many of that slice precede it."""
        counts = list(self.quotas.values())
        order = np.repeat(np.arange(len(counts)), counts)
        np.random.default_rng((self.seed, block)).shuffle(order)
        earlier = np.zeros(BLOCK, dtype=np.int64)
        for index, count in enumerate(counts):
            earlier[order == index] = np.arange(count)
        return order, earlier

    def _epoch_keys(self, name: str, epoch: int) -> tuple[int, ...]:
        """The keys of the permutation of a slice's windows."""
        source = np.random.SeedSequence((self.seed, zlib.crc32(name.encode()), epoch))
        return tuple(source.generate_state(ROUNDS, np.uint64).tolist())

    def windows_per_epoch(self, name: str) -> int:
        """Whole windows in a slice; the rest, less than one, is not read."""
        return max(1, (self.files[name].tokens - 1) // self.seq_len)

    def locate(self, sequence: int) -> tuple[str, int]:
        """The slice of a sequence of the run, and its window's number within that slice."""
        block, position = divmod(sequence, BLOCK)
        order, earlier = self._block(block)
        name = list(self.quotas)[order[position]]
        before = block * self.quotas[name]
        number = before + int(earlier[position])
        return name, number

    def window(self, name: str, number: int) -> np.ndarray:
        """The ``number``-th window that a run reads of a slice: ``(seq_len + 1,)`` ids.

        A slice shorter than a window is read round and round.
        """
        file, size = self.files[name], self.seq_len + 1
        # which window of the slice
        per_epoch = self.windows_per_epoch(name)
        epoch, place = divmod(number, per_epoch)
        window = permute(place, per_epoch, self._keys(name, epoch))
        # its tokens
        begin = window * self.seq_len
        end = min(begin + size, file.tokens)
        tokens = file.read(begin, end).astype(np.int64)
        if file.tokens < size:
            tokens = np.resize(tokens, size)
        return tokens

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """This process's part of global step ``step`` (counted from 0).

        Returns:
            ``(batch_sequences / world, seq_len + 1)`` int64. The parts of all ranks, stacked in
            rank order, are the global batch whatever ``world`` is.
        """
        local = self.share(world)
        first = step * self.batch_sequences + rank * local
        windows = []
        for sequence in range(first, first + local):
            name, number = self.locate(sequence)
            windows.append(self.window(name, number))
        stacked = np.stack(windows)  # (local, seq_len + 1)
        return torch.from_numpy(stacked)

    def batches(self, start: int, end: int, rank: int = 0, world: int = 1) -> Iterator[Tensor]:
        """The batches of steps ``start`` to ``end - 1``; a thread reads one ahead."""
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.batch, start, rank, world)
            for step in range(start + 1, end):
                batch = ahead.result()
                ahead = pool.submit(self.batch, step, rank, world)
                yield batch
            yield ahead.result()

    def share(self, world: int) -> int:
        """Sequences of a step for each of ``world`` processes. Raises ``ConfigError`` if uneven."""
        if self.batch_sequences % world:
            raise ConfigError(
                f"{self.batch_sequences} sequences a step cannot be shared by {world} processes",
                "choose batch_tokens = seq_len x a multiple of the number of processes",
            )
        return self.batch_sequences // world

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each slice has been read after ``steps`` global steps."""
        blocks, rest = divmod(steps * self.batch_sequences, BLOCK)
        order, _ = self._block(blocks)
        begun = np.bincount(order[:rest], minlength=len(self.quotas))
        found = {}
        for (name, quota), extra in zip(self.quotas.items(), begun, strict=True):
            sequences = blocks * quota + int(extra)
            found[name] = sequences * self.seq_len / self.files[name].tokens
        return found
