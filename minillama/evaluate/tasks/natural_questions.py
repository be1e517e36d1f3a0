"""NaturalQuestions: what people asked a search engine (Kwiatkowski et al., 2019; Table 4).

Closed book: the model sees no article. ``llama``: Figure 3's prompt, greedy, exact match (Appendix
A). ``olmes``: the wheel's "Question: ... Answer:".
"""

from minillama.evaluate.answers import cut_answer
from minillama.evaluate.tasks import closed_book
from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library


def read(library: Library, style: str, shots: int) -> list[Problem]:
    """The validation split."""
    others = closed_book.triviaqa(library) if shots > 5 else []
    shown = closed_book.examples(library, others, shots)
    return list(closed_book.problems(closed_book.natural_questions(library), shown, style))


TASK = Task("natural_questions", "NaturalQuestions", "validation", 3_610, 0.0, read,
            "nq_open/none", "generation", shots=closed_book.SHOTS, grade=closed_book.grade,
            extract=cut_answer)  # fmt: skip
