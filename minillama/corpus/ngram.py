"""An n-gram model with interpolated modified Kneser-Ney smoothing.

It knows nothing but counts. CCNet judges web pages with such a model of Wikipedia (``quality``);
for ours it is the baseline to beat (``evaluate.baselines``). Chen & Goodman (1999), "An empirical
study of smoothing techniques for language modeling".

For a context h of n - 1 pieces, and h' without its first piece,

    p_n(w | h) = max(c(h w) - D(c(h w)), 0) / c(h) + gamma(h) p_(n-1)(w | h')

where c counts occurrences at the highest order and distinct left neighbors below it, D takes one
of three values for counts of 1, 2, and 3 or more, and gamma(h) is the mass that D has freed.
"""

from dataclasses import dataclass

import numpy as np

from minillama.errors import ConfigError
from minillama.tokenizer import Tokenizer

BORDER = Tokenizer.unk_id
"""An id that stands in no text: no n-gram holds it."""


@dataclass(frozen=True)
class Level:
    """The counts of one order n, as sorted arrays."""

    grams: np.ndarray
    """Packed n-grams (uint64), sorted."""
    discounted: np.ndarray
    """c(h w) - D, of each n-gram; the last, 0, is that of all others."""
    totals: np.ndarray
    """c(h), of each context h in the place that it has among the (n-1)-grams, or for n = 2 of its
    id; the last, 0, is that of all others."""
    freed: np.ndarray
    """gamma(h) c(h), the mass left for the lower order, in the same places."""


def discounts(counts: np.ndarray) -> np.ndarray:
    """D for counts of 0, 1, 2, and 3 or more, from counts of counts (Chen & Goodman, eq. 26)."""
    of_counts = np.bincount(np.minimum(counts, 5), minlength=6)
    n1, n2, n3, n4 = np.maximum(1, of_counts[1:5]).tolist()
    y = n1 / (n1 + 2 * n2)
    d1 = 1 - 2 * y * n2 / n1
    d2 = 2 - 3 * y * n3 / n2
    d3 = 3 - 4 * y * n4 / n3
    lowest, highest = [0, 0.1, 0.2, 0.3], [0, 0.95, 1.95, 2.95]  # for tiny texts
    return np.clip([0.0, d1, d2, d3], lowest, highest)


def places(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key is among the sorted ``keys``; -1 for one that is not there."""
    if not len(keys):
        return np.full(len(wanted), -1)
    last = len(keys) - 1
    at = np.minimum(np.searchsorted(keys, wanted), last)
    is_there = keys[at] == wanted
    return np.where(is_there, at, -1)


class NGram:
    """An n-gram model over piece ids ``(length,)``, of which each document begins with <s>.

    No n-gram crosses into the next document. Raises ``ConfigError`` if n-grams of this vocabulary
    do not fit into 64 bits.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, order: int = 5) -> None:
        self.vocab_size, self.order = vocab_size, order
        self.bits = int(vocab_size - 1).bit_length()
        if self.bits * order > 64:
            message = f"{order}-grams of {vocab_size} pieces do not fit into 64 bits"
            raise ConfigError(message, "lower the order")
        counted = [self._count(tokens, n) for n in range(1, order + 1)]
        self.levels: list[Level] = []
        for n in range(1, order + 1):
            self.levels.append(self._level(n, *self._counts(n, counted)))

    def _pack(self, tokens: np.ndarray, n: int) -> np.ndarray:
        """All n-grams of ``tokens``, each packed into one integer: ``(length - n + 1,)``."""
        length = max(0, len(tokens) - n + 1)
        packed = np.zeros(length, dtype=np.uint64)
        for i in range(n):
            piece = tokens[i : i + length].astype(np.uint64)
            packed <<= np.uint64(self.bits)
            packed |= piece
        return packed

    def _count(self, tokens: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The distinct n-grams inside documents and how often each occurs."""
        grams = self._pack(tokens, n)
        inside = np.ones(len(grams), dtype=bool)
        for i in range(n):
            piece = tokens[i : i + len(grams)]
            inside &= piece != BORDER
            if i:  # <s> only ever begins an n-gram
                inside &= piece != Tokenizer.bos_id
        return np.unique(grams[inside], return_counts=True)

    def _counts(
        self, n: int, counted: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams and c of each: at the highest order how often it occurs, below it the number
        of its distinct left neighbors; an n-gram that begins with <s> has none."""
        grams, counts = counted[n - 1]
        if n < self.order:
            longer, _ = counted[n]
            without_first = longer & np.uint64((1 << self.bits * n) - 1)
            followed, neighbors = np.unique(without_first, return_counts=True)
            by_gram = np.append(neighbors, 0)[places(followed, grams)]
            first = grams >> np.uint64(self.bits * (n - 1))
            counts = np.where(first == Tokenizer.bos_id, counts, by_gram)
        if n > 1:
            return grams, counts
        is_predicted = grams != Tokenizer.bos_id  # <s> never is
        return grams[is_predicted], counts[is_predicted]

    def _level(self, n: int, grams: np.ndarray, counts: np.ndarray) -> Level:
        discount = discounts(counts)[np.minimum(counts, 3)]
        contexts, starts = np.unique(grams >> np.uint64(self.bits), return_index=True)
        # The place of each context
        if n == 1:
            size = 1
        elif n == 2:
            size = 1 << self.bits
        else:
            size = len(self.levels[-1].grams)
            contexts = places(self.levels[-1].grams, contexts)
        # Sums over all that follows it
        totals, freed = np.zeros((2, size + 1))
        totals[contexts] = np.add.reduceat(counts.astype(np.float64), starts)
        freed[contexts] = np.add.reduceat(discount, starts)
        return Level(grams, np.append(counts - discount, 0.0), totals, freed)

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """p(token | up to n - 1 tokens before it) for all but the first: ``(length - 1,)``."""
        p = np.full(len(tokens) - 1, 1 / (self.vocab_size - 1))  # any piece but <s>
        found = np.full(len(p), -1)  # where each n-gram is, one order below
        for n, level in enumerate(self.levels, start=1):
            # The place of each context, and which n-grams can be there
            if n == 1:
                context = np.zeros(len(p), dtype=np.int64)
            elif n == 2:
                context = tokens[:-1].astype(np.int64)
            else:
                context = found[:-1]
            total = level.totals[context]
            known = total > 0
            if n > 2:  # an n-gram is only there if both (n-1)-grams in it are
                known &= found[1:] >= 0
            # The place of each n-gram
            grams = self._pack(tokens if n > 1 else tokens[1:], n)
            found = np.full(len(total), -1)
            found[known] = places(level.grams, grams[known])
            # Interpolate with the order below
            lower = p[max(0, n - 2) :]  # the first targets have too short a context
            divisor = np.where(total > 0, total, 1.0)
            direct = level.discounted[found] / divisor
            freed = level.freed[context] / divisor
            lower[:] = np.where(total > 0, direct + freed * lower, lower)
        return p

    def log_prob(self, parts: list[np.ndarray]) -> float:
        """Total log-probability in nats of all but the first token of each part."""
        totals = [np.log(self.probabilities(part)).sum() for part in parts]
        return float(sum(totals))
