"""Results by hand: normalizations, lines to beat, smooth measures and their errors."""

import json
import math

import numpy as np
import pytest

from minillama.errors import DataError
from minillama.evaluate.baselines import NGram, request_log_likelihoods
from minillama.evaluate.multiple_choice import Requests
from minillama.evaluate.scoring import (
    compare,
    credit,
    credits,
    make_row,
    paired_bootstrap,
    read_rows,
    record_name,
    scores,
    summarize,
    write_rows,
)
from minillama.evaluate.tasks import Question
from minillama.tokenizer import Tokenizer


def row(completions, values, answer=0, bare=None, group="", truncated=None):
    """The row of a question with these completions and log-likelihoods."""
    n = len(completions)
    asked = Question(tuple(("Q:", each) for each in completions), answer, group=group)
    return make_row("task", asked, values, bare or [0.0] * n, truncated or [0] * n)


def test_characters_not_bytes_and_not_the_space():
    made = row([" naïve", " 12", "x", " "], [-1.0] * 4)
    assert made["characters"] == [5, 2, 1, 1] and made["bytes"] == [6, 2, 1, 1]
    assert made["gold_bytes"] == 7


def test_each_rule_ranks_by_its_own_measure():
    made = row([" four", " fifteen chars é"], [-8.0, -15.0], bare=[-9.0, -15.5])
    assert scores(made, "none") == [-8.0, -15.0]
    assert scores(made, "characters") == [-8 / 4, -15 / 15]
    assert scores(made, "bytes") == [-8 / 4, -15 / 16]
    assert scores(made, "answer") == [1.0, 0.5]  # a difference of logarithms, no quotient


def test_the_paper_s_rule_decides_the_accuracy():
    rows = [row([" four", " fifteen chars!"], [-8.0, -15.0], answer=1, bare=[-9.0, -15.5])]
    assert summarize(rows, "characters")["accuracy"] == 1
    assert summarize(rows, "answer")["accuracy"] == 0
    expected = {"none": 0, "characters": 1, "bytes": 1, "answer": 0}
    assert summarize(rows, "none")["accuracies"] == expected


def test_ties_share_the_point():
    assert credit([-1, -1, -2], 0) == credit([-1, -1, -2], 1) == 0.5
    assert credit([-1, -1, -2], 2) == 0 and credit([-1, -3], 0) == 1


def test_a_model_that_ignores_the_question_gets_chance_by_the_answer_rule():
    rows = [row([" yes", " no"], [-2.0, -3.0], i % 3 == 0, bare=[-2.0, -3.0]) for i in range(30)]
    told = summarize(rows, "answer")
    assert told["accuracy"] == told["chance"] == 0.5 and told["centered"] == 0
    assert told["majority"] == pytest.approx(2 / 3)
    assert summarize(rows, "none")["accuracy"] == pytest.approx(2 / 3)  # not what it may claim


def test_bits_per_byte_of_the_right_answers():
    rows = [row([" é", " b"], [-6.0, -1.0]), row([" a", " bcd"], [-1.0, -8.0], answer=1)]
    assert summarize(rows, "none")["gold_bpb"] == pytest.approx(14.0 / math.log(2) / (3 + 4))


def test_context_gain_is_the_bits_that_the_question_saves():
    rows = [row([" abc", " b"], [-6.0, -1.0], bare=[-8.0, -3.0])]
    told = summarize(rows, "none")
    assert told["context_gain"] == pytest.approx(2.0 / math.log(2) / 4)


def test_context_gain_of_a_model_without_context_is_zero(tiny_corpus):
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    text = "the old miller walked along the river and found a small boat"
    blind = NGram(np.array(tokenizer.encode(text, bos=True)), tokenizer.vocab_size, order=1)
    told = {}
    asked = [
        Question(tuple((f"Who {word}?", c) for c in (" the miller", " a boat")), 1)
        for word in ("walked", "found it", "fell")
    ]
    requests = Requests(tokenizer, asked, bare=True)
    rows = requests.rows("task", request_log_likelihoods(blind, requests.encoded))
    told = summarize(rows, "answer")
    assert told["context_gain"] == 0 and told["accuracy"] == 0.5
    assert told["gold_bpb"] > 0


def test_chance_centered_and_standard_error():
    rows = [
        row([" a", " b"], [-1, -2]), row([" a", " b", " c", " d"], [-2, -1, -3, -3]),
        row([" a", " b"], [-1, -2]),
    ]  # fmt: skip
    told = summarize(rows, "characters")
    chance = (1 / 2 + 1 / 4 + 1 / 2) / 3
    assert told["chance"] == pytest.approx(chance) and told["n"] == 3
    assert told["accuracy"] == pytest.approx(2 / 3)
    assert told["centered"] == pytest.approx((2 / 3 - chance) / (1 - chance))
    assert told["se"] == pytest.approx(np.std([1, 0, 1], ddof=1) / math.sqrt(3))


def test_one_question_has_no_spread():
    told = summarize([row([" a", " b"], [-1, -2])], "none")
    assert (told["accuracy"], told["se"]) == (1, 0)


def test_smooth_measures():
    rows = [row([" a", " b", " c"], [-1.0, -2.0, -4.0]), row([" a", " b"], [-3.0, -1.0])]
    told = summarize(rows, "none")
    first = math.exp(-1) / (math.exp(-1) + math.exp(-2) + math.exp(-4))
    second = math.exp(-3) / (math.exp(-3) + math.exp(-1))
    assert told["correct_probability"] == pytest.approx((first + second) / 2)
    assert told["margin"] == pytest.approx((1.0 - 2.0) / 2)


