"""ARC easy and challenge: science exams of grades 3 to 9 (Clark et al., 2018; Table 3).

"Question: ... Answer:" and then the text of a choice, in lm-evaluation-harness and in OLMES alike;
the choices themselves are not shown. The wheel has the test split in a file with five examples in
front of each question; its ``query`` is the question alone. A few questions have 3 or 5 choices.
"""

from minillama.evaluate.tasks.task import Question, Task, after
from minillama.evaluate.tasks.wheel import Library

EASY, CHALLENGE = "arc_easy/test_rc_5shot", "arc_challenge/test_rc_5shot"


def _read(library: Library, variant: str) -> list[Question]:
    return [
        after(doc["query"], doc["choices"], doc["gold"], id=doc["id"])
        for doc in library.documents(variant)
    ]


def read_easy(library: Library, style: str, shots: int) -> list[Question]:
    """The test split of the easy questions."""
    return _read(library, EASY)


def read_challenge(library: Library, style: str, shots: int) -> list[Question]:
    """The test split of those that neither retrieval nor co-occurrence answered."""
    return _read(library, CHALLENGE)


TASKS = (
    Task("arc_easy", "ARC-e", "test", 2_376, 1 / 4, read_easy, EASY),
    Task("arc_challenge", "ARC-c", "test", 1_172, 1 / 4, read_challenge, CHALLENGE),
)
