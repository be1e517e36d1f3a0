"""LAMBADA: the last word of a passage, which only the whole passage tells (Paperno et al., 2016).

Not in the paper; it is here because its bits per byte fall early and steadily in training, and its
accuracy is one of the first to leave zero. Right is what begins with the word, greedily written.
"""

import re

from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

LAMBADA = "lambada/bpb_0shot"


def read_lambada(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split, in OpenAI's form."""
    problems = []
    for row in library.rows(LAMBADA):
        request, number = row["request"], str(row["doc_id"])
        problems.append(Problem(
            request["context"], request["continuation"], tuple(row["label"]), stop=("\n",),
            max_new_tokens=16, id=number,
        ))  # fmt: skip
    return problems


def grade_lambada(problem: Problem, text: str) -> float:
    """1 if the first word is the right one, whatever follows."""
    return float(any(re.match(rf"\s*{re.escape(word)}\b", text) for word in problem.answers))


TASK = Task("lambada", "LAMBADA", "test", 5_153, 0.0, read_lambada, LAMBADA, "generation",
            grade=grade_lambada)  # fmt: skip
