"""Multiple choice by likelihood (Section 3): the model never writes, it only ranks.

Here log P(choice | context) is worked out; ``minillama.evaluate.scoring`` makes results of it.

The choices of a question share its context, so the context goes through the model once and serves
all choices: half of the work on HellaSwag, two thirds on ARC.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from minillama.errors import DataError
from minillama.evaluate.packed import PackedRow, Window, score_rows
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


def encode(tokenizer: Tokenizer, request: tuple[str, str]) -> tuple[list[int], int]:
    """The ids of context and completion, and where the completion begins.

    Both are encoded as one text, behind <s>, so that the pieces are those of running text. Blanks
    at the end of the context count as the completion's, as in lm-evaluation-harness.
    """
    context, completion = request
    ids = tokenizer.encode(context + completion, bos=True)
    return ids, min(len(tokenizer.encode(context.rstrip(), bos=True)), len(ids) - 1)


def cut_request(request: int, ids: list[int], start: int, length: int) -> list[Window]:
    """Cut a request so that it fits a model of ``length`` positions.

    The completion ``ids[start:]`` is predicted from as much context as fits: what is too long loses
    its beginning. A completion longer than the model's context, which is rare, is scored in parts.

    Returns:
        Windows of at most ``length + 1`` ids whose scored ids are ``ids[start:]``, each once.
    """
    cut = []
    for begin in range(start, len(ids), length):
        end = min(begin + length, len(ids))
        first = max(0, end - length - 1)
        cut.append(Window(request, ids[first:end], scored=end - begin))
    return cut


def truncated(ids: list[int], start: int, length: int) -> int:
    """How many ids of a request's context a model of ``length`` positions cannot see."""
    return max(0, min(len(ids), start + length) - length - 1)


def packed_batches(windows: list[Window]) -> Iterator[list[PackedRow]]:
    """Batches of rows of like length; windows that begin alike share a row."""
    families: dict[object, list[Window]] = {}
    for number, window in enumerate(windows):
        context = len(window.ids) - window.scored - 1
        prefix = tuple(window.ids[: context // BUCKET * BUCKET])
        families.setdefault(prefix or number, []).append(window)
    rows = []
    for family in families.values():
        for start in range(0, len(family), ABREAST):
            rows.append(PackedRow(family[start : start + ABREAST]))
    batch: list[PackedRow] = []
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
    """log P(completion | context) in nats of each request, made by ``encode``.

    ``done`` is told how many windows each batch held, for a progress bar.
    """
    return [value for value, _ in score_requests(model, requests, done)]


@torch.inference_mode()
def score_requests(
    model: Llama,
    requests: Sequence[tuple[list[int], int]],
    done: Callable[[int], object] = lambda windows: None,
    length: int | None = None,
) -> list[tuple[float, bool]]:
    """``log_likelihoods``, and whether each completion is what greedy decoding would write.

    ``length`` positions are used, by default all that the model has. Raises ``DataError`` if its
    output is not finite.
    """
    length = length or model.config.max_seq_len
    windows = []
    for number, (ids, start) in enumerate(requests):
        windows += cut_request(number, ids, start, length)
    totals = [0.0] * len(requests)
    greedy = [True] * len(requests)
    for batch in packed_batches(windows):
        scored = [window for row in batch for window in row.windows]
        for window, (value, likeliest) in zip(scored, score_rows(model, batch), strict=True):
            totals[window.request] += value
            greedy[window.request] &= likeliest
        done(len(scored))
    if not all(map(math.isfinite, totals)):
        raise DataError("the model's output is not finite", "take an earlier checkpoint")
    return list(zip(totals, greedy, strict=True))


class Requests:
    """The requests of some questions, encoded once for all checkpoints.

    Each choice is scored after its context. After a bare "Answer:" the right one is scored, for
    the context gain, and the others where the paper's rule needs them. A request that several
    questions make (" yes" after "Answer:") is scored once. ``bare`` scores all choices after it.
    """

    def __init__(
        self, tokenizer: Tokenizer, questions: Sequence[Question], bare: bool = False
    ) -> None:
        self.questions = questions
        self.numbers: list[list[tuple[int, int | None]]] = []
        """For each choice of each question: the requests after its context and after "Answer:"."""
        number: dict[tuple[str, str], int] = {}
        for question in questions:
            pairs = []
            for i, request in enumerate(question.requests):
                after_context = number.setdefault(request, len(number))
                after_answer = None
                if bare or i == question.answer:
                    after_answer = number.setdefault((ANSWER, request[1]), len(number))
                pairs.append((after_context, after_answer))
            self.numbers.append(pairs)
        self.encoded = [encode(tokenizer, request) for request in number]

    def __len__(self) -> int:
        return len(self.encoded)

    def rows(self, key: str, values: Sequence[float], max_seq_len: int | None = None) -> list[Row]:
        """A row for each question, from log P in nats of each of ``encoded``.

        ``key`` is the task's name in records; a model without ``max_seq_len`` has no bound.
        """
        rows = []
        for question, pairs in zip(self.questions, self.numbers, strict=True):
            likelihoods = [values[i] for i, _ in pairs]
            bare = [None if j is None else values[j] for _, j in pairs]
            cut = [0] * len(pairs)
            if max_seq_len is not None:
                cut = [truncated(*self.encoded[i], max_seq_len) for i, _ in pairs]
            rows.append(make_row(key, question, likelihoods, bare, cut))
        return rows
