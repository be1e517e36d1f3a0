"""Memory of attention over its length, or of a block's backwards over its width (Section 2.4).

Drawn from what ``minillama bench attention`` and ``minillama bench block`` have measured.
"""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from minillama.figures.runs import Rows
from minillama.figures.style import RC

LOOKS = (
    {"color": "#000000", "marker": "D", "linestyle": "-", "linewidth": 3.2, "markersize": 8},
    {"color": "#56B4E9", "marker": "s", "linestyle": (0, (4, 1, 1, 1))},
    {"color": "#E69F00", "marker": "o", "linestyle": (0, (1, 1))},
    {"color": "#0072B2", "marker": "v", "linestyle": (0, (5, 1))},
    {"color": "#009E73", "marker": "^", "linestyle": "-"},
)
"""Okabe and Ito's colors; the first, with which the others are compared, shows below the others."""
PANELS = (
    ("peak", 1e6, "(a) Peak of a step", "MB above inputs and weights"),
    ("saved", 1e6, "(b) Kept for the backward", "MB, the output among them"),
    ("slower", 1, "(c) Time of a step", "Times that of the first"),
)
LABELS = {"seq_len": "Sequence length T", "width": "Width"}


def draw_memory_figure(rows: Rows, x: str) -> Figure:
    """Peak and saved bytes, and relative time, over ``x``, a column of ``LABELS``."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, (column, unit, title, label) in zip(panels, PANELS, strict=True):
            draw_contestants(axes, rows, x, column, unit)
            axes.set_title(title)
            axes.set_xlabel(LABELS[x])
            axes.set_ylabel(label)
        for axes in panels[:2]:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=5, frameon=False)
    return figure


def draw_contestants(axes: Axes, rows: Rows, x: str, column: str, unit: float) -> None:
    """One curve for each contestant over a logarithmic axis."""
    names = dict.fromkeys(row["name"] for row in rows)
    for name, look in zip(names, LOOKS, strict=False):
        curve = [row for row in rows if row["name"] == name]
        sizes = [row[x] for row in curve]
        values = [row[column] / unit for row in curve]
        axes.plot(sizes, values, label=name, **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row[x] for row in rows}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
