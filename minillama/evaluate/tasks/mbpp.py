"""MBPP: small Python functions from one sentence and three tests (Austin et al., 2021; Table 8).

The prompt is Austin et al.'s, with three solved examples, in both styles. The wheel has three of
the benchmark's prompting examples (tasks 1-10), but not their tests; those are ours.
"""

from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

VARIANT = "codex_mbpp/gold_bpb_3shot"
EXAMPLE_TESTS = (
    """assert is_not_prime(7) == False
assert is_not_prime(12) == True
assert is_not_prime(49) == True""",
    """assert find_Rotations("aaa") == 1
assert find_Rotations("xyxy") == 2
assert find_Rotations("xyz") == 3""",
    """assert heap_queue_largest([4, 9, 1, 7], 1) == [9]
assert heap_queue_largest([4, 9, 1, 7], 2) == [9, 7]
assert heap_queue_largest([-3, -8, -1], 3) == [-1, -3, -8]""",
)


def read(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split: tasks 11 to 510."""
    rows = list(library.rows(VARIANT))
    head = "".join(
        f"{_ask(text, tests)}{code}\n[DONE]\n\n" for text, code, tests in solved(rows[0])[:shots]
    )
    return [_problem(row["doc"], head) for row in rows]


def solved(row: dict[str, dict[str, str]]) -> list[tuple[str, str, str]]:
    """Sentence, code and tests of the examples in the wheel's own prompt."""
    parts = row["request"]["context"].split("```")[:-1]  # sentence, code, sentence, code, ...
    pairs = zip(parts[0::2], parts[1::2], EXAMPLE_TESTS, strict=False)
    return [(a.strip(), b.removeprefix("python\n").strip(), tests) for a, b, tests in pairs]


def _ask(text: str, tests: str) -> str:
    return (
        f"You are an expert Python programmer, and here is your task: {text} Your code should pass "
        f"these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _problem(doc: dict[str, object], head: str) -> Problem:
    tests = "\n".join(doc["test_list"])
    return Problem(
        head + _ask(doc["text"], tests),
        doc["code"].replace("\r\n", "\n"),
        stop=("[DONE]",),
        max_new_tokens=512,
        id=str(doc["task_id"]),
        more={"tests": f"{doc['test_setup_code']}\n{tests}\n"},
    )


def program(problem: Problem, text: str) -> tuple[str, str]:
    """The code, and its tests."""
    return text, problem.more["tests"]


TASK = Task("mbpp", "MBPP", "test", 500, 0.0, read, VARIANT, "generation", shots=(3, 0),
            program=program)  # fmt: skip
