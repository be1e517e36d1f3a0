"""RACE: English exams for Chinese pupils, middle and high school (Lai et al., 2017; Table 6).

"We follow the evaluation setup from Brown et al. (2020)": the article, "Q:" and the question, "A:",
and then the text of a choice. Each question is asked for itself; lm-evaluation-harness asks only
the last one of each article, after the others with their answers. GPT-3 divided by the likelihood
after "Answer:", while Section 3 names only OpenBookQA and BoolQ for that: both are recorded.

The data may be used for research only, and no package carries it. Put the Hugging Face layout,
``race/middle/test*.parquet`` and ``race/high/test*.parquet`` (or .jsonl, .arrow), into the folder
of downloads. Columns: example_id, article, question, options (four), answer (a letter).
"""

from minillama.evaluate.tasks.task import Question, Reader, Task, after
from minillama.evaluate.tasks.wheel import Library


def race_reader(school: str) -> Reader:
    """How the test split is read: ``middle`` for ages 12 to 15, ``high`` for 15 to 18."""

    def read(library: Library, style: str, shots: int) -> list[Question]:
        questions = []
        for number, row in enumerate(library.local(f"race/{school}", "test")):
            context = f"Article:\n{row['article']}\n\nQ: {row['question']}\n\nA:"
            answer = ("A", "B", "C", "D").index(row["answer"])
            question_id = f"{row['example_id']}#{number}"
            questions.append(after(context, row["options"], answer, id=question_id))
        return questions

    return read


TASKS = (
    Task("race_middle", "RACE-middle", "test", 1_436, 1 / 4, race_reader("middle"),
         "local: race/middle"),
    Task("race_high", "RACE-high", "test", 3_498, 1 / 4, race_reader("high"), "local: race/high"),
)  # fmt: skip
