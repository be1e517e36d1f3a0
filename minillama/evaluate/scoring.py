"""From log-likelihoods to results: the paper's normalizations, and what small models can show.

The paper ranks choices by log P(choice | context) over the characters of the choice, and for
OpenBookQA and BoolQ by P(choice | context) / P(choice | "Answer:"), a *difference* of logarithms
(Section 3). All are worked out from one stored row for each question::

    {"task": "piqa", "id": "0", "group": "", "answer": 1,
     "log_likelihoods": [...], "bare": [...],         log P after the context, and after "Answer:"
                                                      (None where the rule needs no more)
     "characters": [...], "bytes": [...],             of each choice, without the space before it
     "gold_bytes": 12,                                of the right choice, as it was scored
     "truncated": [...]}                              context tokens that did not fit, by choice
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minillama.errors import DataError
from minillama.evaluate.tasks import TASKS, Question
from minillama.files import read_json, write_text

Row = dict[str, Any]
NORMALIZERS = ("none", "characters", "bytes", "answer")
FORMAT = 2  # raised when what a record holds changes, so that older ones are made again
DIGITS = 6
"""Decimals of a stored log-likelihood; whoever recounts results from the rows gets the same."""


def make_row(
    key: str,
    question: Question,
    likelihoods: Sequence[float],
    bare: Sequence[float | None],
    truncated: Sequence[int],
) -> Row:
    """What is stored of a question: see the top of this file, where the arguments are named."""
    completions = [completion for _, completion in question.requests]
    choices = [completion.removeprefix(" ") for completion in completions]
    return {
        "task": key,
        "id": question.id,
        "group": question.group,
        "answer": question.answer,
        "log_likelihoods": [round(value, DIGITS) for value in likelihoods],
        "bare": [None if value is None else round(value, DIGITS) for value in bare],
        "characters": [max(1, len(choice)) for choice in choices],
        "bytes": [max(1, len(choice.encode())) for choice in choices],
        "gold_bytes": len(completions[question.answer].encode()),
        "truncated": list(truncated),
    }


def scores(row: Row, normalizer: str) -> list[float]:
    """What the choices are ranked by, under one of ``NORMALIZERS``."""
    values = row["log_likelihoods"]
    if normalizer == "none":
        return values
    if normalizer == "answer":
        return [value - bare for value, bare in zip(values, row["bare"], strict=True)]
    return [value / size for value, size in zip(values, row[normalizer], strict=True)]


def credit(values: Sequence[float], answer: int) -> float:
    """1 if the answer scores highest, 0 if not; those that tie for the highest share the point.

    A model that ignores the question may tie on all of its choices; to give it the first one would
    hand it the share of questions whose answer comes first.
    """
    best = [i for i, value in enumerate(values) if value == max(values)]
    return (answer in best) / len(best)


def credits(rows: Sequence[Row], normalizer: str) -> list[float]:
    """The credit of each question; a generated answer carries its own ``score``."""
    points = []
    for row in rows:
        if "score" in row:
            points.append(row["score"])
        else:
            points.append(credit(scores(row, normalizer), row["answer"]))
    return points


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    n, mean = len(values), sum(values) / len(values)
    return mean, math.sqrt(sum((x - mean) ** 2 for x in values) / max(1, n - 1) / n)


def bits_per_byte(rows: Sequence[Row], field: str = "log_likelihoods") -> float:
    """-log2 P of the right answers, over their bytes."""
    nats = sum(row[field][row["answer"]] for row in rows)
    return -nats / math.log(2) / sum(row["gold_bytes"] for row in rows)


def summarize(rows: Sequence[Row], normalizer: str) -> dict[str, Any]:
    """The results of a multiple-choice benchmark.

    Args:
        rows: one for each question, as ``make_row`` makes them.
        normalizer: the one that the paper uses for the task.

    Returns:
        ``n``, ``chance``, ``majority`` (always taking the place that is right most often),
        ``accuracy`` under the paper's normalizer with its standard error ``se``, ``centered`` (0 at
        chance, 1 at the top), ``accuracies`` under every normalizer that was scored, ``gold_bpb``
        (bits per byte of the right answers), ``context_gain`` (the bits per byte that the question
        saves), ``correct_probability`` (the right choice's share if scores were log-probabilities),
        ``margin`` (its score over the best wrong one's), ``truncated`` (questions with a prompt
        that did not fit), and ``groups``.
    """
    n = len(rows)
    shares, margins, places = [], [], []
    for row in rows:
        values, answer = scores(row, normalizer), row["answer"]
        weights = [math.exp(value - max(values)) for value in values]
        shares.append(weights[answer] / sum(weights))
        best_wrong = max(value for i, value in enumerate(values) if i != answer)
        margins.append(values[answer] - best_wrong)
        places.append(answer)
    chance = sum(1 / len(row["characters"]) for row in rows) / n
    accuracy, se = mean_and_error(credits(rows, normalizer))
    # The answer rule needs every choice after "Answer:".
    complete = all(None not in row["bare"] for row in rows)
    rules = [name for name in NORMALIZERS if complete or name != "answer"]
    return {
        "n": n,
        "normalizer": normalizer,
        "chance": chance,
        "majority": Counter(places).most_common(1)[0][1] / n,
        "accuracy": accuracy,
        "se": se,
        "centered": (accuracy - chance) / (1 - chance),
        "accuracies": {name: sum(credits(rows, name)) / n for name in rules},
        "gold_bpb": bits_per_byte(rows),
        "context_gain": bits_per_byte(rows, "bare") - bits_per_byte(rows),
        "correct_probability": sum(shares) / n,
        "margin": sum(margins) / n,
        "truncated": sum(any(row["truncated"]) for row in rows),
        "groups": by_group(rows, normalizer),
    }


def by_group(rows: Sequence[Row], normalizer: str) -> dict[str, dict[str, float]]:
    """Accuracy and n of each group; questions of ``STEM/astronomy`` also count to ``STEM``."""
    members: dict[str, list[Row]] = {}
    for row in rows:
        whole, group = row["group"].split("/")[0], row["group"]
        for name in {whole, group} - {""}:
            members.setdefault(name, []).append(row)
    groups = {}
    for name, part in sorted(members.items()):
        accuracy = sum(credits(part, normalizer)) / len(part)
        groups[name] = {"n": len(part), "accuracy": accuracy}
    return groups


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], samples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """How much better the second of two models is on the same questions, and how sure that is.

    Questions are drawn with replacement, and both models are judged on the same draw, so that how
    hard the questions are cancels out (Efron & Tibshirani, 1993).

    Args:
        first, second: one number for each question, such as ``credits``.

    Returns:
        ``difference`` of the means, the bounds ``low`` and ``high`` of its 95% interval, and
        ``p_not_better``: the share of draws in which the second is not better.
    """
    n = len(first)
    if n != len(second) or n == 0:
        raise DataError(f"{n} and {len(second)} questions cannot be paired", "ask both the same")
    gap = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([gap[rng.integers(n, size=n)].mean() for _ in range(samples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "difference": float(gap.mean()),
        "low": float(low),
        "high": float(high),
        "p_not_better": float((means <= 0).mean()),
    }


def compare(first: Path, second: Path, samples: int = 10_000) -> dict[str, dict[str, float]]:
    """``paired_bootstrap`` of two .jsonl of evaluations on each task that both were scored in."""
    rows, other_rows = read_rows(first), read_rows(second)
    results = {}
    for key in rows:
        if key not in other_rows:
            continue
        one, other = rows[key], other_rows[key]
        if [row["id"] for row in one] != [row["id"] for row in other]:
            what = f"{first} and {second} differ in the questions of {key}"
            raise DataError(what, "ask both the same")
        if any(row.get("score", 0) is None for row in (*one, *other)):
            continue  # programs that were not run
        rule = TASKS[key.split("-")[0]].normalizer
        results[key] = paired_bootstrap(credits(one, rule), credits(other, rule), samples)
    return results


def record_name(what: str, settings: dict[str, Any]) -> str:
    """The name of a record, without its ending: of what, in which style, on how many questions."""
    style = "" if settings["style"] == "llama" else f".{settings['style']}"
    limit = "" if settings["limit"] is None else f".limit-{settings['limit']}"
    return f"{what}{style}{limit}"


def read_record(path: Path) -> dict[str, Any]:
    """The results that ``minillama evaluate`` stored. Raises ``DataError`` if not of its form."""
    record = read_json(path)
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        what = f"{path} was not written by this version of minillama"
        raise DataError(what, "delete it and evaluate again")
    return record


def write_rows(path: Path, rows: dict[str, list[Row]]) -> None:
    """Write the rows of several tasks, a JSON object a line, whole or not at all."""
    lines = (json.dumps(row, ensure_ascii=False) for part in rows.values() for row in part)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_rows(path: Path) -> dict[str, list[Row]]:
    """The rows of an evaluation by task. Raises ``DataError`` if the file is missing or damaged."""
    rows: dict[str, list[Row]] = {}
    try:
        with open(path, encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                rows.setdefault(row["task"], []).append(row)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "run `minillama evaluate`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", "delete it and evaluate again") from None
    return rows
