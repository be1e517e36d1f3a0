"""Figure 2 is what was evaluated: the same questions for all, with what a guesser would get."""

import csv
import json
import shutil

import numpy as np
import pytest
from tiny import tiny_config

from minillama.errors import DataError
from minillama.figures import benchmarks as module
from minillama.figures.benchmarks import (
    PANELS,
    collect,
    common_questions,
    correlation,
    correlation_table,
    correlations,
    draw_benchmarks_figure,
    seeds_of,
)
from minillama.figures.draw import draw_figures
from minillama.figures.runs import load_runs
from minillama.train.log import read_metrics
from minillama.train.loop import train

NAMES = ("nano-7b", "nano-13b", "nano-33b", "nano-65b")


def records(run):
    return [json.loads(path.read_text()) for path in sorted((run / "evaluations").glob("*.json"))]


def test_figure_2_is_what_was_evaluated(trained, tmp_path):
    draw_figures(runs=trained, out=tmp_path)
    expected = {
        (name, told["step"], task): (result["accuracy"], result["gold_bpb"],
                                     pytest.approx(np.exp(told["valid_loss"])))
        for name in NAMES for told in records(trained / name)
        for task, result in told["tasks"].items()
    }  # fmt: skip
    for stem in ("figure2_benchmarks", "figure2_perplexity"):
        with open(tmp_path / f"{stem}.csv", newline="") as file:
            found = {
                (row["run"], int(row["step"]), row["task"]): tuple(
                    float(row[field]) for field in ("accuracy", "gold_bpb", "perplexity")
                )
                for row in csv.DictReader(file)
            }
        assert found == expected and len(found) == 4 * 2 * len(PANELS)
    told = json.loads((tmp_path / "figure2_benchmarks.json").read_text())
    assert set(told["spearman"]) == set(PANELS)


def curves(axes):
    return [line for line in axes.get_lines() if line.get_marker() not in ("None", "")
            and len(line.get_xdata()) > 1]  # fmt: skip


@pytest.mark.parametrize("x", ["tokens", "perplexity"])
def test_the_curves_are_the_rows(trained, x):
    loaded = load_runs(trained, "nano")
    rows = collect(loaded)
    figure = draw_benchmarks_figure(loaded, rows, x)
    for at, (metric, scale) in enumerate((("accuracy", 100), ("gold_bpb", 1))):
        for column, task in enumerate(PANELS):
            lines = curves(figure.axes[at * len(PANELS) + column])
            assert len(lines) == len(NAMES)
            for line, name in zip(lines, NAMES, strict=True):
                mine = [row for row in rows if (row["run"], row["task"]) == (name, task)]
                np.testing.assert_array_equal(line.get_xdata(), [row[x] for row in mine])
                values = [scale * row[metric] for row in mine]
                np.testing.assert_array_equal(line.get_ydata(), values)
    limits = figure.axes[0].get_xlim()
    assert (limits[0] > limits[1]) == (x == "perplexity")  # training goes to the right


def add_limit(run, limit):
    """The run's results once more, as if got with this limit; accuracy tells them apart."""
    for path in list((run / "evaluations").glob("*.limit-6.json")):
        told = json.loads(path.read_text())
        told["settings"]["limit"] = limit
        for result in told["tasks"].values():
            result |= {"accuracy": 0.5, "n": limit or 12}
        asked = "" if limit is None else f".limit-{limit}"
        path.with_name(path.name.replace(".limit-6", asked)).write_text(json.dumps(told))


@pytest.mark.parametrize(
    "added, drawn",
    [([9, 3], 9), ([9, None], None), ([3], 6), ([100, 20], 100)],
)  # fmt: skip
def test_all_runs_are_drawn_with_the_most_questions_that_all_were_asked(runs, added, drawn):
    for limit in added:
        for name in NAMES:
            add_limit(runs / name, limit)
    add_limit(runs / "nano-7b", 1000)  # of this run alone: left out
    loaded = load_runs(runs, "nano")
    rows = collect(loaded)
    assert common_questions(loaded) == ("llama", drawn) and len(rows) == 4 * 2 * len(PANELS)
    assert {row["n"] for row in rows} == {drawn or 12}


def test_a_ladder_that_is_half_evaluated_is_drawn_with_one_limit(runs):
    for name in NAMES:
        add_limit(runs / name, None)
    for name, gone in (("7b", "step-????????.json"), ("33b", "*"), ("65b", "*.limit-6.json")):
        for path in list((runs / f"nano-{name}/evaluations").glob(gone)):
            path.unlink()
    rows = collect(load_runs(runs, "nano"))
    assert {row["run"] for row in rows} == {"nano-13b", "nano-65b"}
    assert {row["n"] for row in rows} == {12}