def test_smooth_measures_far_from_one():
    told = summarize([row([" a", " b"], [-9_000.0, -9_001.0])], "none")
    assert told["correct_probability"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_prompts_that_did_not_fit_are_counted_by_question():
    rows = [row([" a", " b"], [-1, -2], truncated=cut) for cut in ([0, 0], [3, 0], [5, 6])]
    assert summarize(rows, "none")["truncated"] == 2


def test_groups_count_their_own_questions():
    rows = [row([" a", " b"], [-1, -2 * i], group=g) for i, g in enumerate(("x/1", "x/2", "y"))]
    groups = summarize(rows, "none")["groups"]
    assert groups == {
        "x": {"n": 2, "accuracy": 0.5}, "x/1": {"n": 1, "accuracy": 0.0},
        "x/2": {"n": 1, "accuracy": 1.0}, "y": {"n": 1, "accuracy": 1.0},
    }  # fmt: skip
    assert credits(rows, "none") == [0.0, 1.0, 1.0]


def test_the_bootstrap_of_two_models_agrees_with_theory():
    rng = np.random.default_rng(0)
    first = (rng.random(2_000) < 0.50).astype(float)
    second = np.where(rng.random(2_000) < 0.9, first, 1.0)  # mostly right where the first is
    told = paired_bootstrap(first, second, samples=2_000)
    gap = second - first
    half = 1.96 * gap.std(ddof=1) / math.sqrt(len(gap))
    assert told["difference"] == pytest.approx(gap.mean())
    assert told["low"] == pytest.approx(gap.mean() - half, abs=0.15 * half)
    assert told["high"] == pytest.approx(gap.mean() + half, abs=0.15 * half)
    assert told["p_not_better"] == 0 and told == paired_bootstrap(first, second, samples=2_000)
    unpaired = 1.96 * math.sqrt((first.var() + second.var()) / len(gap))
    assert told["high"] - told["low"] < unpaired  # half of what judging them apart would give
    backwards = paired_bootstrap(second, first, samples=2_000)
    assert backwards["p_not_better"] == 1 and backwards["high"] == pytest.approx(-told["low"])


def test_the_bootstrap_of_equal_models():
    same = [1.0, 0.0, 0.5]
    told = paired_bootstrap(same, same, samples=50)
    assert told == {"difference": 0, "low": 0, "high": 0, "p_not_better": 1}
    for other in ([1.0], []):
        with pytest.raises(DataError, match="cannot be paired"):
            paired_bootstrap(other, same if other else [])


def test_two_checkpoints_are_compared_by_the_tasks_own_rule(tmp_path):
    def write(name, key, values, ids=range(8)):
        made = [row([" yes", " no"], values, bare=[-1.0, -3.0]) for _ in range(8)]
        rows = [each | {"task": key, "id": str(i)} for each, i in zip(made, ids, strict=True)]
        write_rows(tmp_path / name, {key: rows, "piqa": [r | {"task": "piqa"} for r in rows]})
        return tmp_path / name

    first = write("a.jsonl", "boolq", [-2.0, -3.9])  # yes, but no by the answer rule
    second = write("b.jsonl", "boolq", [-1.0, -3.5])
    told = compare(first, second, samples=200)
    assert told["piqa"]["difference"] == 0 and told["boolq"]["difference"] == 1
    third = write("c.jsonl", "boolq", [-1.0, -3.0])  # a tie by the answer rule
    assert compare(first, third, samples=200)["boolq"]["difference"] == 0.5
    assert set(compare(first, write("d.jsonl", "arc_easy", [-1, -2]), 10)) == {"piqa"}
    with pytest.raises(DataError, match="differ in the questions of boolq"):
        compare(first, write("e.jsonl", "boolq", [-1, -2], ids=range(1, 9)))


def test_programs_that_were_not_run_are_not_compared(tmp_path):
    for name, score in (("a", None), ("b", 1.0)):
        row = {"task": "mbpp", "id": "11", "score": score}
        write_rows(tmp_path / name, {"mbpp": [row], "gsm8k": [row | {"task": "gsm8k", "score": 1}]})
    assert set(compare(tmp_path / "a", tmp_path / "b", 10)) == {"gsm8k"}


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = {"a": [row([" é", " b"], [-1 / 3, -2])], "b": [row([" a", " b"], [-1, -2])] * 2}
    for key, part in rows.items():
        rows[key] = [each | {"task": key} for each in part]
    write_rows(tmp_path / "x.jsonl", rows)
    assert read_rows(tmp_path / "x.jsonl") == rows
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 3
    assert rows["a"][0]["log_likelihoods"][0] == -0.333333


@pytest.mark.parametrize("text", ["{", "[1]", json.dumps({"id": 1})])
def test_damaged_rows_are_named(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match="x.jsonl is damaged"):
        read_rows(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match="y.jsonl does not exist"):
        read_rows(tmp_path / "y.jsonl")


def test_names_of_records():
    assert record_name("step-1", {"style": "llama", "limit": None}) == "step-1"
    assert record_name("step-1", {"style": "olmes", "limit": 5}) == "step-1.olmes.limit-5"
