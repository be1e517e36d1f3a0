"""What the figures share: style, units on axes, labels that keep apart, and the files written."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from scipy.optimize import isotonic_regression

from minillama.figures.runs import UNITS, Rows, Run, Runs
from minillama.files import atomic_path, write_json, write_text

RC = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "svg.hashsalt": "minillama",
}  # fmt: skip
HALO = patheffects.withStroke(linewidth=3, foreground="white")
LABEL_GAP = 11.5
"""Least distance of two labels, in points."""


def one_unit(largest: float) -> FuncFormatter:
    """Ticks of an axis in one unit: 0.5M and 1M rather than 500k and 1M."""
    size, unit = next((pair for pair in UNITS if largest >= pair[0]), (1, ""))
    return FuncFormatter(lambda value, _: f"{value / size:.3g}{unit}" if value else "0")


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, Run]]) -> None:
    """Name curves at their right ends (x, y); labels of curves that end together keep apart."""
    axes.figure.draw_without_rendering()  # so that heights are known
    for x in {end[0] for end in ends}:
        group = [end for end in ends if end[0] == x]
        group.sort(key=lambda end: end[1])
        # Heights in points, before and after.
        pixels = axes.transData.transform([end[:2] for end in group])
        heights = 72 * pixels[:, 1] / axes.figure.dpi
        moved = spread(heights, [0] * len(group), LABEL_GAP)
        for (_, y, run), shift in zip(group, moved - heights, strict=True):
            look = {"color": run.style["color"], "path_effects": [HALO], "annotation_clip": False}
            place = {"xytext": (8, shift), "textcoords": "offset points", "va": "center"}
            axes.annotate(run.label, (x, y), **place, **look)


def spread(
    centers: Sequence[float],
    widths: Sequence[float],
    gap: float,
    low: float = -np.inf,
    high: float = np.inf,
) -> np.ndarray:
    """Move labels in a row as little as keeps every two neighbors ``gap`` apart.

    The labels have sorted ``centers`` and ``widths``; they stay between ``low`` and ``high``, or
    begin below where there is no room for all. Returns their centers.
    """
    sizes = np.asarray(widths, dtype=float)
    if not len(sizes):
        return sizes
    # Less the room of the labels before it, a label's place must not decrease.
    half = sizes / 2
    room = np.zeros(len(sizes))
    room[1:] = np.cumsum(half[:-1] + half[1:] + gap)
    places = isotonic_regression(centers - room).x
    # The first and the last stay on the page.
    places = np.maximum(places, low + half[0])
    places = np.minimum(places, high - half[-1] - room[-1])
    return places + room


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
