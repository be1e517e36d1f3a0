"""A benchmark as one model is asked it: its requests, a row for each question, and the results."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from minillama.errors import ConfigError, DataError
from minillama.evaluate import generation
from minillama.evaluate.generation import Generation
from minillama.evaluate.multiple_choice import Requests, log_likelihoods
from minillama.evaluate.scoring import Row, summarize
from minillama.evaluate.tasks import AbsentData, Library, Task, find_tasks, load_questions
from minillama.model import Llama
from minillama.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class TaskRun:
    """A benchmark, the number of solved examples that are shown, and the questions."""

    task: Task
    shots: int
    questions: Sequence[Any]  # Question or Problem
    tokenizer: Tokenizer
    generation: Generation

    @property
    def key(self) -> str:
        """Its name in records."""
        return self.task.key(self.shots)

    def share(self, rank: int, size: int) -> "TaskRun":
        """Every ``size``-th question from number ``rank`` on: what one process answers."""
        return self if size == 1 else replace(self, questions=self.questions[rank::size])

    @property
    def settings(self) -> dict[str, Any]:
        """What a record says of how it was asked."""
        return {"shots": self.shots, "split": self.task.split}

    def is_done(self, results: dict[str, Any]) -> bool:
        """Whether a record's results hold this task, asked in the same way."""
        result = results.get(self.key)
        return result is not None and result.items() >= self.settings.items()

    def __len__(self) -> int:
        """How often ``done`` of ``score`` is told of one more, for a progress bar."""
        return len(self.questions)


class MultipleChoiceRun(TaskRun):
    """A benchmark whose choices are ranked."""

    @cached_property
    def requests(self) -> Requests:
        """What is scored, encoded once for all checkpoints."""
        return Requests(self.tokenizer, self.questions, bare=self.task.normalizer == "answer")

    def __len__(self) -> int:
        return len(self.requests)

    def score(self, model: Llama, done: Callable[[int], object]) -> list[Row]:
        """A row for each question; ``done`` is told how many requests were scored."""
        values = log_likelihoods(model, self.requests.encoded, done)
        return self.requests.rows(self.key, values, model.config.max_seq_len)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The results that a record holds."""
        return self.settings | summarize(rows, self.task.normalizer)


class GenerationRun(TaskRun):
    """A benchmark whose answers the model writes."""

    @property
    def settings(self) -> dict[str, Any]:
        """What a record says of how it was asked and written."""
        return super().settings | {"generation": asdict(self.generation)}

    def score(self, model: Llama, done: Callable[[int], object]) -> list[Row]:
        """A row for each problem; ``done`` is told how many were answered."""
        problems = (self.tokenizer, self.task, self.questions, self.generation)
        rows = generation.score_problems(model, *problems, done)
        return [{"task": self.key} | row for row in rows]

    def summarize(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The results that a record holds."""
        return self.settings | generation.summarize(self.task, rows)


def choose_task_runs(
    names: Sequence[str],
    library: Library,
    tokenizer: Tokenizer,
    shots: Sequence[int] = (),
    style: str = "llama",
    limit: int | None = None,
    generation: Generation = Generation(),  # noqa: B008
) -> tuple[list[TaskRun], dict[str, str]]:
    """What names of tasks and groups stand for.

    Args:
        names, library, style, limit: as in ``find_tasks`` and ``load_questions``.
        tokenizer: the model's.
        shots: numbers of solved examples; a task is asked with those of them that it offers, or
            with its usual number if it offers none.
        generation: how the model writes, where it does.

    Returns:
        The task runs, and the tasks whose data is not here, with the reason.

    Raises:
        ConfigError: an unknown name, no name, or a number of examples that no task offers.
        DataError: data is damaged or empty, or no task is left.
    """
    tasks = find_tasks(names)
    if not tasks:
        raise ConfigError("no task is named", "name at least one")
    offered = {number for task in tasks for number in task.shots}
    unknown = sorted(set(shots) - offered)
    if unknown:
        raise ConfigError(f"no task offers shots = {unknown}", f"choose from {sorted(offered)}")
    runs, absent = [], {}
    for task in tasks:
        kind = GenerationRun if task.kind == "generation" else MultipleChoiceRun
        numbers = [number for number in dict.fromkeys(shots) if number in task.shots]
        try:
            for number in numbers or task.shots[:1]:
                questions = load_questions(task, library, limit, style, number)
                if not questions:
                    raise DataError(f"{task.name} has no questions", "fetch its data anew")
                runs.append(kind(task, number, questions, tokenizer, generation))
        except AbsentData as error:
            absent[task.name] = str(error)
            if len(absent) == len(tasks):
                raise
    return runs, absent
