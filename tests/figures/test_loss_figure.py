"""Figure 1 is what was logged, smoothed over the window that its axis names."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillama.figures.draw import draw_figures
from minillama.figures.loss import WINDOW, draw_loss_figure, smooth
from minillama.figures.runs import load_runs, short
from minillama.train.log import read_metrics

NAMES = ("nano-7b", "nano-13b", "nano-33b", "nano-65b")


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    draw_figures(runs=trained, out=out)
    return out


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def cut(run, step):
    """As if the run had been stopped after ``step``."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:step]))


def test_figure_1_is_what_was_logged(drawn, trained):
    rows = rows_of(drawn / "figure1_loss_vs_tokens.csv")
    for name in NAMES:
        mine, logged = [row for row in rows if row["run"] == name], read_metrics(trained / name)
        assert [float(row["loss"]) for row in mine] == [line["loss"] for line in logged]
        assert [int(row["tokens"]) for row in mine] == [line["tokens"] for line in logged]


def test_the_curves_are_the_numbers_of_the_csv(trained, drawn):
    figure, rows = draw_loss_figure(load_runs(trained, "nano"))
    curves = [line.get_ydata() for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 1]
    for i, name in enumerate(NAMES):
        mine = [row for row in rows if row["run"] == name]
        np.testing.assert_array_equal(curves[2 * i], [row["loss"] for row in mine])
        np.testing.assert_array_equal(curves[2 * i + 1], [row["loss_smoothed"] for row in mine])
    stored = rows_of(drawn / "figure1_loss_vs_tokens.csv")
    assert [{key: str(value) for key, value in row.items()} for row in rows] == stored


def test_the_window_is_said_on_the_axis(trained):
    figure, rows = draw_loss_figure(load_runs(trained, "nano"))
    tokens = WINDOW * 16 * 128
    assert f"mean over {short(tokens)} tokens" in figure.axes[0].get_ylabel()
    assert {row["window_steps"] for row in rows} == {max(1, round(tokens / 128))}


def test_an_unfinished_run_is_drawn_and_said_to_be(runs):
    cut(runs / "nano-65b", 4)
    loaded = load_runs(runs, "nano")
    figure, rows = draw_loss_figure(loaded)
    assert sum(row["run"] == "nano-65b" for row in rows) == 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.startswith("nano-65b, ") for label in labels].count(True) == 1
    assert [label.endswith(" (25% done)") for label in labels].count(True) == 1


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.integers(1, 15))
def test_smoothing_is_the_mean_of_the_steps_around(values, window):
    expected = [
        np.mean(values[max(0, i - window // 2) : i + (window + 1) // 2]) for i in range(len(values))
    ]
    np.testing.assert_allclose(smooth(np.array(values), window), expected, atol=1e-9)


@pytest.mark.parametrize(
    "number, text",
    [(161_000, "0.161M"), (1_513_600, "1.51M"), (6.74e9, "6.74B"), (1.4e12, "1.4T"), (640, "0.64k"),
     (7, "7")],
)  # fmt: skip
def test_short_numbers(number, text):
    assert short(number) == text
