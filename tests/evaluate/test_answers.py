"""Cutting, normalizing and counting answers, against cases by hand and brute force."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillama.evaluate.answers import (
    cut_answer,
    exact_match,
    gsm8k_answer,
    last_boxed,
    last_number,
    majority,
    math_answer,
    normalize,
    normalize_math,
    pass_at_k,
    zero_hit_bound,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Paris.", "Paris"),
        (" Paris,\nQ: and", "Paris"),
        (" J.R.R. Tolkien", "J.R.R. Tolkien"),
        (" J.R.R. Tolkien.\nQ:", "J.R.R. Tolkien"),
        ("Rome, Italy.", "Rome, Italy"),
        ("\nParis", ""),
        ("what...", "what.."),
        ("", ""),
    ],
)
def test_only_the_final_dot_or_comma_goes(text, answer):
    assert cut_answer(text) == answer


def test_normalization_of_the_appendix():
    assert normalize("The  Beatles'  \t“A” an a-b!") == "beatles “a” ab"
    assert normalize("Theatre and an Ant") == "theatre and ant"
    assert exact_match("the U.S.A", ["USA", "America"])
    assert not exact_match("Paris France", ["Paris"])
    assert not exact_match("Paris", [])


@given(st.text())
def test_normalizing_twice_changes_nothing(text):
    assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b}{c{d}}}$ and } more {", "a{b}{c{d}}"),
        (r"\boxed 7$", "7"),
        (r"\boxed{never closed", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_the_last_box(text, inside):
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234,567.50 in all", "1234567.5"),
        ("from 3 to -4", "-4"),
        ("from 3 to 007.", "7"),
        ("0.0 or -0.0", "0"),
        ("down to -007.10", "-7.1"),
        ("a .5 share", "0.5"),
        ("16-3", "-3"),
        ("none", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


def test_answers_of_gsm8k():
    assert gsm8k_answer("She has 3 + 4 = 7. So the answer is $1,200.00. Then 5 more") == "1200"
    assert gsm8k_answer("It is 4\n#### 18") == "18"
    assert gsm8k_answer("So the answer is - 10.") == gsm8k_answer("the answer is -$10") == "-10"
    assert gsm8k_answer("3 apples and 4 pears") == "4"
    assert gsm8k_answer("the answer is unknown, 3") == "3"
    assert gsm8k_answer("no idea") is None


def test_answers_of_math():
    minerva = (
        r"We get \boxed{3}. Final Answer: The final answer is $\frac12$. I hope it is correct."
    )
    assert math_answer(minerva) == r"\frac{1}{2}"
    assert math_answer(r"The final answer is $1+1=\boxed{2}$ pears") == "2"
    assert math_answer(r"so the answer is $x=5$.") == "5"
    assert math_answer("that makes 4 and 6") == "6"
    assert math_answer("no") is None


@pytest.mark.parametrize(
    "same",
    [
        (r"\frac{1}{2}", r"\dfrac12", r"\tfrac{1}{2}", "1/2", r"$\frac 12$", r"x=\frac{1}{2}"),
        (r"\sqrt{2}", r"\sqrt2", r"\sqrt 2"),
        ("10", "10.00", r"10\%", r"\$10", r"10^\circ", r"10^{\circ}", r"10\text{ cm}^2", "10."),
        ("1000", "1,000", r"1{,}000", r"1\,000"),
        ("-\\frac{1}{2}", r"\frac{-1}{2}", "-1/2"),
        (r"(1,2)", r"\left(1, 2\right)", r"( 1 ,2)"),
        ("blue", r"\text{blue}", r"\mbox{blue}"),
        ("1,2", "1 and 2"),
    ],
)
def test_one_notation_for_one_value(same):
    assert len({normalize_math(text) for text in same}) == 1, [normalize_math(t) for t in same]


def test_different_values_stay_different():
    values = [
        "1/2",
        "0.5",
        "2",
        "-2",
        r"\sqrt{2}",
        r"2\sqrt{2}",
        "(1,2)",
        "[1,2]",
        "12",
        "x",
        "3_8",
    ]
    assert len({normalize_math(value) for value in values}) == len(values)


@given(st.text(alphabet="\\{}fracsqrt1/2,$=^ .-xboed"))
def test_no_text_breaks_the_answer_finders(text):
    once = normalize_math(text)
    assert isinstance(once, str)
    for find in (math_answer, gsm8k_answer, last_boxed):
        assert find(text) is None or isinstance(find(text), str)


def test_the_vote():
    assert majority(["3", "4", "4", None, None, None]) == "4"
    assert majority(["3", "4", "4", "3"]) == "3"  # the first seen among equals
    assert majority([None, None]) is None and majority([]) is None


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_draws(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_with_large_numbers():
    exact = 1 - math.comb(2000 - 7, 100) / math.comb(2000, 100)
    assert pass_at_k(2000, 7, 100) == pytest.approx(exact, rel=1e-12)


def test_the_bound_behind_zero_hits():
    bounds = {3610: 0.0008, 1319: 0.0023, 5000: 0.0006, 164: 0.018, 500: 0.006}
    for n, bound in bounds.items():
        assert zero_hit_bound(n) == pytest.approx(bound, rel=0.07)
        assert (1 - zero_hit_bound(n)) ** n == pytest.approx(0.05)


def test_an_empty_answer_is_never_right():
    """TriviaQA accepts "The The", of which the appendix's normalization leaves nothing."""
    assert not exact_match("", ["The The", "?"]) and not exact_match("the", ["A", "?"])
    assert exact_match("the the", ["The The"]) and exact_match(" A ", ["a"])
