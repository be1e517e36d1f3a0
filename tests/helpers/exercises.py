"""What the check of an exercise must do. A test file imports these tests and gives two tables:

RIGHT     (name of a check, a right answer)
MISTAKES  (name of a check, a typical wrong answer, a word of the hint that it must get)
"""

from collections.abc import Callable

import pytest

from minillama import teach


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests below the rows of the tables of the file that imports them."""
    if metafunc.function is test_a_right_answer_is_accepted:
        metafunc.parametrize(("name", "answer"), metafunc.module.RIGHT)
    elif metafunc.function is test_a_mistake_is_named:
        metafunc.parametrize(("name", "answer", "hint"), metafunc.module.MISTAKES)
    elif metafunc.function is test_an_empty_answer_is_no_answer:
        metafunc.parametrize("name", sorted({name for name, _ in metafunc.module.RIGHT}))


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


def test_an_empty_answer_is_no_answer(name: str, capsys: pytest.CaptureFixture) -> None:
    getattr(teach, name)(lambda *_: None)
    assert capsys.readouterr().out.startswith("not yet: ")
