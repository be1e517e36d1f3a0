"""Multiple choice by likelihood (Section 3): the model never writes, it only ranks.

Each choice is scored by log P(choice | context) divided by its number of characters, and the
highest score is the model's answer.

The choices of a question share its context, so the context goes through the model once, and its
keys and values serve all choices: half of the work on HellaSwag, two thirds on ARC.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.evaluate.tasks import Question
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

BATCH_TOKENS = 2_048
"""Positions in one forward pass: small enough to stay in the caches of a CPU."""
BUCKET = 16
"""Shared contexts are cut to a multiple of this, so that enough of them have the same length."""


class Window:
    """A stretch of a request that fits the model: what choices share, and what is their own.

    Args:
        request: number of the request.
        ids: its ids, context first.
        scored: how many of the last ids are predicted.
    """

    def __init__(self, request: int, ids: list[int], scored: int) -> None:
        shared = (len(ids) - scored - 1) // BUCKET * BUCKET
        self.request, self.scored = request, scored
        self.prefix, self.rest = tuple(ids[:shared]), ids[shared:]


def encode(tokenizer: Tokenizer, request: tuple[str, str]) -> tuple[list[int], int]:
    """The ids of context and completion, and where the completion begins.

    Both are encoded as one text, behind <s>, so that the pieces are those of running text. Blanks
    at the end of the context count as the completion's, as in lm-evaluation-harness.
    """
    context, completion = request
    ids = tokenizer.encode(context + completion, bos=True)
    return ids, min(len(tokenizer.encode(context.rstrip(), bos=True)), len(ids) - 1)


def windows(request: int, ids: list[int], start: int, length: int) -> list[Window]:
    """Cut a request so that it fits a model of ``length`` positions.

    The completion ``ids[start:]`` is predicted from as much context as fits: what is too long loses
    its beginning. A completion longer than the model's context, which is rare, is scored in parts.

    Returns:
        Windows of at most ``length + 1`` ids whose scored ids are ``ids[start:]``, each once.
    """
    ends = [*range(start + length, len(ids), length), len(ids)]
    begins = [start, *ends[:-1]]
    return [
        Window(request, ids[max(0, end - length - 1) : end], end - begin)
        for begin, end in zip(begins, ends, strict=True)
    ]


def batches(cut: list[Window]) -> Iterator[list[Window]]:
    """Batches of like windows: prefixes of one length, and windows of one prefix side by side."""
    families: dict[object, list[Window]] = {}
    for number, window in enumerate(cut):
        families.setdefault(window.prefix or number, []).append(window)

    def size(family: list[Window]) -> tuple[int, int]:
        return len(family[0].prefix), max(len(window.rest) for window in family)

    batch: list[Window] = []
    for family in sorted(families.values(), key=size):
        length, longest = size(family)
        full = (len(batch) + len(family)) * longest > BATCH_TOKENS
        if batch and (full or len(batch[0].prefix) != length):
            yield batch
            batch = []
        batch = batch + family
    if batch:
        yield batch


class PrefixCache:
    """One layer's keys and values of the prefixes, then handed out to the windows that share them.

    It stands where ``minillama.generate.cache.LayerCache`` does.
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep ``(prefixes, heads, length, head_dim)`` the first time; then put them in front."""
        if self.keys is None:
            self.keys, self.values = keys, values
            return keys, values
        return torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2)

    def spread(self, owner: Tensor) -> None:
        """Give each window the prefix ``owner[window]``."""
        self.keys, self.values = self.keys[owner], self.values[owner]


@torch.inference_mode()
def log_likelihoods(
    model: Llama,
    requests: Sequence[tuple[list[int], int]],
    done: Callable[[int], object] = lambda windows: None,
) -> list[float]:
    """log P(completion | context) of each request, in nats.

    Args:
        model: the model, on any device.
        requests: ids of context and completion, and where the completion begins (see ``encode``).
        done: told how many windows each batch held, for a progress bar.
    """
    length = model.config.max_seq_len
    cut = [w for i, (ids, start) in enumerate(requests) for w in windows(i, ids, start, length)]
    totals = [0.0] * len(requests)
    for batch in batches(cut):
        for window, value in zip(batch, score_batch(model, batch), strict=True):
            totals[window.request] += value
        done(len(batch))
    return totals


def score_batch(model: Llama, batch: list[Window]) -> list[float]:
    """Total log-probability of the scored ids of each window; all prefixes have one length."""
    device = model.output.weight.device
    prefixes = list(dict.fromkeys(window.prefix for window in batch))
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    start, caches = len(prefixes[0]), None
    if start:
        caches = [PrefixCache() for _ in model.layers]
        features(model, torch.tensor(prefixes, device=device), caches, 0)
        owner = torch.tensor([number[window.prefix] for window in batch], device=device)
        for cache in caches:
            cache.spread(owner)
    longest = max(len(window.rest) for window in batch)
    # Short windows are filled up with 0 on the right: no position looks ahead.
    filled = [window.rest + [0] * (longest - len(window.rest)) for window in batch]
    ids = torch.tensor(filled, device=device)  # (windows, longest)
    x = features(model, ids[:, :-1], caches, start)
    ends = torch.tensor([len(window.rest) for window in batch], device=device)[:, None] - 1
    scored = torch.tensor([window.scored for window in batch], device=device)[:, None]
    at = torch.arange(longest - 1, device=device)
    mask = (at >= ends - scored) & (at < ends)
    logits = model.output(x[mask]).float()  # (scored ids of all windows, vocab)
    log_p = -F.cross_entropy(logits, ids[:, 1:][mask], reduction="none")
    return [float(part.double().sum()) for part in log_p.split([w.scored for w in batch])]


def features(
    model: Llama, tokens: Tensor, caches: list[PrefixCache] | None, start: int
) -> Tensor:  # fmt: skip
    """What the output matrix is multiplied with, ``(batch, seq, dim)``.

    Most positions of a question are context, and logits for them would be wasted.
    """
    x = model.tok_embeddings(tokens)
    table = model.rotary[start : start + tokens.shape[1]]
    for i, layer in enumerate(model.layers):
        x = layer(x, table, caches[i] if caches else None)
    return model.norm(x)


def characters(question: Question) -> list[int]:
    """The paper's normaliser: characters of each completion, without the space it begins with."""
    return [max(1, len(completion.removeprefix(" "))) for _, completion in question.requests]


