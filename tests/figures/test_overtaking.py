"""Where a curve passes below another, and the figure that marks it."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from minillama.figures.draw import draw_figures
from minillama.figures.overtaking import (
    RIVALS,
    crossings_table,
    draw_overtaking_figure,
    find_crossing,
    find_crossings,
    read_rivals,
    read_validation,
)
from minillama.figures.runs import load_runs
from minillama.files import write_json

COUNTED = "nano-5gram.json"


def curve(points):
    tokens, bpb = zip(*points, strict=True)
    return np.array(tokens), np.array(bpb, dtype=float)


def test_a_crossing_lies_on_both_lines():
    """Over log(tokens): 4 - x against 3 - x / 2 cross at x = 2."""
    tokens = np.exp(np.arange(5))
    own, rival = (tokens, 4 - np.arange(5.0)), (tokens[::2], 3 - np.arange(0, 5, 2) / 2)
    assert find_crossing(own, rival) == pytest.approx((np.exp(2), 2.0))
    # The rival's points lie elsewhere.
    shifted = np.exp(np.array([0.3, 1.1, 3.7])), 3 - np.array([0.3, 1.1, 3.7]) / 2
    assert find_crossing(own, shifted) == pytest.approx((np.exp(2), 2.0))


@pytest.mark.parametrize(
    ("own", "rival", "expected"),
    [
        ([(1, 5), (10, 4)], [(1, 3), (10, 2)], None),  # never
        ([(1, 2), (10, 1)], [(1, 3), (10, 2)], (1, 2)),  # from the beginning
        ([(1, 2), (10, 4), (100, 1)], [(1, 3), (100, 3)], (10 ** (4 / 3), 3)),  # for good
        ([(1, 4), (100, 2)], [(5_000, 3)], (10, 3)),  # one point is a line across
        ([(1, 4), (100, 3)], [(5_000, 3)], None),  # a tie is not ahead
        ([(1, 4), (10, 2)], [(20, 3), (40, 3)], None),  # nowhere both
    ],
)
def test_when_a_curve_is_ahead_for_good(own, rival, expected):
    found = find_crossing(curve(own), curve(rival))
    assert found == (None if expected is None else pytest.approx(expected))


def test_the_figure_marks_where_runs_overtake(trained):
    """With a rival between the first and the last bits per byte of each run."""
    loaded = load_runs(trained, "nano")
    rivals = read_rivals(trained / COUNTED)
    ends = [read_validation(run)[1][[0, -1]] for run in loaded]
    height = (max(end for _, end in ends) + min(start for start, _ in ends)) / 2
    rivals["curve"] = rivals["curve"][0], np.full(len(rivals["curve"][0]), height)
    rivals["all"] = rivals["all"][0], np.array([height])
    figure, rows = draw_overtaking_figure(loaded, rivals)
    rings = [line for line in figure.axes[0].get_lines() if line.get_markersize() == 10]
    found = find_crossings(loaded, rivals)
    assert len(rings) == len(loaded)
    for ring, row, run in zip(rings, found, loaded, strict=True):
        assert round(ring.get_xdata()[0]) == row["overtakes_curve_at"]
        tokens, bpb = read_validation(run)
        assert tokens[0] < row["overtakes_all_at"] < tokens[-1] == row["tokens"]
        assert row["ahead_of_all"] == pytest.approx(1 - bpb[-1] / height) and bpb[-1] == row["bpb"]
    assert {row["model"] for row in rows} == {run.folder.name for run in loaded} | {
        *RIVALS.values()
    }
    table = crossings_table(found).splitlines()
    assert [line.split()[0] for line in table[1:]] == [run.folder.name for run in loaded]


def test_a_run_that_has_just_begun_has_no_curve(trained):
    loaded = load_runs(trained, "nano")
    rivals = read_rivals(trained / COUNTED)
    steps = [{key: row[key] for key in ("step", "tokens", "loss")} for row in loaded[0].metrics]
    runs = [replace(loaded[0], metrics=steps[:1]), *loaded[1:]]
    found = find_crossings(runs, rivals)
    assert found == find_crossings(loaded[1:], rivals)
    _, rows = draw_overtaking_figure(runs, rivals)
    assert loaded[0].folder.name not in {row["model"] for row in rows}


def test_the_files_hold_the_logs_and_the_counts(trained, tmp_path):
    printed = draw_figures(runs=trained, out=tmp_path)
    with open(tmp_path / "overtaking.csv", newline="") as file:
        rows = [
            (row["model"], int(row["tokens"]), float(row["bpb"])) for row in csv.DictReader(file)
        ]
    counted = json.loads((trained / COUNTED).read_text())
    expected = [(RIVALS["curve"], line["tokens"], line["bpb"]) for line in counted["curve"]]
    expected += [(RIVALS[k], counted[k]["tokens"], counted[k]["bpb"]) for k in ("all", "bytes")]
    loaded = load_runs(trained, "nano")
    for run in loaded:
        expected += [(run.folder.name, *pair) for pair in zip(*read_validation(run), strict=True)]
    assert rows == expected
    crossings = json.loads((tmp_path / "overtaking.json").read_text())["crossings"]
    assert [row["run"] for row in crossings] == [run.folder.name for run in loaded]
    assert "tokens read to overtake" in printed


def test_without_counts_it_is_left_out(runs, tmp_path):
    assert read_rivals(tmp_path / COUNTED) is None
    write_json(runs / COUNTED, {"all": {"bpb": 2.0}})  # as an older version wrote it
    printed = draw_figures(runs=runs, out=tmp_path)
    assert "overtaking is not drawn" in printed and not (tmp_path / "overtaking.png").exists()
