"""The further row of Figure 2 is what was evaluated, and each point of grammar has its line."""

import csv

import matplotlib
import pytest
from benchmarks import make_wheel
from matplotlib.text import Text

from minillama.apps.evaluate import evaluate
from minillama.evaluate.scoring import read_record
from minillama.figures.benchmarks import PANELS, collect
from minillama.figures.draw import draw_figures
from minillama.figures.runs import load_runs
from minillama.figures.small_models import (
    SMALL_PANELS,
    draw_small_models_figure,
    phenomenon_rows,
)
from minillama.figures.style import RC

STEM = "figure2_small_models"


@pytest.fixture
def examined(runs, tmp_path):
    """The runs, asked six questions of each further benchmark too; the smallest is left out."""
    package = make_wheel(tmp_path / "wheel")
    for name in ("nano-13b", "nano-33b", "nano-65b"):
        evaluate(runs / name, SMALL_PANELS, limit=6, checkpoints="all", **package)
    return runs


def last_result(run):
    record = read_record(max((run / "evaluations").glob("step-*.json")))
    return record["step"], record["tasks"]["minimal_pairs"]


def test_the_rows_are_what_was_evaluated(examined, tmp_path):
    draw_figures(runs=examined, out=tmp_path / "figures")
    with open(tmp_path / "figures" / f"{STEM}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    records = {}
    for name in ("nano-13b", "nano-33b", "nano-65b"):
        for path in (examined / name / "evaluations").glob("step-*.json"):
            record = read_record(path)
            for task in SMALL_PANELS:
                key = name, str(record["step"]), task
                records[key] = str(record["tasks"][task]["accuracy"])
        step, result = last_result(examined / name)
        assert len(result["groups"]) == 6  # questions, spread over all phenomena
        for phenomenon, group in result["groups"].items():
            key = name, str(step), f"minimal_pairs: {phenomenon}"
            records[key] = str(group["accuracy"])
    found = {(row["run"], row["step"], row["task"]): row["accuracy"] for row in rows}
    assert found == records and len(found) == len(rows)
    with open(tmp_path / "figures" / "figure2_benchmarks.csv", newline="") as file:
        assert {row["task"] for row in csv.DictReader(file)} == set(PANELS)


def test_a_line_for_each_phenomenon(examined):
    loaded = load_runs(examined, "nano")
    with matplotlib.rc_context(RC):
        figure, _ = draw_small_models_figure(loaded, collect(loaded, tasks=SMALL_PANELS))
        figure.draw_without_rendering()
    axes = figure.axes[-1]
    step, result = last_result(examined / "nano-65b")
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert set(names) == set(result["groups"])
    drawn = {line.get_marker(): line for line in axes.get_lines()}
    largest, null = drawn[loaded[-1].style["marker"]], drawn["X"]
    groups = result["null"]["groups"]
    for line, expected in ((largest, result["groups"]), (null, groups)):
        values = dict(zip(line.get_ydata().round().astype(int), line.get_xdata(), strict=True))
        for height, name in enumerate(names):
            assert values[height] == 100 * expected[name]["accuracy"]
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 9
    steps = [run.config.total_steps for run in loaded[1:] for _ in names]
    assert [row["step"] for row in phenomenon_rows(loaded)] == steps and steps[-1] == step


def test_without_such_evaluations_it_is_left_out(trained, tmp_path):
    draw_figures(runs=trained, out=tmp_path)
    assert not list(tmp_path.glob(f"{STEM}.*"))
