"""MATH: problems of mathematics competitions (Hendrycks et al., 2021; Table 7), with maj1@k.

"The same setup as Minerva": its four solved examples, which the wheel has, in both styles; the
answer is found and compared as in ``answers``. Seven subjects, each with its own result.
"""

from minillama.evaluate.answers import last_boxed, math_answer, normalize_math
from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

SUBJECTS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra",
            "number_theory", "prealgebra", "precalculus")  # fmt: skip
VARIANT = "minerva_math_{}/gold_bpb_0shot"
"""Named 0shot, but it shows four examples."""


def read(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split, subject by subject."""
    return [
        Problem(
            row["request"]["context"] if shots else row["doc"]["query"],
            row["request"]["continuation"],
            (normalize_math(last_boxed(row["doc"]["solution"]) or row["doc"]["answer"]),),
            ("Problem:", "\n\n"),
            512,
            id=f"{subject}/{row['doc']['index']}",
            group=subject,
        )
        for subject in SUBJECTS
        for row in library.rows(VARIANT.format(subject))
    ]


def grade(problem: Problem, text: str) -> float:
    """1 if the answer, in uniform notation, is the right one."""
    return float(math_answer(text) in problem.answers)


TASK = Task("math", "MATH", "test", 5_000, 0.0, read, VARIANT.format("*"), "generation",
            shots=(4, 0), grade=grade, extract=math_answer)  # fmt: skip
