"""Answers that a model writes: cut, judged and counted; and log P of the right ones."""

import json
import math

import pytest
import torch

from minillama.config import ModelConfig
from minillama.errors import ConfigError, DataError
from minillama.evaluate import generation
from minillama.evaluate.answers import gsm8k_answer
from minillama.evaluate.generation import (
    Generation,
    as_text,
    cut_at,
    score_problems,
    stops,
    summarize,
)
from minillama.evaluate.tasks import TASKS, Problem, Task
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

CONFIG = ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=320, multiple_of=8, max_seq_len=48)


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus):
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Llama(CONFIG).eval()
    for parameter in model.parameters():  # far from the start, where all guesses are alike
        parameter.data.normal_(0, 0.3)
    return model


def problem(number, prompt="where is the boat", **more):
    settings = {"answers": ("4",), "stop": ("\n",), "max_new_tokens": 8, "id": str(number)}
    return Problem(prompt + " now" * number, " it is 4", **(settings | more))


TASK = Task("sums", "Sums", "test", 4, 0.0, lambda *_: [], "nowhere", "generation",
            grade=lambda p, text: float(gsm8k_answer(text) in p.answers),
            extract=gsm8k_answer)  # fmt: skip


def script(monkeypatch, tokenizer, texts):
    """Let the model write these texts, in this order."""
    queue = iter(texts)

    def generate_tokens(decoder, prompts, sampling, most, **settings):
        written = []
        for number, _ in enumerate(prompts):
            new = []
            for token in tokenizer.encode(next(queue)) + [tokenizer.eos_id]:
                new.append(token)
                if settings["finished"](number, new):
                    break
            written.append(new)
        return written

    monkeypatch.setattr(generation, "generate_tokens", generate_tokens)


def naive_greedy(model, ids, most):
    """The likeliest token, again and again, over the whole text each time."""
    ids, new = list(ids), []
    while len(new) < most:
        new.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        ids.append(new[-1])
    return new


@torch.no_grad()
def test_greedy_answers_side_by_side_are_those_of_one_at_a_time(model, tokenizer):
    problems = [problem(i, stop=("zzz",)) for i in range(6)]
    rows = score_problems(model, tokenizer, TASK, problems, Generation(batch_size=4))
    for p, row in zip(problems, rows, strict=True):
        new = naive_greedy(model, tokenizer.encode(p.prompt, bos=True), 8)
        assert row["written"] == [as_text(tokenizer, new)]
        assert row["prompt_tokens"] == len(tokenizer.encode(p.prompt, bos=True))
        assert row["truncated"] == 0


@torch.no_grad()
def test_the_right_answers_likelihood(model, tokenizer):
    p = problem(1)
    (row,) = score_problems(model, tokenizer, TASK, [p])
    ids = tokenizer.encode(p.prompt + p.completion, bos=True)
    start = len(tokenizer.encode(p.prompt, bos=True))
    log_p = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    total = sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids)))
    assert row["log_likelihood"] == pytest.approx(total, abs=1e-4)
    assert row["bytes"] == len(p.completion)
    bpb = summarize(TASK, [row])["gold_bpb"]
    assert bpb == pytest.approx(-total / math.log(2) / len(p.completion), rel=1e-5)


def test_a_line_break_before_the_answer_counts_where_it_is_scored():
    assert generation.scored_bytes(Problem("def f():\n", "    é")) == len("\n    é".encode())


def test_long_prompts_lose_their_beginning_and_are_counted(model, tokenizer):
    problems = [problem(0), problem(60)]
    rows = score_problems(model, tokenizer, TASK, problems)
    length = len(tokenizer.encode(problems[1].prompt, bos=True))
    assert rows[1]["prompt_tokens"] == length and rows[0]["truncated"] == 0
    assert rows[1]["truncated"] == length - (48 - 8)
    encoded = tokenizer.encode(problems[1].prompt + problems[1].completion, bos=True)
    assert rows[1]["gold_truncated"] == len(encoded) - 1 - 48 > 0
    result = summarize(TASK, rows)
    assert result["truncated"] == result["gold_truncated"] == 1
    cut = tokenizer.encode(problems[1].prompt, bos=True)[-40:]
    with torch.no_grad():
        assert rows[1]["written"][0].startswith(as_text(tokenizer, naive_greedy(model, cut, 1)))


def test_samples_depend_on_the_seed_and_the_problem_alone(model, tokenizer):
    problems = [problem(i) for i in range(3)]
    settings = Generation(samples=3, temperature=2.0, seed=1)
    rows = score_problems(model, tokenizer, TASK, problems, settings)
    (alone,) = score_problems(model, tokenizer, TASK, problems[2:], settings)
    assert alone == rows[2]
    other = Generation(samples=3, temperature=2.0, seed=2)
    assert score_problems(model, tokenizer, TASK, problems, other) != rows
    assert len({text for row in rows for text in row["written"]}) > 3


