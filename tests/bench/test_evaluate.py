"""The speed comparison compares equals: the same weights, questions and accuracies."""

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
from benchmarks import make_wheel

from minillama.apps import cli
from minillama.bench import evaluate as bench
from minillama.bench.race import Result
from minillama.evaluate.tasks import find_task, load_questions, open_library


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Questions of our own and a small vocabulary."""
    library = open_library(**make_wheel(tmp_path))
    monkeypatch.setattr(bench, "open_library", lambda: library)
    monkeypatch.setattr(bench, "VOCAB", 300)
    monkeypatch.setattr(bench, "LAYERS", 1)
    return library


def test_all_contenders_find_the_same(small, capsys):
    rows = bench.bench_evaluate(questions=8, rounds=2, batch_size=3)
    names = ["harness, Hugging Face", "harness, minillama", "minillama"]
    assert [row.name for row in rows] == names
    assert len({row.accuracy for row in rows}) == 1
    assert all(row.furthest < 1e-4 for row in rows) and rows[0].furthest == 0
    assert rows[0].ratio == 1 and all(row.rate > 0 and row.ratio > 0 for row in rows)
    printed = capsys.readouterr().out
    assert "8 questions" in printed and "furthest" in printed


def test_a_difference_is_not_passed_over(small):
    questions = load_questions(find_task("hellaswag"), small, 4)
    right = [[float(i == q.answer) for i in range(4)] for q in questions]
    wrong = [[float(i != q.answer) for i in range(4)] for q in questions]
    results = {"a": Result([1.0, 4.0, 1.0], [right]), "b": Result([0.5, 1.0, 1.0], [wrong])}
    row = bench.summarize("b", questions, results)
    assert row.furthest == 1 and (row.accuracy, row.rate, row.ratio) == (0, 4, 2)
    assert bench.summarize("a", questions, results).accuracy == 1


def test_the_verb_is_there(capsys):
    with pytest.raises(SystemExit):
        cli.run(["bench", "evaluate", "--help"])
    assert "HellaSwag" in capsys.readouterr().out and torch.get_num_threads() == 1
