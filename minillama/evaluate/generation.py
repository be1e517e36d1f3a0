"""Benchmarks in which the model writes: question answering, mathematics and code (Section 3).

Every problem yields one row, from which all results can be counted again: what was written, the
answer found in it, whether it is right, and log P of the right answer after the same prompt. The
last of these moves long before a small model gets its first answer right.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minillama.errors import ConfigError, DataError
from minillama.evaluate.answers import majority, pass_at_k, zero_hit_bound
from minillama.evaluate.execution import run_programs
from minillama.evaluate.multiple_choice import encode, log_likelihoods
from minillama.evaluate.scoring import DIGITS, Row, mean_and_error
from minillama.evaluate.tasks import Problem, Task
from minillama.inference import Decoder, Sampling, generate_tokens
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

CHUNK = 64
"""Problems between two reports of progress."""
PASS_AT = (1, 10, 80, 100)
"""The k of pass@k; the paper's Table 8 has 1, 80 (MBPP) and 100 (HumanEval)."""


@dataclass(frozen=True)
class Generation:
    """How the tasks are answered in which the model writes."""

    samples: int = 1
    """Answers to a problem: the k of maj1@k, and the n that pass@k is estimated from."""
    temperature: float = 0.0
    """0 is greedy. The paper has 0.1 for pass@1 and 0.8 for pass@80 and pass@100; Minerva, whose
    setup it takes for maj1@k, 0.6."""
    top_p: float = 0.95
    """Only tokens within this much probability are drawn."""
    seed: int = 0
    """Same seed, same text, however many processes share the work."""
    batch_size: int = 32
    """Answers that are written side by side."""
    execute_code: bool = False
    """Run what the model wrote for HumanEval and MBPP, in a sandbox. Without it, these tasks give
    only the bits per byte of the right solutions."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch_size < 1:
            raise ConfigError("samples and batch_size are at least 1", "leave them out")
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(
                f"{self.samples} samples at temperature 0 are all the same",
                "set a temperature, such as 0.6 for maj1@k or 0.8 for pass@k",
            )


def score_problems(
    model: Llama,
    tokenizer: Tokenizer,
    task: Task,
    problems: Sequence[Problem],
    settings: Generation = Generation(),  # noqa: B008
    done: Callable[[int], object] = lambda problems: None,
) -> list[Row]:
    """One row for each problem, in order; ``done`` is told how many were finished.

    Raises:
        ConfigError: code is to be executed where it cannot be confined.
        DataError: the model's output is not finite.
    """
    decoder, rows = Decoder(model), []
    for start in range(0, len(problems), CHUNK):
        part = problems[start : start + CHUNK]
        new = gold_rows(model, tokenizer, part)
        # A program that will not be run need not be written.
        if task.program is None or settings.execute_code:
            write_answers(decoder, tokenizer, part, new, settings)
            judge_answers(task, part, new)
        rows += new
        done(len(part))
    return rows


def gold_rows(model: Llama, tokenizer: Tokenizer, problems: Sequence[Problem]) -> list[Row]:
    """The beginning of each row: log P(right answer | prompt), in nats, and its bytes.

    ``gold_truncated`` tokens of prompt and answer do not fit the model's context.
    """
    encoded = [encode(tokenizer, (problem.prompt, problem.completion)) for problem in problems]
    rows = []
    values = log_likelihoods(model, encoded)
    for problem, (ids, _), value in zip(problems, encoded, values, strict=True):
        cut = max(0, len(ids) - 1 - model.config.max_seq_len)
        row = {
            "id": problem.id,
            "group": problem.group,
            "log_likelihood": round(value, DIGITS),
            "bytes": scored_bytes(problem),
            "gold_truncated": cut,
            "truncated": cut,  # more if the answer is written, which needs room
            "score": None,
        }
        rows.append(row)
    return rows


def scored_bytes(problem: Problem) -> int:
    """UTF-8 bytes of the right answer, with the blanks before it that ``encode`` counts to it."""
    blanks = problem.prompt[len(problem.prompt.rstrip()) :]
    return len((blanks + problem.completion).encode())


def write_answers(
    decoder: Decoder,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    rows: list[Row],
    settings: Generation,
) -> None:
    """Fill in what the model writes: ``prompt_tokens``, ``truncated`` and ``written``.

    A prompt that leaves no room for the answer loses its beginning: ``truncated`` tokens of it.
    Greedy answers are written side by side. Samples are drawn problem by problem, with a seed made
    of the problem's name: so they do not depend on which problems are asked besides.
    """
    # Problems that share a batch: those whose answers end alike.
    groups: dict[object, list[int]] = {}
    for i, problem in enumerate(problems):
        ends = (problem.stop, problem.max_new_tokens)
        groups.setdefault(ends if settings.temperature == 0 else i, []).append(i)

    sampling = Sampling(settings.temperature, top_p=settings.top_p)
    context = decoder.config.max_seq_len
    for numbers in groups.values():
        first = problems[numbers[0]]
        new_tokens = min(first.max_new_tokens, context // 2)  # so that a prompt is left
        room = context - new_tokens
        prompts = []
        for i in numbers:
            ids = tokenizer.encode(problems[i].prompt, bos=True)
            rows[i] |= {"prompt_tokens": len(ids), "truncated": max(0, len(ids) - room)}
            prompts += [ids[-room:]] * settings.samples
        name = f"{settings.seed} {first.id}".encode()
        written = generate_tokens(
            decoder,
            prompts,
            sampling,
            new_tokens,
            seed=int.from_bytes(hashlib.sha256(name).digest()[:8], "little"),
            finished=stops(tokenizer, first.stop),
            batch_size=settings.batch_size,
        )
        texts = [cut_at(as_text(tokenizer, ids), first.stop) for ids in written]
        for place, i in enumerate(numbers):
            begin = place * settings.samples
            rows[i]["written"] = texts[begin : begin + settings.samples]


def stops(tokenizer: Tokenizer, stop: Sequence[str]) -> Callable[[int, list[int]], bool]:
    """Whether an answer is complete: the end mark, or a stop string within its last bytes."""
    marks = [mark.encode() for mark in stop]
    longest = max(map(len, marks), default=1)

    def finished(_: int, new: list[int]) -> bool:
        if new[-1] == tokenizer.eos_id:
            return True
        # One step adds one piece; a mark that ends in it began at most so many pieces before.
        tail = b"".join(tokenizer.piece_bytes[i] for i in new[-longest:])
        return any(mark in tail for mark in marks)

    return finished


def as_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of ids that stand behind other text: the space at the beginning is kept."""
    kept = ids[: ids.index(tokenizer.eos_id)] if tokenizer.eos_id in ids else ids
    return b"".join(tokenizer.piece_bytes[i] for i in kept).decode("utf-8", "replace")


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    places = [text.find(mark) for mark in stop if mark in text]
    return text[: min(places, default=len(text))]


