"""HellaSwag: which ending goes on from the beginning? (Zellers et al., 2019; Table 3)

The activity, a colon and the beginning, without the marks in brackets that web pages have left in
the data: the same in lm-evaluation-harness and in OLMES. Questions are named by their place, as the
data's own numbers occur twice.
"""

from minillama.evaluate.tasks.task import Question, Task, after
from minillama.evaluate.tasks.wheel import Library

VARIANT = "hellaswag/rc_0shot"


def read(library: Library, style: str, shots: int) -> list[Question]:
    """The validation split."""
    return [
        after(doc["query"], doc["choices"], doc["gold"], id=str(number))
        for number, doc in enumerate(library.documents(VARIANT))
    ]


TASK = Task("hellaswag", "HellaSwag", "validation", 10_042, 1 / 4, read, VARIANT)
