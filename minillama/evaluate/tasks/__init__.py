"""The benchmarks of Section 3, a file for each of the paper's tables, as questions for a model."""

from collections.abc import Sequence
from functools import cache

from minillama.errors import ConfigError, DataError, nearest
from minillama.evaluate.tasks import (
    closed_book,
    code,
    common_sense,
    mathematics,
    minimal_pairs,
    mmlu,
    reading,
)  # fmt: skip
from minillama.evaluate.tasks.task import ANSWER, STYLES, Problem, Question, Task
from minillama.evaluate.tasks.wheel import AbsentData, Library, open_library

__all__ = [
    "ANSWER", "GROUPS", "STYLES", "TASKS", "AbsentData", "Library", "Problem", "Question", "Task",
    "find_task", "find_tasks", "load_questions", "open_library",
]  # fmt: skip

ALL = (
    *common_sense.TASKS, *reading.RACE, mmlu.TASK, reading.LAMBADA, *closed_book.TASKS,
    *mathematics.TASKS, *code.TASKS, minimal_pairs.TASK,
)  # fmt: skip
TASKS: dict[str, Task] = {task.name: task for task in ALL}
COMMON_SENSE = tuple(task.name for task in common_sense.TASKS)
GROUPS: dict[str, tuple[str, ...]] = {
    "common-sense": COMMON_SENSE,
    "reading": ("race_middle", "race_high"),
    "closed-book": ("natural_questions", "triviaqa"),
    "mathematics": ("math", "gsm8k"),
    "code": ("humaneval", "mbpp"),
    "small-models": ("arc_easy", "lambada", "minimal_pairs"),
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
    found: dict[str, Task] = {}
    for name in names:
        for member in groups.get(name, (name,)):
            found[member] = find_task(member)
    return list(found.values())


def load_questions(
    task: Task,
    library: Library,
    limit: int | None = None,
    style: str = STYLES[0],
    shots: int | None = None,
) -> list[Question] | list[Problem]:
    """The questions of a task, in the data's order.

    Args:
        task, library: what to read, and where.
        limit: at most so many, spread evenly (HellaSwag's first 3,000 are all of one kind).
        style: of the prompts, one of ``STYLES``.
        shots: solved examples in each prompt; the task's usual number by default.

    Raises:
        DataError: the library lacks the task, or has it in another form.
        ConfigError: the task has no such style or number of examples.
    """
    shots = task.shots[0] if shots is None else shots
    if style not in STYLES or shots not in task.shots:
        message = f"{task.name} has no style '{style}' with {shots} examples"
        styles = ", ".join(STYLES)
        examples = ", ".join(map(str, task.shots))
        raise ConfigError(message, f"styles: {styles}; examples: {examples}")
    questions = _all_questions(task, library, style, shots)
    count = len(questions)
    kept = count if limit is None else min(limit, count)
    return [questions[i * count // kept] for i in range(kept)]


@cache
def _all_questions(task: Task, library: Library, style: str, shots: int) -> list[Question]:
    try:
        questions = list(task.read(library, style, shots))
        for question in questions:
            if isinstance(question, Question):
                question.requests[question.answer]  # it is one of the choices
        return questions
    except (KeyError, IndexError, TypeError, ValueError) as error:
        what = f"the data of {task.name} is not in its form ({error!r})"
        raise DataError(what, "download it again") from error
