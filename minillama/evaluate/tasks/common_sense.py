"""Common sense, zero-shot: the eight benchmarks of Table 3.

The prompts are lm-evaluation-harness's, whose scoring the paper cites. In the style ``olmes`` PIQA
says "Goal:" where it says "Question:", and Social IQa spells "Q:" and "A:" out. The choices are
never shown; BoolQ and OpenBookQA are ranked by the likelihood after "Answer:" (Section 3).

BoolQ (Clark et al., 2019): does the passage say yes? 62.2% of the answers are yes: that is the line
to beat. PIQA (Bisk et al., 2020): which of two ways does it? Social IQa (Sap et al., 2019): what
does somebody feel, want or do next? Who knows nothing gets 36% by characters, for right answers
differ in length. HellaSwag (Zellers et al., 2019): which ending goes on? Its own numbers occur
twice, so places name the questions. WinoGrande (Sakaguchi et al., 2020): whom does the pronoun
mean? Scored is the rest of the sentence behind each option (Trinh & Le, 2018). ARC (Clark et al.,
2018): science exams of grades 3 to 9; the challenge is what neither retrieval nor co-occurrence
answered. OpenBookQA (Mihaylov et al., 2018): science facts, asked with "Question: ... Answer:" as
in OLMES (the harness shows the question alone); the longest choice is right in 36%.
"""

from collections.abc import Callable

from minillama.evaluate.tasks.task import Question, Reader, Task, after
from minillama.evaluate.tasks.wheel import Doc, Library


def query(doc: Doc, style: str) -> str:
    """The prompt as the wheel has it."""
    return doc["query"]


def piqa_prompt(doc: Doc, style: str) -> str:
    """The goal, under either name."""
    word = "Question" if style == "llama" else "Goal"
    return f"{word}: {doc['goal']}\nAnswer:"


def socialiqa_prompt(doc: Doc, style: str) -> str:
    """What happened, and what is asked of it."""
    question = f"{doc['context']} {doc['question']}"
    return f"Q: {question}\nA:" if style == "llama" else f"Question: {question}\nAnswer:"


def reader(variant: str, name: str, prompt: Callable[[Doc, str], str] = query) -> Reader:
    """How a benchmark is read whose questions have ``choices`` behind one prompt.

    Args:
        variant: its file in the wheel.
        name: the field that names a question; empty if its place does.
        prompt: from the document and the style to the prompt.
    """

    def read(library: Library, style: str, shots: int) -> list[Question]:
        questions = []
        for number, doc in enumerate(library.documents(variant)):
            question_id = str(doc[name]) if name else str(number)
            context = prompt(doc, style)
            question = after(context, doc["choices"], doc["gold"], id=question_id)
            questions.append(question)
        return questions

    return read


def read_winogrande(library: Library, style: str, shots: int) -> list[Question]:
    """The validation split of the largest form, "xl"."""
    questions = []
    for doc in library.documents("winogrande/rc_0shot"):
        before, rest = doc["sentence"].split("_")
        first = before + doc["option1"]
        second = before + doc["option2"]
        requests = ((first, rest), (second, rest))
        answer = int(doc["answer"]) - 1
        question = Question(requests, answer, id=str(doc["index"]))
        questions.append(question)
    return questions


TASKS = (
    Task("boolq", "BoolQ", "validation", 3_270, 1 / 2, reader("boolq/rc_0shot", "idx"),
         "boolq/rc_0shot", normalizer="answer"),
    Task("piqa", "PIQA", "validation", 1_838, 1 / 2, reader("piqa/rc_0shot", "", piqa_prompt),
         "piqa/rc_0shot"),
    Task("socialiqa", "SIQA", "validation", 1_954, 1 / 3,
         reader("socialiqa/rc_0shot", "index", socialiqa_prompt), "socialiqa/rc_0shot"),
    Task("hellaswag", "HellaSwag", "validation", 10_042, 1 / 4, reader("hellaswag/rc_0shot", ""),
         "hellaswag/rc_0shot"),
    Task("winogrande", "WinoGrande", "validation", 1_267, 1 / 2, read_winogrande,
         "winogrande/rc_0shot"),
    Task("arc_easy", "ARC-e", "test", 2_376, 1 / 4, reader("arc_easy/test_rc_5shot", "id"),
         "arc_easy/test_rc_5shot"),
    Task("arc_challenge", "ARC-c", "test", 1_172, 1 / 4,
         reader("arc_challenge/test_rc_5shot", "id"), "arc_challenge/test_rc_5shot"),
    Task("openbookqa", "OBQA", "test", 500, 1 / 4, reader("openbookqa/test_rc_5shot", "id"),
         "openbookqa/test_rc_5shot", normalizer="answer"),
)  # fmt: skip
"""In the order of Table 3; the file of ARC and OpenBookQA is named for the examples before each
question in it, which are not used."""
