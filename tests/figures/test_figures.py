"""All figures are drawn by one command, which says what is missing."""

import csv
import json
import shutil
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from minillama.apps import cli
from minillama.errors import ConfigError, DataError
from minillama.figures.benchmarks import collect, draw_benchmarks_figure
from minillama.figures.draw import draw_figures
from minillama.figures.loss import draw_loss_figure
from minillama.figures.overtaking import draw_overtaking_figure, read_rivals
from minillama.figures.runs import load_runs
from minillama.figures.style import RC

NAMES = ("nano-7b", "nano-13b", "nano-33b", "nano-65b")
STEMS = ("figure1_loss_vs_tokens", "overtaking", "figure2_benchmarks", "figure2_perplexity")


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    draw_figures(runs=trained, out=out)
    return out


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("stem", STEMS)
def test_four_files_of_each_figure(drawn, stem):
    assert imread(drawn / f"{stem}.png").shape[1] >= 6.5 * 150  # page width at 150 dpi
    assert ElementTree.parse(drawn / f"{stem}.svg").getroot().tag.endswith("svg")
    assert rows_of(drawn / f"{stem}.csv")
    told = json.loads((drawn / f"{stem}.json").read_text())
    assert told["figure"] == stem and set(told["runs"]) == set(NAMES)
    assert told["command"].startswith("minillama figures --runs ")
    files = {f"{name}.{kind}" for name in (*STEMS, "data_waterfall")
             for kind in ("png", "svg", "csv", "json")}  # fmt: skip
    assert {path.name for path in drawn.iterdir()} == files  # and nothing half-written beside them


def test_nothing_is_smaller_than_nine_points(trained):
    loaded = load_runs(trained, "nano")
    rows = collect(loaded)
    with matplotlib.rc_context(RC):
        drawn = [draw_loss_figure(loaded)[0]]
        drawn.append(draw_overtaking_figure(loaded, read_rivals(trained / "nano-5gram.json"))[0])
        drawn += [draw_benchmarks_figure(loaded, rows, x) for x in ("tokens", "perplexity")]
        for figure in drawn:
            figure.draw_without_rendering()
            sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
            assert min(sizes) >= 9


def test_the_command_line_draws_the_same_again(trained, drawn, tmp_path, capsys):
    cli.run(["figures", "--runs", str(trained), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'figure2_benchmarks.png'}" in printed
    assert "inference_budget is not drawn" in printed  # there is one run of each size
    for path in drawn.iterdir():
        assert path.suffix == ".json" or (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_missing_runs_are_named(runs, tmp_path):
    shutil.rmtree(runs / "nano-33b")
    (runs / "nano-65b" / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="no run nano-33b, nano-65b.*--preset nano-33b.*nano-65b"):
        draw_figures(runs=runs, out=tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_without_evaluations_figure_1_is_written_all_the_same(runs, tmp_path):
    for name in NAMES:
        shutil.rmtree(runs / name / "evaluations")
    with pytest.raises(DataError, match="no run has been evaluated.*evaluate .*nano-7b --checkpoi"):
        draw_figures(runs=runs, out=tmp_path)
    assert {path.stem for path in tmp_path.glob("*.*")} == {*STEMS[:2], "data_waterfall"}


def test_an_unknown_ladder_suggests_the_nearest(runs):
    with pytest.raises(ConfigError, match="unknown ladder 'nanno'. Did you mean 'nano'"):
        draw_figures(runs=runs, ladder="nanno")