def test_results_of_an_earlier_training_are_left_out(runs):
    lines = read_metrics(runs / "nano-7b")
    lines[0]["valid_loss"] *= 1 + 1e-9  # another number of threads
    lines[-1]["valid_loss"] += 0.25
    (runs / "nano-7b/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    rows = collect(load_runs(runs, "nano"))
    assert {row["step"] for row in rows if row["run"] == "nano-7b"} == {1}
    assert {row["step"] for row in rows if row["run"] == "nano-13b"} == {1, 12}


def test_a_checkpoint_without_a_perplexity_is_left_out_of_that_figure(runs):
    for name in NAMES:
        lines = read_metrics(runs / name)
        for line in lines:
            line.pop("valid_loss", None)
        (runs / name / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        for path in (runs / name / "evaluations").glob("*.json"):
            told = json.loads(path.read_text()) | {"valid_loss": None, "perplexity": None}
            path.write_text(json.dumps(told))
    loaded = load_runs(runs, "nano")
    rows = collect(loaded)
    for x, lines in (("tokens", 4), ("perplexity", 0)):
        figure = draw_benchmarks_figure(loaded, rows, x)
        figure.draw_without_rendering()
        assert [len(curves(axes)) for axes in figure.axes] == [lines] * 2 * len(PANELS)
    assert correlations(loaded, rows)["piqa"] == {"accuracy": None, "gold_bpb": None}


def test_without_an_evaluation_there_is_no_figure_2(runs):
    for name in NAMES:
        shutil.rmtree(runs / name / "evaluations")
    with pytest.raises(DataError, match="no run has been evaluated.*evaluate .*nano-7b --checkpoi"):
        collect(load_runs(runs, "nano"))


@pytest.fixture(scope="module")
def with_seed(trained, tiny_corpus, tmp_path_factory, examine):
    """The four runs, and the smallest trained again with another seed."""
    runs = shutil.copytree(trained, tmp_path_factory.mktemp("seeds") / "runs")
    config = tiny_config(tiny_corpus.folder, runs, name="nano-7b-seed9", tokens=12 * 128, seed=9)
    examine(train(config))
    return runs


def test_the_band_is_the_range_of_the_seeds(with_seed):
    loaded = load_runs(with_seed, "nano")
    seeds = seeds_of(loaded[0], with_seed)
    assert [run.config.seed for run in seeds] == [9]
    rows = collect(loaded, seeds)
    figure = draw_benchmarks_figure(loaded, rows)
    below = figure.axes[len(PANELS) + 1]  # HellaSwag's bits per byte
    pair = [[row["gold_bpb"] for row in rows if (row["run"], row["task"]) == (name, "hellaswag")]
            for name in ("nano-7b", "nano-7b-seed9")]  # fmt: skip
    heights = below.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == np.min(pair) and heights.max() == np.max(pair)
    assert pair[0] != pair[1] and "2 seeds of nano-7b" in figure.get_supxlabel()
    assert correlations(loaded, rows) == correlations(loaded, collect(loaded))  # of the four alone


@pytest.mark.parametrize("spoil", [
    lambda text: text.replace("seed = 9", "seed = 0"),
    lambda text: text.replace("batch_tokens = 128", "batch_tokens = 64"),
])  # fmt: skip
def test_a_run_that_differs_in_more_than_the_seed_is_no_seed(with_seed, tmp_path, spoil):
    runs = shutil.copytree(with_seed, tmp_path / "runs")
    path = runs / "nano-7b-seed9/config.toml"
    assert spoil(path.read_text()) != path.read_text()
    path.write_text(spoil(path.read_text()))
    assert seeds_of(load_runs(runs, "nano")[0], runs) == []


def test_where_no_answer_is_right_the_panel_says_what_that_rules_out(trained):
    loaded = load_runs(trained, "nano")
    rows = [row | {"accuracy": 0.0, "n": 3610} if row["task"] == "natural_questions" else row
            for row in collect(loaded)]  # fmt: skip
    texts = [text.get_text() for text in draw_benchmarks_figure(loaded, rows).axes[2].texts]
    assert texts == ["0 of 3,610 right:\nbelow 0.083%\n(95% sure)"]


def test_a_metric_that_never_changes_has_no_correlation():
    rows = [{"perplexity": 10.0 + i, "accuracy": 0.0, "gold_bpb": 2.0 + i} for i in range(6)]
    assert correlation(rows, "accuracy") is None and correlation(rows[:3], "gold_bpb") is None
    found = correlation(rows, "gold_bpb")
    assert found == {"rho": pytest.approx(1), "low": pytest.approx(1), "high": pytest.approx(1),
                     "n": 6}  # fmt: skip
    table = correlation_table({"piqa": {"accuracy": None, "gold_bpb": found}})
    assert table.splitlines()[-1].split()[:3] == ["PIQA", "flat", "+1.00"]


def test_the_interval_holds_rho_and_narrows_with_more_points():
    rng = np.random.default_rng(0)

    def noisy(n):
        x = rng.normal(size=n)
        return [
            {"perplexity": a, "gold_bpb": a + b} for a, b in zip(x, rng.normal(size=n), strict=True)
        ]

    few, many = correlation(noisy(12), "gold_bpb"), correlation(noisy(200), "gold_bpb")
    for found in (few, many):
        assert found["low"] < found["rho"] < found["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]
    assert module.RESAMPLES >= 1000
