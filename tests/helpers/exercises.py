"""What the check of an exercise must do. A test file imports these tests and gives two tables:

RIGHT     (name of a check, a right answer)
MISTAKES  (name of a check, a typical wrong answer, a word of the hint that it must get)

``test_check_x.py`` has the tables of all checks of ``minillama.teach.check_x``.
"""

from collections.abc import Callable

import pytest

from minillama import teach

__all__ = [
    "pytest_generate_tests",
    "test_a_mistake_is_named",
    "test_a_right_answer_is_accepted",
    "test_every_check_of_the_module_is_tested_both_ways",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests below the rows of the tables of the file that imports them."""
    if metafunc.function is test_a_right_answer_is_accepted:
        metafunc.parametrize(("name", "answer"), metafunc.module.RIGHT)
    elif metafunc.function is test_a_mistake_is_named:
        metafunc.parametrize(("name", "answer", "hint"), metafunc.module.MISTAKES)


def test_a_right_answer_is_accepted(
    name: str, answer: Callable, capsys: pytest.CaptureFixture
) -> None:
    getattr(teach, name)(answer)
    assert capsys.readouterr().out.startswith("correct: ")


def test_a_mistake_is_named(
    name: str, answer: Callable, hint: str, capsys: pytest.CaptureFixture
) -> None:
    getattr(teach, name)(answer)
    text = capsys.readouterr().out
    assert text.startswith("not yet: ")
    assert hint in text


def test_every_check_of_the_module_is_tested_both_ways(request: pytest.FixtureRequest) -> None:
    tables = request.module
    module = tables.__name__.rpartition(".")[2].removeprefix("test_")
    names = {n for n, check in teach.checks().items() if check.__module__.endswith(f".{module}")}
    assert names
    assert names == {name for name, _ in tables.RIGHT} == {name for name, *_ in tables.MISTAKES}
