"""PIQA: which of two ways does it? (Bisk et al., 2020; Table 3)

lm-evaluation-harness's prompt, whose scoring rule the paper cites. OLMES says "Goal:" where it says
"Question:".
"""

from minillama.evaluate.tasks.task import Question, Task, after
from minillama.evaluate.tasks.wheel import Library

VARIANT = "piqa/rc_0shot"


def read(library: Library, style: str, shots: int) -> list[Question]:
    """The validation split."""
    word = "Question" if style == "llama" else "Goal"
    return [
        after(f"{word}: {doc['goal']}\nAnswer:", doc["choices"], doc["gold"], id=str(number))
        for number, doc in enumerate(library.documents(VARIANT))
    ]


TASK = Task("piqa", "PIQA", "validation", 1_838, 1 / 2, read, VARIANT)
