"""TriviaQA: quiz questions, closed book (Joshi et al., 2017; Table 5).

Prompt, examples and scoring are those of NaturalQuestions. The paper evaluates on a "filtered dev"
set of unknown size; here it is the 7,993 validation questions of the Wikipedia part.
"""

from minillama.evaluate.answers import cut_answer
from minillama.evaluate.tasks import closed_book
from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library


def read(library: Library, style: str, shots: int) -> list[Problem]:
    """The validation split."""
    others = closed_book.natural_questions(library) if shots > 5 else []
    shown = closed_book.examples(library, others, shots)
    return list(closed_book.problems(closed_book.triviaqa(library), shown, style))


TASK = Task("triviaqa", "TriviaQA", "validation", 7_993, 0.0, read,
            "trivia_qa/rc.wikipedia.nocontext", "generation", shots=closed_book.SHOTS,
            grade=closed_book.grade, extract=cut_answer)  # fmt: skip
