"""The figures are drawn from the runs' own numbers, and say what is missing."""

import csv
import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmarks import make_wheel
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from tiny import tiny_config

from minillama import cli
from minillama.analysis import figures as module
from minillama.analysis.figures import apart, figures, load_runs, short, smooth
from minillama.errors import ConfigError, DataError
from minillama.evaluate.run import evaluate
from minillama.train.log import read_metrics
from minillama.train.loop import train

NAMES = ("nano-7b", "nano-13b", "nano-33b", "nano-65b")
STEMS = ("figure1_loss_vs_tokens", "figure2_benchmarks", "inference_budget")


@pytest.fixture(scope="module")
def trained(tiny_corpus, tmp_path_factory):
    """Four real runs, the two larger ones longer, evaluated."""
    package = make_wheel(tmp_path_factory.mktemp("wheel"))
    runs = tmp_path_factory.mktemp("runs")
    for i, name in enumerate(NAMES):
        steps = 12 if i < 2 else 16
        run = train(tiny_config(tiny_corpus.folder, runs, name=name, tokens=steps * 128, seed=i))
        evaluate(run, limit=6, checkpoints="all", **package)
    return runs


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    figures(runs=trained, out=out)
    return out


@pytest.fixture
def runs(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def cut(run, step):
    """As if the run had been stopped after ``step``."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:step]))


@pytest.mark.parametrize("stem", STEMS)
def test_four_files_of_each_figure(drawn, stem):
    assert imread(drawn / f"{stem}.png").shape[1] >= 6.5 * 150  # page width at 150 dpi
    assert ElementTree.parse(drawn / f"{stem}.svg").getroot().tag.endswith("svg")
    assert rows_of(drawn / f"{stem}.csv")
    told = json.loads((drawn / f"{stem}.json").read_text())
    assert told["figure"] == stem and set(told["runs"]) == set(NAMES)
    assert told["command"].startswith("minillama figures --runs ")
    assert len(list(drawn.iterdir())) == 12  # and nothing half-written beside them


def test_figure_1_is_what_was_logged(drawn, trained):
    rows = rows_of(drawn / "figure1_loss_vs_tokens.csv")
    for name in NAMES:
        mine, logged = [row for row in rows if row["run"] == name], read_metrics(trained / name)
        assert [float(row["loss"]) for row in mine] == [line["loss"] for line in logged]
        assert [int(row["tokens"]) for row in mine] == [line["tokens"] for line in logged]


def test_figure_2_is_what_was_evaluated(drawn, trained):
    rows = rows_of(drawn / "figure2_benchmarks.csv")
    expected = []
    for name in NAMES:
        for path in sorted((trained / name / "evaluations").iterdir()):
            told = json.loads(path.read_text())
            perplexity = np.exp(told["valid_loss"])
            for task, result in told["tasks"].items():
                expected.append((name, told["step"], task, result["accuracy"], result["se"],
                                 pytest.approx(perplexity)))  # fmt: skip
    found = [(row["run"], int(row["step"]), row["task"], float(row["accuracy"]), float(row["se"]),
              float(row["perplexity"])) for row in rows]  # fmt: skip
    assert found == expected and len(found) == 4 * 2 * 3


def test_the_curves_are_the_numbers_of_the_csv(trained, drawn):
    figure, rows = module.loss_vs_tokens(load_runs(trained, "nano"))
    curves = [line.get_ydata() for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 1]
    for i, name in enumerate(NAMES):
        mine = [row for row in rows if row["run"] == name]
        np.testing.assert_array_equal(curves[2 * i], [row["loss"] for row in mine])
        np.testing.assert_array_equal(curves[2 * i + 1], [row["loss_smoothed"] for row in mine])
    stored = rows_of(drawn / "figure1_loss_vs_tokens.csv")
    assert [{key: str(value) for key, value in row.items()} for row in rows] == stored


def test_the_window_is_said_on_the_axis(trained):
    figure, rows = module.loss_vs_tokens(load_runs(trained, "nano"))
    tokens = module.WINDOW * 16 * 128
    assert f"mean over {short(tokens)} tokens" in figure.axes[0].get_ylabel()
    assert {row["window_steps"] for row in rows} == {max(1, round(tokens / 128))}


def test_nothing_is_smaller_than_nine_points(trained):
    from matplotlib.text import Text

    with module.matplotlib.rc_context(module.RC):
        for draw in (module.loss_vs_tokens, module.benchmarks):
            figure, _ = draw(load_runs(trained, "nano"))
            figure.draw_without_rendering()
            sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
            assert min(sizes) >= 9


def test_the_command_line_draws_the_same_again(trained, drawn, tmp_path, capsys):
    cli.run(["figures", "--runs", str(trained), "--out", str(tmp_path)])
    assert f"wrote {tmp_path / 'figure2_benchmarks.png'}" in capsys.readouterr().out
    for path in drawn.iterdir():
        assert path.suffix == ".json" or (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_an_unfinished_run_is_drawn_and_said_to_be(runs):
    cut(runs / "nano-65b", 4)
    loaded = load_runs(runs, "nano")
    figure, rows = module.loss_vs_tokens(loaded)
    assert sum(row["run"] == "nano-65b" for row in rows) == 4
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert [label.startswith("nano-65b, ") for label in labels].count(True) == 1
    assert [label.endswith(" (25% done)") for label in labels].count(True) == 1


def test_one_step_of_each_run_is_enough(runs, tmp_path):
    for name in NAMES:
        cut(runs / name, 1)
    loaded = load_runs(runs, "nano")
    assert len(module.loss_vs_tokens(loaded)[1]) == 4
    figure, rows = module.benchmarks(loaded)
    figure.draw_without_rendering()
    assert len(rows) == 4 * 3  # the questions asked after step 1


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
    _, rows = module.benchmarks(loaded)
    assert module.common_limit(loaded) == drawn and len(rows) == 4 * 2 * 3
    assert {row["n"] for row in rows} == {drawn or 12}


def test_a_ladder_that_is_half_evaluated_is_drawn_with_one_limit(runs):
    for name in NAMES:
        add_limit(runs / name, None)
    for name, gone in (("7b", "step-????????.json"), ("33b", "*"), ("65b", "*.limit-6.json")):
        for path in list((runs / f"nano-{name}/evaluations").glob(gone)):
            path.unlink()
    _, rows = module.benchmarks(load_runs(runs, "nano"))
    assert {row["run"] for row in rows} == {"nano-13b", "nano-65b"}
    assert {row["n"] for row in rows} == {12}


def test_results_of_an_earlier_training_are_left_out(runs):
    lines = read_metrics(runs / "nano-7b")
    lines[-1]["valid_loss"] += 0.25
    (runs / "nano-7b/metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    _, rows = module.benchmarks(load_runs(runs, "nano"))
    assert {row["step"] for row in rows if row["run"] == "nano-7b"} == {1}
    assert {row["step"] for row in rows if row["run"] == "nano-13b"} == {1, 12}


def test_a_checkpoint_without_a_perplexity_is_left_out_of_those_panels(runs):
    for name in NAMES:
        lines = read_metrics(runs / name)
        for line in lines:
            line.pop("valid_loss", None)
        (runs / name / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        for path in (runs / name / "evaluations").iterdir():
            told = json.loads(path.read_text()) | {"valid_loss": None, "perplexity": None}
            path.write_text(json.dumps(told))
    figure, rows = module.benchmarks(load_runs(runs, "nano"))
    figure.draw_without_rendering()
    curves = [[line for line in axes.get_lines() if line.get_marker() != "None"]
              for axes in figure.axes]  # fmt: skip
    drawn = [sum(len(line.get_xdata()) == 2 for line in lines) for lines in curves]
    assert len(rows) == 4 * 2 * 3 and drawn == [4, 4, 4] + [0] * 6


def test_missing_runs_are_named(runs, tmp_path):
    shutil.rmtree(runs / "nano-33b")
    (runs / "nano-65b" / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="no run nano-33b, nano-65b.*--preset nano-33b.*nano-65b"):
        figures(runs=runs, out=tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_without_evaluations_figure_1_is_written_all_the_same(runs, tmp_path):
    for name in NAMES:
        shutil.rmtree(runs / name / "evaluations")
    with pytest.raises(DataError, match="no run has been evaluated.*evaluate .*nano-7b --checkpoi"):
        figures(runs=runs, out=tmp_path)
    assert {path.stem for path in tmp_path.glob("figure*")} == {"figure1_loss_vs_tokens"}


def test_an_unknown_ladder_suggests_the_nearest(runs):
    with pytest.raises(ConfigError, match="unknown ladder 'nanno'. Did you mean 'nano'"):
        figures(runs=runs, ladder="nanno")


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.integers(1, 15))
def test_smoothing_is_the_mean_of_the_steps_around(values, window):
    expected = [
        np.mean(values[max(0, i - window // 2) : i + (window + 1) // 2]) for i in range(len(values))
    ]
    np.testing.assert_allclose(smooth(np.array(values), window), expected, atol=1e-9)


@given(st.lists(st.floats(0, 100), max_size=6).map(sorted))
def test_labels_keep_apart_and_in_order(points):
    moved = apart(points, 10)
    assert all(b - a >= 10 - 1e-9 for a, b in zip(moved, moved[1:], strict=False))
    assert sum(moved) == pytest.approx(sum(points))  # as much up as down
    if all(b - a >= 10 for a, b in zip(points, points[1:], strict=False)):
        assert moved == pytest.approx(points)


@pytest.mark.parametrize(
    "number, text",
    [(161_000, "0.161M"), (1_513_600, "1.51M"), (6.74e9, "6.74B"), (1.4e12, "1.4T"), (640, "0.64k"),
     (7, "7")],
)  # fmt: skip
def test_short_numbers(number, text):
    assert short(number) == text
