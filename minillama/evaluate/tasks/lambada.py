"""LAMBADA: the last word of a passage, which only the whole passage tells (Paperno et al., 2016).

Not in the paper; it is here because its bits per byte fall early and steadily in training, and its
accuracy is one of the first to leave zero. Right is what begins with the word, greedily written.
"""

import re

from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

VARIANT = "lambada/bpb_0shot"


def read(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split, in OpenAI's form."""
    return [
        Problem(row["request"]["context"], row["request"]["continuation"], tuple(row["label"]),
                stop=("\n",), max_new_tokens=16, id=str(row["doc_id"]))
        for row in library.rows(VARIANT)
    ]  # fmt: skip


def grade(problem: Problem, text: str) -> float:
    """1 if the first word is the right one, whatever follows."""
    words = (re.match(rf"\s*{re.escape(answer)}\b", text) for answer in problem.answers)
    return float(any(words))


TASK = Task("lambada", "LAMBADA", "test", 5_153, 0.0, read, VARIANT, "generation", grade=grade)
