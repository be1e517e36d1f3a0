"""Multiple choice by likelihood (Section 3): the model never writes, it only ranks.

Here log P(choice | context) is worked out; ``minillama.evaluate.scoring`` makes results of it.

The choices of a question share its context, so the context goes through the model once and serves
all choices: half of the work on HellaSwag, two thirds on ARC.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from minillama.errors import DataError
from minillama.evaluate.packed import Bundle, score_rows
from minillama.evaluate.scoring import Row, make_row
from minillama.evaluate.tasks import ANSWER, Question
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

BATCH_TOKENS = 2_048
"""Positions in one forward pass: small enough to stay in the caches of a CPU."""
BUCKET = 16
"""Windows with the same ids up to a multiple of this are of one family and share what they can."""
ABREAST = 16
"""Windows of a family in one row at most: attention's cost grows with the square of its length."""


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


def batches(cut: list[Window]) -> Iterator[list[Bundle]]:
    """Batches of rows of like length; windows that begin alike share a row."""
    families: dict[object, list[Window]] = {}
    for number, window in enumerate(cut):
        families.setdefault(window.prefix or number, []).append(window)
    rows = []
    for family in families.values():
        for start in range(0, len(family), ABREAST):
            part = family[start : start + ABREAST]
            rows.append(Bundle([([*w.prefix, *w.rest], w.scored, w.request) for w in part]))
    batch: list[Bundle] = []
    for row in sorted(rows, key=len):
        if batch and (len(batch) + 1) * len(row) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


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
    return [value for value, _ in judgments(model, requests, done)]


@torch.inference_mode()
def judgments(
    model: Llama,
    requests: Sequence[tuple[list[int], int]],
    done: Callable[[int], object] = lambda windows: None,
) -> list[tuple[float, bool]]:
    """``log_likelihoods``, and whether each completion is what greedy decoding would write.

    Raises:
        DataError: the model's output is not finite.
    """
    length = model.config.max_seq_len
    cut = [w for i, (ids, start) in enumerate(requests) for w in windows(i, ids, start, length)]
    totals, greedy = [0.0] * len(requests), [True] * len(requests)
    for batch in batches(cut):
        numbers = [number for row in batch for number in row.numbers]
        for number, (value, likeliest) in zip(numbers, score_rows(model, batch), strict=True):
            totals[number] += value
            greedy[number] &= likeliest
        done(len(numbers))
    if not all(map(math.isfinite, totals)):
        raise DataError("the model's output is not finite", "take an earlier checkpoint")
    return list(zip(totals, greedy, strict=True))


class Requests:
    """The requests of some questions, encoded once for all checkpoints.

    Each choice is scored after its context. After a bare "Answer:" the right one is scored, for
    the context gain, and the others where the paper's rule needs them. A request that several
    questions make (" yes" after "Answer:") is scored once.

    Args:
        tokenizer: the one that the model was trained with.
        questions: what to ask.
        bare: whether to score all choices after a bare "Answer:".
    """

    def __init__(
        self, tokenizer: Tokenizer, questions: Sequence[Question], bare: bool = False
    ) -> None:
        self.questions = questions
        number: dict[tuple[str, str], int] = {}
        self.asked = [
            [(number.setdefault(request, len(number)),
              number.setdefault((ANSWER, request[1]), len(number))
              if bare or i == question.answer else None)
             for i, request in enumerate(question.requests)]
            for question in questions
        ]  # fmt: skip
        self.encoded = [encode(tokenizer, request) for request in number]

    def __len__(self) -> int:
        return len(self.encoded)

    def rows(self, key: str, values: Sequence[float], max_seq_len: int | None = None) -> list[Row]:
        """A row for each question, from log P of each of ``encoded``.

        Args:
            key: the task's name in records.
            values: log P of each request, in nats.
            max_seq_len: the model's context; None if it has no bound.
        """
        lost = [0 if max_seq_len is None else truncated(*r, max_seq_len) for r in self.encoded]
        return [
            make_row(
                key, question,
                [values[i] for i, _ in pairs],
                [None if j is None else values[j] for _, j in pairs],
                [lost[i] for i, _ in pairs],
            )
            for question, pairs in zip(self.questions, self.asked, strict=True)
        ]  # fmt: skip


def truncated(ids: list[int], start: int, length: int) -> int:
    """How many ids of a request's context a model of ``length`` positions cannot see."""
    return max(0, min(len(ids), start + length) - length - 1)
