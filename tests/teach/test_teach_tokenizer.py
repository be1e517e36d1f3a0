"""The check of notebook 02 that counts what a byte costs; the others are in test_teach_data."""

from collections.abc import Callable

from exercises import (  # noqa: F401  (run here on the tables below)
    pytest_generate_tests,
    test_a_mistake_is_named,
    test_a_right_answer_is_accepted,
    test_an_empty_answer_is_no_answer,
)


def best_vocabulary(kind: str) -> Callable:
    tables = {"no output": 0, "two tables": 2}.get(kind, 1)

    def answer(bytes_per_token: dict[int, float], body: int, width: int) -> object:
        def cost(pieces: int) -> float:
            weights = body + tables * pieces * width
            return weights if kind == "by token" else weights / bytes_per_token[pieces]

        best = min(bytes_per_token, key=cost)
        if kind == "middle" and best == 2000:
            return 4000
        return bytes_per_token[best] if kind == "bytes" else best

    return answer


RIGHT = [("check_best_vocabulary", best_vocabulary("right"))]

MISTAKES = [
    ("check_best_vocabulary", best_vocabulary("no output"), "weights of the output"),
    ("check_best_vocabulary", best_vocabulary("two tables"), "is a look-up"),
    ("check_best_vocabulary", best_vocabulary("by token"), "count by the byte"),
    ("check_best_vocabulary", best_vocabulary("bytes"), "one of the keys"),
    ("check_best_vocabulary", best_vocabulary("middle"), "it should be 2,000"),
]
