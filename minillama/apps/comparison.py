"""Where our results stand in the paper's Tables 3-9, and what they must rise above.

A result of a tiny model is read against three lines: chance; the place among the choices that is
right most often; and a 5-gram model of the same text, which cannot understand a question.
"""

import math
from dataclasses import dataclass
from typing import Any

from minillama.evaluate.answers import zero_hit_bound
from minillama.evaluate.tasks import TASKS, Task

Record = dict[str, Any]
FLOOR = ("chance", "majority", "5-gram")


@dataclass(frozen=True)
class Line:
    """A line of a table: a benchmark, or a part of one."""

    label: str
    key: str
    """Its name in records."""
    column: str
    """Its column in the paper's table."""
    part: str = ""
    """A group of questions (``STEM``) or a measure (``pass@1``) instead of the accuracy."""

    def task(self) -> Task:
        """The benchmark, however many solved examples it shows."""
        return TASKS[self.key.split("-")[0]]


@dataclass(frozen=True)
class Layout:
    """One of the paper's tables."""

    number: int | None
    title: str
    lines: tuple[Line, ...]
    note: str = ""

    def heading(self) -> str:
        """As in ``Table 6. Reading comprehension``."""
        return f"Table {self.number}. {self.title}" if self.number else self.title


def _shots(task: str) -> tuple[Line, ...]:
    return tuple(
        Line(f"{n}-shot", TASKS[task].key(n), f"{n}-shot") for n in (0, 1, 5, 64)
    )  # fmt: skip


def _plain(*tasks: str) -> tuple[Line, ...]:
    return tuple(Line(TASKS[name].label, name, TASKS[name].label) for name in tasks)


LAYOUTS = (
    Layout(
        3, "Common sense, zero-shot: accuracy in %",
        _plain("boolq", "piqa", "socialiqa", "hellaswag", "winogrande", "arc_easy",
               "arc_challenge", "openbookqa"),
        "BoolQ and OBQA rank choices by P(choice | question) / P(choice | \"Answer:\"), the others "
        "by log P over characters. For ARC-e, LLaMA's model card prints 76.7, 78.1, 81.4 and 81.5.",
    ),
    Layout(4, "NaturalQuestions: exact match in %", _shots("natural_questions")),
    Layout(5, "TriviaQA: exact match in %", _shots("triviaqa"),
           "The paper asks the filtered development set and does not print its size."),
    Layout(6, "Reading comprehension, zero-shot: accuracy in %",
           _plain("race_middle", "race_high")),
    Layout(
        7, "Mathematics: right answers in %",
        (Line("MATH", "math", "MATH"), Line("MATH maj1@k", "math", "MATH_maj1k", "maj1@"),
         Line("GSM8k", "gsm8k", "GSM8k"), Line("GSM8k maj1@k", "gsm8k", "GSM8k_maj1k", "maj1@")),
        "maj1@k: the answer that most of k samples give; in the paper k = 256 for MATH and 100 for "
        "GSM8k (Minerva 540B: 64 and 40).",
    ),
    Layout(
        8, "Code: problems solved in %",
        (Line("HumanEval@1", "humaneval", "HumanEval@1", "pass@1"),
         Line("HumanEval@100", "humaneval", "HumanEval@100", "pass@100"),
         Line("MBPP@1", "mbpp", "MBPP@1", "pass@1"), Line("MBPP@80", "mbpp", "MBPP@80", "pass@80")),
        "The paper samples at temperature 0.1 for @1 and 0.8 for @80 and @100.",
    ),
    Layout(
        9, "MMLU, 5-shot: accuracy in %",
        (*(Line(name, "mmlu", name, name) for name in ("Humanities", "STEM")),
         Line("Social Sciences", "mmlu", "Social Sciences", "Social Science"),
         Line("Other", "mmlu", "Other", "Other"), Line("Average", "mmlu", "Average")),
        "Averages are over questions; Anatomy counts to Other, as the paper's averages need.",
    ),
)  # fmt: skip


def in_percent(value: float | None) -> float | None:
    """A fraction in percent; None stays."""
    return None if value is None else round(100 * value, 4)


@dataclass(frozen=True)
class Result:
    """What one of our models gets on a line; fractions."""

    n: int
    value: float
    se: float | None
    floor: dict[str, float | None]
    """What it must rise above: one value for each of ``FLOOR``, None where it is not known."""

    def above(self) -> bool:
        """Whether it is more than two standard errors above all of them."""
        highest = max((v for v in self.floor.values() if v is not None), default=math.inf)
        if self.se is None or self.value <= highest:
            return False
        guesser = math.sqrt(highest * (1 - highest) / self.n)  # for few questions, all right
        return self.value - 2 * max(self.se, guesser) > highest

    def text(self) -> str:
        """In percent, with the standard error; for no hit at all, how many it could be."""
        if self.value == 0:
            return f"0 of {self.n:,} (<{100 * zero_hit_bound(self.n):.2g}%)"
        error = "" if self.se is None else f" ±{100 * self.se:.1f}"
        return f"{100 * self.value:.1f}{error}{'*' if self.above() else ' '}"

    def as_data(self) -> dict[str, Any]:
        """For JSON, in percent."""
        return {"accuracy": in_percent(self.value), "se": in_percent(self.se), "n": self.n,
                "above": self.above()}  # fmt: skip


def result_of(record: Record, line: Line) -> Result | None:
    """A model's result on a line; None if it was not measured."""
    told = record["tasks"].get(line.key)
    if told is None:
        return None
    n, value, se = told["n"], told["accuracy"], told["se"]
    null = told.get("null") or {}
    floor = dict(zip(FLOOR, (told["chance"], told["majority"], null.get("accuracy")), strict=True))
    if line.part in told.get("groups", {}):
        n, value = told["groups"][line.part]["n"], told["groups"][line.part]["accuracy"]
        floor = dict.fromkeys(FLOOR) | {"chance": told["chance"]}
    elif line.part:  # the k of maj1@k is not known beforehand
        wanted = (k for k in told if k == line.part or (line.part == "maj1@" and "maj1@" in k))
        value = told.get(next(wanted, ""))
    if value is None:
        return None
    if line.part:
        se = math.sqrt(value * (1 - value) / n) if "@" not in line.part else None
    return Result(n, value, se, floor)
