"""Validation loss and bits per byte on held-out documents (Figure 1 and Section 3.7).

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
from minillama.errors import DataError
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train.backend import LocalBackend
from minillama.train.config import TrainConfig

BATCH_TOKENS = 16_384
IGNORED = -100
"""A target that is not counted."""


def validate(model: Llama, corpus: Corpus, config: TrainConfig, backend: LocalBackend) -> dict:
    """Loss in nats per token and bits per byte on the held-out documents, by slice and in all.

    All processes call this and get the whole result. ``nothing_held_out`` names slices without.
    """
    result = valid_bits_per_byte(model, corpus, config.eval_tokens, config.seq_len, backend)
    record = {
        "valid_loss": result["loss"],
        "valid_bpb": result["bpb"],
        "valid_bpb_by_slice": result["bpb_by_slice"],
    }
    without = [name for name in corpus.slices if name not in result["bpb_by_slice"]]
    return record | ({"nothing_held_out": without} if without else {})


def valid_bits_per_byte(
    model: Llama,
    corpus: Corpus,
    max_tokens: int,
    seq_len: int,
    backend: LocalBackend | None = None,
    split: str = "valid",
) -> dict:
    """``score`` for a Llama, by this process alone if there is no backend.

    The model is left in the mode it was in.
    """
    backend = backend or LocalBackend(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        return score(
            corpus,
            lambda parts: windows_log_prob(model, parts, backend),
            max_tokens,
            seq_len,
            split,
        )
    finally:
        model.train(was_training)


def windows(file: TokenFile, seq_len: int, max_tokens: int) -> list[np.ndarray]:
    """Stretches of held-out documents to score, sampled evenly if there are too many.

    Every document is cut into windows of at most ``seq_len`` targets; the first id of a window is
    its only context. Each target is scored in exactly one window, and no window crosses documents.

    Returns:
        Arrays of 2 to ``seq_len + 1`` ids.
    """
    # Count: only where documents begin is looked at, no token.
    targets = np.maximum(np.diff(file.offsets) - 1, 0)
    ends = np.cumsum(-(-targets // seq_len))  # windows up to and with each document
    count, total = (int(ends[-1]), int(targets.sum())) if len(ends) else (0, 0)
    if not count:
        return []

    # Choose.
    keep = max(1, math.floor(count * min(1.0, max_tokens / total)))
    chosen = np.array([i * count // keep for i in range(keep)])
    documents = np.searchsorted(ends, chosen, side="right")

    # Read.
    found = []
    for window, document in zip(chosen, documents, strict=True):
        begin, end = int(file.offsets[document]), int(file.offsets[document + 1])
        last = int(ends[document])  # its windows are numbered up to here
        first = last + targets[document] // -seq_len
        start = begin + int(window - first) * seq_len
        found.append(file.read(start, min(start + seq_len + 1, end)).astype(np.int64))
    return found


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
    split: str = "valid",
) -> dict:
    """Score every slice's held-out windows with any model.

    Args:
        corpus: its weights combine the slices, as they do in training.
        log_prob: total log-probability (nats) of all targets of some windows.
        max_tokens: targets scored per slice.
        seq_len: targets per window.
        split: ``valid``, or ``test``, on which no choice is made.

    Returns:
        ``loss`` (nats per token) and ``bpb``, averaged over slices by the mixture, and both by
        slice.
    """
    size_of = target_bytes(corpus.tokenizer())
    loss, bpb = {}, {}
    for name in corpus.slices:
        parts = windows(corpus.files[split][name], seq_len, max_tokens)
        if not parts:
            continue
        targets = np.concatenate([part[1:] for part in parts])
        n_bytes = int(size_of[targets].sum())
        nats = -log_prob(parts)
        loss[name] = nats / len(targets)
        bpb[name] = nats / math.log(2) / max(1, n_bytes)
    return {
        "loss": mixture_mean(loss, corpus.weights),
        "bpb": mixture_mean(bpb, corpus.weights),
        "loss_by_slice": loss,
        "bpb_by_slice": bpb,
    }


def mixture_mean(values: dict[str, float], weights: dict[str, float]) -> float:
    """The mean over the slices that have a value, by their share; ``DataError`` if none has."""
    total = sum(weights[name] for name in values)
    if not total:
        raise DataError("no slice of the corpus has held-out text", "build it again with more text")
    return sum(weights[name] * value for name, value in values.items()) / total


def batches(parts: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets, ``(windows, longest)`` each; windows of like length go together.

    Short windows are filled up with 0 on the right (harmless, as no position looks ahead), and
    their targets with ``IGNORED``.
    """
    by_length = sorted(parts, key=len)
    while by_length:
        # As many of the longest as fit.
        longest = len(by_length[-1])
        fit = max(1, BATCH_TOKENS // longest)
        chosen = by_length[-fit:]
        del by_length[-fit:]
        # (windows, longest - 1) each
        tokens = torch.zeros(len(chosen), longest - 1, dtype=torch.int64)
        targets = torch.full_like(tokens, IGNORED)
        for row, part in enumerate(chosen):
            length = len(part) - 1
            tokens[row, :length] = torch.from_numpy(part[:-1])
            targets[row, :length] = torch.from_numpy(part[1:])
        yield tokens, targets


@torch.no_grad()
def windows_log_prob(model: Llama, parts: list[np.ndarray], backend: LocalBackend) -> float:
    """Total log-probability in nats of the windows' targets; each data rank scores some windows.

    On a mesh every forward pass is a collective operation, so processes that have fewer batches
    than others fill up with passes over nothing.
    """
    # This process's windows.
    own = parts[backend.data_rank :: backend.data_size]
    share = list(batches(own))
    rounds = backend.maximum(len(share))
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    empty = nothing, nothing + IGNORED
    share += [empty] * (rounds - len(share))
    # Their log-probability: the loss is a mean over the targets.
    total = torch.zeros((), dtype=torch.float64, device=backend.device)
    for tokens, targets in share:
        count = int((targets != IGNORED).sum())
        tokens, targets = tokens.to(backend.device), targets.to(backend.device)
        loss = model(tokens, targets=targets)
        total -= loss.double() * count
    return float(backend.mean(total)) * backend.data_size
