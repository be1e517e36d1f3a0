"""OpenBookQA: science facts and some common sense (Mihaylov et al., 2018; Table 3).

"Question: ... Answer:", as in OLMES; lm-evaluation-harness shows the question alone. The paper
divides the likelihood of a choice by its likelihood after a bare "Answer:" (Section 3), which takes
out exactly what the choice is worth without the question only if the prompt ends with that word.
The longest choice is right in 36% of the questions.
"""

from minillama.evaluate.tasks.task import Question, Task, after
from minillama.evaluate.tasks.wheel import Library

VARIANT = "openbookqa/test_rc_5shot"


def read(library: Library, style: str, shots: int) -> list[Question]:
    """The test split."""
    return [
        after(doc["query"], doc["choices"], doc["gold"], id=doc["id"])
        for doc in library.documents(VARIANT)
    ]


TASK = Task("openbookqa", "OBQA", "test", 500, 1 / 4, read, VARIANT, normalizer="answer")
