"""WinoGrande: whom does the pronoun mean? (Sakaguchi et al., 2020; Table 3)

Partial scoring (Trinh & Le, 2018), as in lm-evaluation-harness and in OLMES: each option is put
into the gap, and what is scored is the rest of the sentence, which is the same for both. So no
normalization changes the choice.
"""

from minillama.evaluate.tasks.task import Question, Task
from minillama.evaluate.tasks.wheel import Library

VARIANT = "winogrande/rc_0shot"


def read(library: Library, style: str, shots: int) -> list[Question]:
    """The validation split of the largest form, "xl"."""
    questions = []
    for doc in library.documents(VARIANT):
        before, rest = doc["sentence"].split("_")
        requests = tuple((before + doc[option], rest) for option in ("option1", "option2"))
        questions.append(Question(requests, int(doc["answer"]) - 1, id=str(doc["index"])))
    return questions


TASK = Task("winogrande", "WinoGrande", "validation", 1_267, 1 / 2, read, VARIANT)