def test_stopping(tokenizer):
    finished = stops(tokenizer, ("\n\n", "END"))
    assert finished(0, [tokenizer.eos_id])
    assert not finished(0, tokenizer.encode("one\ntwo"))
    assert finished(0, tokenizer.encode("one\n\n")) and finished(0, tokenizer.encode("the END"))
    assert cut_at("a END b\n\n", ("\n\n", "END")) == "a "
    assert cut_at("a", ("\n",)) == "a" and cut_at("a", ()) == "a"
    ids = tokenizer.encode("a boat")
    assert as_text(tokenizer, [*ids, tokenizer.eos_id, *ids]) == " a boat"


def test_votes_and_scores(model, tokenizer, monkeypatch):
    texts = ["it is 4\nno 5", "it is 3", "so 4", "it is 7", "the answer is 7", "none"]
    script(monkeypatch, tokenizer, texts)
    settings = Generation(samples=3, temperature=0.6)
    rows = score_problems(model, tokenizer, TASK, [problem(0), problem(1)], settings)
    assert [row["answers"] for row in rows] == [["4", "3", "4"], ["7", "7", None]]
    assert rows[0]["written"][0] == " it is 4"
    assert [row["score"] for row in rows] == [2 / 3, 0]
    result = summarize(TASK, rows)
    assert result["accuracy"] == pytest.approx(1 / 3) and result["maj1@3"] == 0.5
    assert result["se"] == pytest.approx(1 / 3)
    assert "zero_hit_bound" not in result and "pass@1" not in result
    assert json.loads(json.dumps(rows)) == rows


def test_no_hits_give_a_bound_instead(model, tokenizer, monkeypatch):
    script(monkeypatch, tokenizer, ["5", "6"])
    rows = score_problems(model, tokenizer, TASK, [problem(0), problem(1)])
    result = summarize(TASK, rows)
    assert result["accuracy"] == result["se"] == 0
    assert (1 - result["zero_hit_bound"]) ** 2 == pytest.approx(0.05)


def test_groups(model, tokenizer, monkeypatch):
    script(monkeypatch, tokenizer, ["4", "5", "4"])
    problems = [problem(i, group="ab"[i % 2]) for i in range(3)]
    result = summarize(TASK, score_problems(model, tokenizer, TASK, problems))
    told = {name: (group["n"], group["accuracy"]) for name, group in result["groups"].items()}
    assert told == {"a": (2, 1.0), "b": (1, 0.0)}


CODE = Problem("def f():\n", "    return 1\n", stop=("\ndef",), max_new_tokens=24, id="code/1",
               more={"head": "def f():\n", "tests": "assert f() == 1"})  # fmt: skip


def test_code_is_run_only_if_asked(model, tokenizer, monkeypatch):
    def run_programs(programs):
        raise AssertionError("code was run")

    monkeypatch.setattr(generation, "run_programs", run_programs)
    rows = score_problems(model, tokenizer, TASKS["humaneval"], [CODE])
    assert rows[0]["score"] is None and "written" not in rows[0]
    result = summarize(TASKS["humaneval"], rows)
    assert result["accuracy"] is None and result["gold_bpb"] > 0 and "pass@1" not in result
    (long,) = score_problems(model, tokenizer, TASKS["humaneval"], [problem(60)])
    assert long["truncated"] == long["gold_truncated"] > 0
    with pytest.raises(AssertionError, match="code was run"):
        script(monkeypatch, tokenizer, ["x"])
        score_problems(model, tokenizer, TASKS["humaneval"], [CODE], Generation(execute_code=True))


def test_pass_at_k_of_programs_that_ran(model, tokenizer, monkeypatch):
    right, wrong = "return 1\ndef g(): pass", "return 2"
    script(monkeypatch, tokenizer, [right, *[wrong] * 9])
    settings = Generation(samples=10, temperature=0.8, execute_code=True)
    rows = score_problems(model, tokenizer, TASKS["humaneval"], [CODE], settings)
    assert rows[0]["scores"] == [1.0] + [0.0] * 9
    assert rows[0]["reasons"] == ["passed"] + ["AssertionError"] * 9
    result = summarize(TASKS["humaneval"], rows)
    assert result["pass@1"] == pytest.approx(0.1) and result["pass@10"] == 1
    assert "pass@80" not in result and "maj1@10" not in result


def test_progress_is_told(model, tokenizer, monkeypatch):
    monkeypatch.setattr(generation, "CHUNK", 2)
    told = []
    rows = score_problems(model, tokenizer, TASK, [problem(i) for i in range(5)], done=told.append)
    assert told == [2, 2, 1] and [row["id"] for row in rows] == list("01234")
    assert score_problems(model, tokenizer, TASK, []) == []
    with pytest.raises(DataError, match="sums has no problems"):
        summarize(TASK, [])


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"batch_size": 0}, {"samples": 4}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ConfigError):
        Generation(**wrong)
