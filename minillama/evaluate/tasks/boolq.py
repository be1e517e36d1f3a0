"""BoolQ: does the passage say yes? (Clark et al., 2019; Table 3)

The passage with its title, the question, then "yes" or "no", as in GPT-3, in lm-evaluation-harness
and in OLMES; the harness has the choices the other way round. The paper scores it by the likelihood
after "Answer:" (Section 3). 62.2% of the answers are yes: that, and not 50%, is the line to beat.
"""

from minillama.evaluate.tasks.task import Question, Task, after
from minillama.evaluate.tasks.wheel import Library

VARIANT = "boolq/rc_0shot"


def read(library: Library, style: str, shots: int) -> list[Question]:
    """The validation split."""
    return [
        after(doc["query"], doc["choices"], doc["gold"], id=str(doc["idx"]))
        for doc in library.documents(VARIANT)
    ]


TASK = Task("boolq", "BoolQ", "validation", 3_270, 1 / 2, read, VARIANT, normalizer="answer")
