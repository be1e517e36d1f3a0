"""Mathematics: MATH and GSM8k, scored with maj1@k (Table 7); both styles are the same.

MATH (Hendrycks et al., 2021), competitions in seven subjects, each with its own result: "the same
setup as Minerva", whose four solved examples the wheel has. GSM8k (Cobbe et al., 2021), word
problems of primary school: the paper says nothing about the prompt; the eight solved examples are
those of Wei et al. (2022). Answers are found and compared as in ``answers``.
"""

from minillama.evaluate.answers import gsm8k_answer, last_boxed, math_answer, normalize_math
from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

SUBJECTS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra",
            "number_theory", "prealgebra", "precalculus")  # fmt: skip
MATH = "minerva_math_{}/gold_bpb_0shot"
"""Named 0shot, but it shows four examples."""
GSM8K = "gsm8k/gold_bpb_5shot"
"""Named 5shot, but it shows eight examples."""


def read_math(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split, subject by subject."""
    problems = []
    for subject in SUBJECTS:
        for row in library.rows(MATH.format(subject)):
            doc, request = row["doc"], row["request"]
            prompt = request["context"] if shots else doc["query"]
            answer = normalize_math(last_boxed(doc["solution"]) or doc["answer"])
            problems.append(
                Problem(
                    prompt,
                    request["continuation"],
                    (answer,),
                    stop=("Problem:", "\n\n"),
                    max_new_tokens=512,
                    id=f"{subject}/{doc['index']}",
                    group=subject,
                )
            )
    return problems


def grade_math(problem: Problem, text: str) -> float:
    """1 if the answer, in uniform notation, is the right one."""
    return float(math_answer(text) in problem.answers)


def read_gsm8k(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split; the right solution is worded as the examples are."""
    problems = []
    for row in library.rows(GSM8K):
        doc, request = row["doc"], row["request"]
        prompt = request["context"] if shots else f"Question: {doc['question']}\nAnswer:"
        answer = gsm8k_answer(doc["answer"])
        problems.append(
            Problem(
                prompt,
                request["continuation"],
                (answer,),
                stop=("Question:", "\n\n"),
                max_new_tokens=256,
                id=str(row["doc_id"]),
            )
        )
    return problems


def grade_gsm8k(problem: Problem, text: str) -> float:
    """1 if the number that the text comes to is the right one."""
    return float(gsm8k_answer(text) in problem.answers)


TASKS = (
    Task("math", "MATH", "test", 5_000, 0.0, read_math, MATH.format("*"), "generation",
         shots=(4, 0), grade=grade_math, extract=math_answer),
    Task("gsm8k", "GSM8k", "test", 1_319, 0.0, read_gsm8k, GSM8K, "generation", shots=(8, 0),
         grade=grade_gsm8k, extract=gsm8k_answer),
)  # fmt: skip
