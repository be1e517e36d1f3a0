"""An exam: a benchmark, the number of solved examples that are shown, and the questions asked."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minillama.errors import ConfigError, DataError
from minillama.evaluate import generation
from minillama.evaluate.generation import Generation
from minillama.evaluate.multiple_choice import Requests, log_likelihoods
from minillama.evaluate.scoring import Row, summarize
from minillama.evaluate.tasks import AbsentData, Problem, Question, Task, find_tasks, load_questions
from minillama.model import Llama
from minillama.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Exam:
    """A benchmark as it is asked."""

    task: Task
    shots: int
    questions: Sequence[Question] | Sequence[Problem]
    writing: Generation
    """How the model writes, where it does."""

    @property
    def key(self) -> str:
        """Its name in records."""
        return self.task.key(self.shots)

    def share(self, tokenizer: Tokenizer, rank: int, size: int) -> "Ranked | Written":
        """Every ``size``-th question from number ``rank`` on: what one process answers."""
        kind = Written if self.task.kind == "generation" else Ranked
        return kind(self, tokenizer, self.questions[rank::size])

    def requests(self, tokenizer: Tokenizer, questions: Sequence[Question]) -> Requests:
        """What is scored of these questions: all that the paper's rule for the task needs."""
        return Requests(tokenizer, questions, bare=self.task.normalizer == "answer")

    def is_done(self, results: dict[str, Any]) -> bool:
        """Whether a record's results hold this exam, asked in the same way."""
        told = results.get(self.key)
        if told is None or self.task.kind != "generation":
            return told is not None
        return told["generation"] == asdict(self.writing)

    def summarize(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The results that a record holds."""
        told = {"shots": self.shots, "split": self.task.split}
        if self.task.kind == "generation":
            told |= {"generation": asdict(self.writing)}
            return told | generation.summarize(self.task, rows)
        return told | summarize(rows, self.task.normalizer)


class Ranked:
    """Multiple-choice questions that one process answers, encoded once for all checkpoints."""

    def __init__(self, exam: Exam, tokenizer: Tokenizer, questions: Sequence[Question]) -> None:
        self.exam = exam
        self.requests = exam.requests(tokenizer, questions)

    def __len__(self) -> int:
        """How often ``done`` is told of one more, for a progress bar."""
        return len(self.requests)

    def score(self, model: Llama, done: Callable[[int], object]) -> list[Row]:
        """A row for each question, and ``done`` is told how many requests were scored."""
        values = log_likelihoods(model, self.requests.encoded, done)
        return self.requests.rows(self.exam.key, values, model.config.max_seq_len)


class Written:
    """Problems to which one process lets the model write the answer."""

    def __init__(self, exam: Exam, tokenizer: Tokenizer, problems: Sequence[Problem]) -> None:
        self.exam, self.tokenizer, self.problems = exam, tokenizer, problems

    def __len__(self) -> int:
        """How often ``done`` is told of one more."""
        return len(self.problems)

    def score(self, model: Llama, done: Callable[[int], object]) -> list[Row]:
        """A row for each problem."""
        rows = generation.score_problems(
            model, self.tokenizer, self.exam.task, self.problems, self.exam.writing, done
        )
        return [{"task": self.exam.key} | row for row in rows]


def choose_exams(
    names: Sequence[str], shots: Sequence[int], style: str, limit: int | None,
    writing: Generation, sources: Path, downloads: Path,
) -> tuple[list[Exam], dict[str, str]]:  # fmt: skip
    """The exams that names of tasks and groups stand for.

    Args:
        names: as in ``find_tasks``.
        shots: numbers of solved examples; a task is asked with those of them that it offers, or
            with its usual number if it offers none.
        style: of the prompts.
        limit: at most so many questions of each.
        writing: how the model writes, where it does.
        sources: the list of packages.
        downloads: where they are.

    Returns:
        The exams, and the tasks whose data is not here, with the reason.

    Raises:
        ConfigError: an unknown name, no name, or a number of examples that no task offers.
        DataError: data is damaged or empty, or no exam is left.
    """
    tasks = find_tasks(names)
    offered = {number for task in tasks for number in task.shots}
    if not tasks or set(shots) - offered:
        what = f"no task offers shots = {sorted(set(shots) - offered)}"
        mend = f"choose from {sorted(offered)}"
        raise ConfigError(*((what, mend) if tasks else ("no task is named", "name at least one")))
    exams, absent = [], {}
    for task in tasks:
        try:
            for number in [n for n in dict.fromkeys(shots) if n in task.shots] or task.shots[:1]:
                questions = load_questions(task, limit, sources, downloads, style, number)
                if not questions:
                    raise DataError(f"{task.name} has no questions in {downloads}", "fetch it anew")
                exams.append(Exam(task, number, questions, writing))
        except AbsentData as error:
            absent[task.name] = str(error)
            if len(absent) == len(tasks):
                raise
    return exams, absent
