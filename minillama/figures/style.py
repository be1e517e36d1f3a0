"""What the figures share: style, units on axes, labels that keep apart, and the files written."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from minillama.figures.runs import UNITS, Run
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
    size, unit = next(((s, u) for s, u in UNITS if largest >= s), (1, ""))
    return FuncFormatter(lambda value, _: f"{value / size:.3g}{unit}" if value else "0")


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, Run]]) -> None:
    """Name curves at their right ends (x, y); labels of curves that end together keep apart."""
    axes.figure.draw_without_rendering()  # so that heights are known
    for x in {end[0] for end in ends}:
        group = sorted((end for end in ends if end[0] == x), key=lambda end: end[1])
        pixels = [axes.transData.transform((x, y))[1] for _, y, _ in group]
        points = [72 * pixel / axes.figure.dpi for pixel in pixels]
        for (_, y, run), at, to in zip(group, points, apart(points), strict=True):
            axes.annotate(
                run.label, (x, y), xytext=(8, to - at), textcoords="offset points", va="center",
                color=run.style["color"], annotation_clip=False, path_effects=[HALO],
            )  # fmt: skip


def apart(points: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """Sorted heights, moved as little as keeps every two neighbors ``gap`` apart."""
    groups: list[list[float]] = []  # of labels that touch: [sum of wishes for the lowest, count]
    for point in points:
        groups.append([point, 1])
        while len(groups) > 1 and _lowest(groups[-1]) < _lowest(groups[-2]) + gap * groups[-2][1]:
            total, count = groups.pop()
            groups[-1][0] += total - gap * groups[-1][1] * count
            groups[-1][1] += count
    return [_lowest(group) + gap * i for group in groups for i in range(int(group[1]))]


def _lowest(group: list[float]) -> float:
    return group[0] / group[1]


def key(figure: Figure, runs: Sequence[Run], columns: int) -> None:
    """The four runs in a row above the panels, each in its color, dash and marker."""
    lines = [Line2D([], [], **run.style, label=run.label) for run in runs]
    figure.legend(handles=lines, loc="outside upper center", ncols=columns,
                           labelcolor="linecolor", frameon=False, handlelength=2.4,
                           handletextpad=0.4, columnspacing=1.2)  # fmt: skip


def save(
    figure: Figure, rows: list[dict[str, Any]], stem: Path, origin: dict[str, Any]
) -> list[Path]:
    """Write a figure's four files, each whole or not at all."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, for both formats
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg", "csv", "json")]
    for path, metadata in zip(paths[:2], ({"Software": None}, {"Date": None}), strict=True):
        with atomic_path(path) as aside:
            figure.savefig(aside, format=path.suffix[1:], dpi=200, metadata=metadata)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(paths[2], text.getvalue())
    write_json(paths[3], {"figure": stem.name} | origin)
    return paths
