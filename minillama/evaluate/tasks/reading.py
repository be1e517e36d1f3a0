"""Reading: RACE (Table 6) and LAMBADA, which is not in the paper.

RACE (Lai et al., 2017), English exams for Chinese pupils of ages 12 to 15 and 15 to 18: "We follow
the evaluation setup from Brown et al. (2020)": the article, "Q:" and the question, "A:", and then
the text of a choice. lm-evaluation-harness asks only the last question of each article, after the
others with their answers. GPT-3 divided by the likelihood after "Answer:", while Section 3 names
only OpenBookQA and BoolQ for that: both are recorded. No package carries the data, which may be
used for research only. Put the Hugging Face layout, ``race/middle/test*.parquet`` and
``race/high/test*.parquet`` (or .jsonl, .arrow), into the folder of downloads. Columns: example_id,
article, question, options (four), answer (a letter).

LAMBADA (Paperno et al., 2016), the last word of a passage, which only the whole passage tells: its
bits per byte fall early and steadily in training, and its accuracy is one of the first to leave
zero. Right is what begins with the word, greedily written.
"""

import re

from minillama.evaluate.tasks.task import Problem, Question, Reader, Task, after
from minillama.evaluate.tasks.wheel import Library

LAMBADA_FILE = "lambada/bpb_0shot"


def race_reader(school: str) -> Reader:
    """How the test split of a school is read."""

    def read(library: Library, style: str, shots: int) -> list[Question]:
        questions = []
        for number, row in enumerate(library.local(f"race/{school}", "test")):
            context = f"Article:\n{row['article']}\n\nQ: {row['question']}\n\nA:"
            answer = ("A", "B", "C", "D").index(row["answer"])
            question_id = f"{row['example_id']}#{number}"
            question = after(context, row["options"], answer, id=question_id)
            questions.append(question)
        return questions

    return read


def read_lambada(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split, in OpenAI's form."""
    problems = []
    for row in library.rows(LAMBADA_FILE):
        problem = Problem(
            row["request"]["context"],
            row["request"]["continuation"],
            tuple(row["label"]),
            stop=("\n",),
            max_new_tokens=16,
            id=str(row["doc_id"]),
        )
        problems.append(problem)
    return problems


def grade_lambada(problem: Problem, text: str) -> float:
    """1 if the first word is the right one, whatever follows."""
    return float(any(re.match(rf"\s*{re.escape(word)}\b", text) for word in problem.answers))


RACE = (
    Task("race_middle", "RACE-middle", "test", 1_436, 1 / 4, race_reader("middle"),
         "local: race/middle"),
    Task("race_high", "RACE-high", "test", 3_498, 1 / 4, race_reader("high"), "local: race/high"),
)  # fmt: skip
LAMBADA = Task("lambada", "LAMBADA", "test", 5_153, 0.0, read_lambada, LAMBADA_FILE, "generation",
               grade=grade_lambada)  # fmt: skip
