"""The 5-gram baseline: what a Transformer gains over it is what attention and depth are worth."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minillama.corpus.ngram import BORDER, NGram
from minillama.corpus.token_files import Corpus
from minillama.evaluate.perplexity import score
from minillama.tokenizer import Tokenizer
from minillama.train.dataloader import StatelessDataLoader

REQUESTS_AT_ONCE = 4_096


def request_log_likelihoods(model: NGram, requests: Sequence[tuple[list[int], int]]) -> list[float]:
    """log P(completion | context) in nats, as ``multiple_choice.log_likelihoods`` of a Llama.

    This is the null line of the benchmarks: a model that has seen the same text but no further back
    than a few pieces, so what it gets right is not an answer to the question.

    Args:
        model: an n-gram model over the pieces that the requests are encoded with.
        requests: ids of context and completion, and where the completion begins.
    """
    totals: list[float] = []
    for first in range(0, len(requests), REQUESTS_AT_ONCE):
        parts, scored = [], []
        for ids, start in requests[first : first + REQUESTS_AT_ONCE]:
            seen = min(start, model.order - 1)
            parts.append([BORDER, *ids[start - seen :]])  # no n-gram crosses a border
            scored.append((1 + seen, len(ids) - start))
        logs = np.log(model.probabilities(np.array([i for part in parts for i in part])))
        ends = np.cumsum([len(part) for part in parts])
        for part, end, (begin, n) in zip(parts, ends, scored, strict=True):
            at = end - len(part) + begin - 1  # the probability of a token stands one place earlier
            totals.append(float(logs[at : at + n].sum()))
    return totals


def training_tokens(
    corpus: Corpus, seen: StatelessDataLoader | None = None, steps: int = 0
) -> np.ndarray:
    """The text to count: every training document once, or what a run has read in its steps."""
    if seen is None:
        files = corpus.train.values()
        pieces = [f.document(i) for f in files for i in range(f.n_documents)]
        return np.concatenate(pieces).astype(np.int64)
    windows = [seen.batch(step)[:, :-1] for step in range(steps)]
    # A window may begin inside a document: a border keeps its n-grams apart from the one before.
    marked = [np.pad(w.numpy(), ((0, 0), (1, 0)), constant_values=BORDER) for w in windows]
    return np.concatenate([rows.ravel() for rows in marked])


def ngram_bits_per_byte(
    corpus: Corpus, max_tokens: int, seq_len: int, order: int = 5,
    seen: StatelessDataLoader | None = None, steps: int = 0,
) -> dict:  # fmt: skip
    """Validation loss and bits per byte of the n-gram model, on the windows that models are
    scored on. Arguments as in ``score`` and ``training_tokens``."""
    model = NGram(training_tokens(corpus, seen, steps), corpus.vocab_size, order)
    return score(corpus, model.log_prob, max_tokens, seq_len)


def byte_symbols(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The bytes that pieces stand for, each plus 2, with 1 for <s>: ``(bytes,)`` uint16."""
    spelled = [np.frombuffer(b, np.uint8).astype(np.uint16) + 2 for b in tokenizer.piece_bytes]
    spelled[Tokenizer.bos_id] = np.array([Tokenizer.bos_id], np.uint16)
    sizes = np.array([len(symbols) for symbols in spelled])
    begins = np.cumsum(sizes) - sizes  # of each piece in the concatenation
    ends = np.cumsum(sizes[ids])
    shift = np.repeat(begins[ids] - ends + sizes[ids], sizes[ids])
    return np.concatenate(spelled)[np.arange(len(shift)) + shift]


def byte_ngram_bits_per_byte(
    corpus: Corpus, max_tokens: int, seq_len: int, order: int = 5
) -> dict[str, Any]:
    """As ``ngram_bits_per_byte`` on all training text, with n-grams of bytes, not of pieces."""
    tokenizer = corpus.tokenizer()
    model = NGram(byte_symbols(training_tokens(corpus), tokenizer), 258, order)

    def log_prob(parts: list[np.ndarray]) -> float:
        total = 0.0
        for part in parts:  # its first piece is context only
            symbols, n_context = (
                byte_symbols(part, tokenizer),
                len(byte_symbols(part[:1], tokenizer)),
            )
            total += np.log(model.probabilities(symbols)[n_context - 1 :]).sum()
        return float(total)

    return score(corpus, log_prob, max_tokens, seq_len)
