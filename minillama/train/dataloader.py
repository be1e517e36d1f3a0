"""Stateless data order: the tokens of global step s are a pure function of (seed, mixture, s).

Nothing is remembered between steps, so resuming needs only the step number, a run may change its
number of processes, and any batch can be looked at again.

1. Sequences are numbered 0, 1, 2, ... over the whole run. Every block of 1,000 sequences holds each
   slice exactly its share of times (Table 1), in an order shuffled by (seed, block).
2. A slice is read epoch after epoch. In each, its documents are laid end to end in an order
   shuffled by (seed, slice, epoch) and cut into windows; the windows are then shuffled too. Without
   that, neighboring sequences would come from one document and a small batch would be all of a
   kind.
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


def quotas(weights: dict[str, float], total: int = BLOCK) -> dict[str, int]:
    """Whole numbers that add up to ``total``, in proportion to ``weights`` (largest remainder)."""
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


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
        self._epoch = lru_cache(maxsize=4 * len(self.files))(self._shuffle_epoch)

    def _shuffle_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """For each sequence of a block: its slice, and how many of that slice precede it."""
        counts = list(self.quotas.values())
        order = np.repeat(np.arange(len(counts)), counts)
        np.random.default_rng((self.seed, block)).shuffle(order)
        rank = np.zeros(BLOCK, dtype=np.int64)
        for index, count in enumerate(counts):
            rank[order == index] = np.arange(count)
        return order, rank

    def _shuffle_epoch(self, name: str, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One epoch of a slice: documents in order, where each begins, and windows in order."""
        file = self.files[name]
        rng = np.random.default_rng((self.seed, zlib.crc32(name.encode()), epoch))
        documents = rng.permutation(file.n_documents)
        starts = np.concatenate(([0], np.cumsum(np.diff(file.offsets)[documents])))
        return documents, starts, rng.permutation(self.windows_per_epoch(name))

    def windows_per_epoch(self, name: str) -> int:
        """Whole windows in a slice; the rest, less than one, differs from epoch to epoch."""
        return max(1, (self.files[name].tokens - 1) // self.seq_len)

    def locate(self, sequence: int) -> tuple[str, int]:
        """The slice of a sequence of the run, and its window's number within that slice."""
        block, position = divmod(sequence, BLOCK)
        order, rank = self._block(block)
        name = list(self.quotas)[order[position]]
        return name, block * self.quotas[name] + int(rank[position])

    def window(self, name: str, number: int) -> np.ndarray:
        """The ``number``-th window that a run reads of a slice: ``(seq_len + 1,)`` ids.

        Window w of an epoch is the tokens [w T, w T + T + 1) of its documents laid end to end; a
        slice shorter than that is read round and round.
        """
        file = self.files[name]
        epoch, place = divmod(number, self.windows_per_epoch(name))
        documents, starts, order = self._epoch(name, epoch)
        position, wanted, pieces = int(order[place]) * self.seq_len, self.seq_len + 1, []
        while wanted:
            at = int(np.searchsorted(starts, position, side="right")) - 1
            begin = position - int(starts[at])
            piece = file.document(int(documents[at]))[begin : begin + wanted]
            pieces.append(piece)
            position = (position + len(piece)) % file.tokens
            wanted -= len(piece)
        return np.concatenate(pieces).astype(np.int64)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """This process's part of global step ``step`` (counted from 0).

        Returns:
            ``(batch_sequences / world, seq_len + 1)`` int64. The parts of all ranks, stacked in
            rank order, are the global batch whatever ``world`` is.
        """
        local = self.share(world)
        first = step * self.batch_sequences + rank * local
        windows = [self.window(*self.locate(n)) for n in range(first, first + local)]
        return torch.from_numpy(np.stack(windows))

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
        seen = np.bincount(order[:rest], minlength=len(self.quotas))
        return {
            name: (blocks * quota + int(seen[i])) * self.seq_len / self.files[name].tokens
            for i, (name, quota) in enumerate(self.quotas.items())
        }
