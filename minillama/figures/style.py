"""What the figures share: style, units on axes, legends, and the files written."""

import csv
import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from minillama.figures.runs import UNITS, Rows, Runs
from minillama.files import atomic_path, write_json, write_text

RC = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "svg.hashsalt": "minillama",
}  # fmt: skip
HALO = patheffects.withStroke(linewidth=3, foreground="white")


def one_unit(largest: float) -> FuncFormatter:
    """Ticks of an axis in one unit: 0.5M and 1M rather than 500k and 1M."""
    size, unit = next((pair for pair in UNITS if largest >= pair[0]), (1, ""))
    return FuncFormatter(lambda value, _: f"{value / size:.3g}{unit}" if value else "0")


def add_legend(figure: Figure, runs: Runs, columns: int) -> None:
    """The four runs in a row above the panels, each in its color, dash and marker."""
    figure.legend(
        handles=[Line2D([], [], **run.style, label=run.label) for run in runs],
        loc="outside upper center",
        ncols=columns,
        labelcolor="linecolor",
        frameon=False,
        handlelength=2.4,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def save_figure(figure: Figure, rows: Rows, stem: Path, origin: dict[str, Any]) -> list[Path]:
    """Write a figure's four files, each whole or not at all."""
    png, svg, table, source = (
        stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg", "csv", "json")
    )
    with matplotlib.rc_context(RC):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for both formats
        for path, metadata in ((png, {"Software": None}), (svg, {"Date": None})):
            with atomic_path(path) as tmp:
                figure.savefig(tmp, format=path.suffix[1:], dpi=200, metadata=metadata)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(table, text.getvalue())
    write_json(source, {"figure": stem.name} | origin)
    return [png, svg, table, source]
