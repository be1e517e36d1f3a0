"""Validation loss and bits per byte on held-out documents.

Loss in nats per token depends on the vocabulary; bits per byte do not, so models with different
tokenizers, and the n-gram baseline, compare on them. Both are computed on the same windows of the
same documents.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from minillama.corpus.token_files import Corpus, TokenFile
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

BATCH_TOKENS = 16_384


def windows(file: TokenFile, seq_len: int, max_tokens: int) -> list[np.ndarray]:
    """Stretches of held-out documents to score, sampled evenly if there are too many.

    Every document is cut into windows of at most ``seq_len`` targets; the first id of a window is
    its only context. Each target is scored in exactly one window, and no window crosses documents.

    Returns:
        Arrays of 2 to ``seq_len + 1`` ids.
    """
    cut = [
        document[start : start + seq_len + 1].astype(np.int64)
        for document in (file.document(i) for i in range(file.n_documents))
        for start in range(0, len(document) - 1, seq_len)
    ]
    total = sum(len(window) - 1 for window in cut)
    keep = max(1, math.floor(len(cut) * min(1.0, max_tokens / max(1, total))))
    return [cut[i * len(cut) // keep] for i in range(keep)] if cut else []


def target_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes that each piece stands for: ``(vocab_size,)``; 0 for <s> and </s>.

    The space that the tokenizer puts before a document counts as a byte: one in a whole document.
    """
    return np.array([len(piece) for piece in tokenizer.piece_bytes], dtype=np.int64)


def score(
    corpus: Corpus,
    log_prob: Callable[[list[np.ndarray]], float],
    max_tokens: int,
    seq_len: int,
) -> dict:
    """Score every slice's validation windows with any model.

    Args:
        corpus: its weights combine the slices, as they do in training.
        log_prob: total log-probability (nats) of all targets of some windows.
        max_tokens: targets scored per slice.
        seq_len: targets per window.

    Returns:
        ``loss`` (nats per token) and ``bpb``, averaged over slices by the mixture, and both by
        slice.
    """
    size_of = target_bytes(corpus.tokenizer())
    loss, bpb = {}, {}
    for name in corpus.slices:
        parts = windows(corpus.valid[name], seq_len, max_tokens)
        tokens = sum(len(part) - 1 for part in parts)
        if not tokens:
            continue
        n_bytes = sum(int(size_of[part[1:]].sum()) for part in parts)
        nats = -log_prob(parts)
        loss[name], bpb[name] = nats / tokens, nats / math.log(2) / max(1, n_bytes)
    total = sum(corpus.weights[name] for name in loss) or 1.0

    def mean(values: dict[str, float]) -> float:
        return sum(corpus.weights[name] * value for name, value in values.items()) / total

    return {"loss": mean(loss), "bpb": mean(bpb), "loss_by_slice": loss, "bpb_by_slice": bpb}


def batches(parts: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets, ``(windows, longest)`` each; windows of like length go together.

    Short windows are filled up with 0 on the right (harmless, as no position looks ahead), and
    their targets with -100, which is not counted.
    """
    by_length = sorted(parts, key=len)
    while by_length:
        fit = max(1, BATCH_TOKENS // len(by_length[-1]))
        chosen, by_length = by_length[-fit:], by_length[:-fit]
        tokens = torch.zeros(len(chosen), len(chosen[-1]) - 1, dtype=torch.int64)
        targets = torch.full_like(tokens, -100)
        for row, part in enumerate(chosen):
            tokens[row, : len(part) - 1] = torch.from_numpy(part[:-1])
            targets[row, : len(part) - 1] = torch.from_numpy(part[1:])
        yield tokens, targets


@torch.no_grad()
def model_log_prob(model: Llama, parts: list[np.ndarray]) -> float:
    """Total log-probability in nats that a model gives to the targets of the windows."""
    device = next(model.parameters()).device
    total = 0.0
    for tokens, targets in batches(parts):
        loss = model(tokens.to(device), targets=targets.to(device))
        total -= float(loss) * int((targets != -100).sum())
    return total


def valid_bits_per_byte(model: Llama, corpus: Corpus, max_tokens: int, seq_len: int) -> dict:
    """``score`` for a Llama. The model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        return score(corpus, lambda parts: model_log_prob(model, parts), max_tokens, seq_len)
    finally:
        model.train(was_training)