def credit(scores: Sequence[float], answer: int) -> float:
    """1 if the answer scores highest, 0 if not; those that tie for the highest share the point.

    A model that ignores the question may tie on all of its choices; to give it the first one would
    hand it the share of questions whose answer comes first.
    """
    best = [i for i, score in enumerate(scores) if score == max(scores)]
    return (answer in best) / len(best)


def summarise(
    questions: Sequence[Question], likelihoods: Sequence[Sequence[float]]
) -> dict[str, float | int]:
    """The results of a benchmark.

    Args:
        questions: what was asked.
        likelihoods: log P of each question's choices, in nats.

    Returns:
        ``accuracy`` (by characters), ``se`` (its standard error over questions), ``chance``, ``n``,
        ``accuracy_unnormalised``, and ``gold_bpb``: bits per byte of the right answers, which moves
        long before accuracy does.
    """
    normalised, raw, nats, size = [], [], 0.0, 0
    for question, values in zip(questions, likelihoods, strict=True):
        per_character = [v / c for v, c in zip(values, characters(question), strict=True)]
        normalised.append(credit(per_character, question.answer))
        raw.append(credit(values, question.answer))
        nats -= values[question.answer]
        size += len(question.requests[question.answer][1].encode("utf-8"))
    n = len(questions)
    accuracy = sum(normalised) / n
    variance = sum((x - accuracy) ** 2 for x in normalised) / max(1, n - 1)
    return {
        "accuracy": accuracy,
        "se": math.sqrt(variance / n),
        "chance": sum(1 / len(question.requests) for question in questions) / n,
        "n": n,
        "accuracy_unnormalised": sum(raw) / n,
        "gold_bpb": nats / math.log(2) / size,
    }