def judge_answers(task: Task, problems: Sequence[Problem], rows: list[Row]) -> None:
    """Fill in ``scores`` of the texts, their mean ``score``, and what they were judged by.

    That is ``answers`` found in them and the score of the most frequent one, or ``reasons``, which
    say what became of programs.
    """
    if task.program is not None:
        programs = []
        for problem, row in zip(problems, rows, strict=True):
            programs += [task.program(problem, text) for text in row["written"]]
        outcomes = iter(run_programs(programs))
    for problem, row in zip(problems, rows, strict=True):
        texts = row["written"]
        if task.program is not None:
            ran = [next(outcomes) for _ in texts]
            row["scores"] = [float(outcome.passed) for outcome in ran]
            row["reasons"] = [outcome.reason for outcome in ran]
        else:
            row["scores"] = [task.grade(problem, text) for text in texts]
        if task.extract is not None:
            answers = [task.extract(text) for text in texts]
            chosen = majority(answers)
            place = 0 if chosen is None else answers.index(chosen)
            row["answers"] = answers
            row["majority_score"] = row["scores"][place]
        row["score"] = sum(row["scores"]) / len(texts)


def summarize(task: Task, rows: Sequence[Row]) -> dict[str, Any]:
    """The results of a benchmark, from its rows alone; None where code was not run.

    Raises ``DataError`` if there are no rows.
    """
    if not rows:
        raise DataError(f"{task.name} has no problems", "fetch the data again")
    n = len(rows)
    accuracy, se = accuracy_and_error(rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["group"]:
            groups.setdefault(row["group"], []).append(row)
    result: dict[str, Any] = {
        "n": n,
        "chance": 0.0,
        "majority": 0.0,
        "accuracy": accuracy,
        "se": se,
        "gold_bpb": gold_bpb(rows),
        "centered": accuracy,
        "truncated": sum(row["truncated"] > 0 for row in rows),
        "gold_truncated": sum(row["gold_truncated"] > 0 for row in rows),
        "groups": {},
    }
    for name, part in groups.items():
        mean, error = accuracy_and_error(part)
        group = {"n": len(part), "gold_bpb": gold_bpb(part), "accuracy": mean, "se": error}
        result["groups"][name] = group
    if accuracy is None:
        return result

    # What only written answers have.
    samples = len(rows[0]["written"])
    result["samples"] = samples
    if accuracy == 0:
        result["zero_hit_bound"] = zero_hit_bound(n)
    if task.extract is not None and samples > 1:
        result[f"maj1@{samples}"] = sum(row["majority_score"] for row in rows) / n
    if task.program is not None:
        for k in PASS_AT:
            if k <= samples:
                values = [pass_at_k(samples, int(sum(row["scores"])), k) for row in rows]
                result[f"pass@{k}"] = sum(values) / n
    return result


def gold_bpb(rows: Sequence[Row]) -> float:
    """Bits per byte of the right answers."""
    nats = -sum(row["log_likelihood"] for row in rows)
    return nats / math.log(2) / sum(row["bytes"] for row in rows)


def accuracy_and_error(rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """The mean score and its standard error; None if code was not run."""
    scores = [row["score"] for row in rows]
    return (None, None) if None in scores else mean_and_error(scores)
