"""Figures 1 and 2, drawn from run folders.

Each is written as png, svg, csv (the numbers drawn) and json (where they come from). The four sizes
keep one colour, dash and marker everywhere; the colours are Okabe and Ito's for colour-blind
readers, ordered from light to dark, so that a grey print tells them apart too.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from minillama.analysis.provenance import provenance
from minillama.errors import ConfigError, DataError, nearest
from minillama.evaluate.tasks import TASKS
from minillama.files import atomic_path, read_json, write_json, write_text
from minillama.paper import PARAMETERS
from minillama.train.config import TrainConfig, read_config
from minillama.train.log import read_metrics

LADDERS = {"nano": "nano-", "mini": "mini-", "full": ""}
STYLES: dict[str, dict[str, Any]] = {
    "7b": {"color": "#E69F00", "marker": "o", "linestyle": (0, (1, 1))},
    "13b": {"color": "#009E73", "marker": "s", "linestyle": (0, (4, 1, 1, 1))},
    "33b": {"color": "#0072B2", "marker": "^", "linestyle": (0, (5, 1))},
    "65b": {"color": "#000000", "marker": "D", "linestyle": "-"},
}
RC = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "svg.hashsalt": "minillama",
}  # fmt: skip
WINDOW = 0.04
"""Smoothing window: this share of the longest run's tokens."""
TRANSIENT = 0.05
"""The frame of Figure 1 is set by the curves after this share of the longest run."""
ROW_LABELS = ("Accuracy (%)", "Accuracy (%)", "Right answers (bits per byte)")
NOTE = "Dashes: chance. Grey: where 95% of guessing models fall. Bars: one standard error."
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
HALO = patheffects.withStroke(linewidth=3, foreground="white")
LABEL_GAP = 11.5
"""Least distance of two labels, in points."""


@dataclass(frozen=True)
class Run:
    """One rung of a ladder, finished or not."""

    rung: str
    folder: Path
    config: TrainConfig
    metrics: list[dict[str, Any]]

    @property
    def style(self) -> dict[str, Any]:
        """Colour, dash and marker."""
        return STYLES[self.rung]

    @property
    def label(self) -> str:
        """Name, parameters, and what is done of an unfinished run: ``nano-7b, 0.16M (9% done)``."""
        done = self.metrics[-1]["step"] / self.config.total_steps
        progress = "" if done >= 1 else f" ({100 * done:.0f}% done)"
        return f"{self.folder.name}, {short(self.config.model.num_parameters())}{progress}"

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """What ``minillama evaluate`` has written, with whatever limit, in step order.

        Left out is what was measured on an earlier training in the same folder.
        """
        logged = {line["step"]: line.get("valid_loss") for line in self.metrics}
        paths = sorted(self.folder.glob("evaluations/step-*.json"))
        return [
            record for record in map(read_json, paths)
            if logged.get(record["step"], "no such step") == record["valid_loss"]
        ]  # fmt: skip

    def column(self, key: str) -> np.ndarray:
        """One quantity over all steps."""
        return np.array([line[key] for line in self.metrics], dtype=np.float64)


def short(number: float) -> str:
    """At most three digits and a unit: ``0.161M``, ``1.51M``, ``32.5B``."""
    size, unit = next(((s, u) for s, u in UNITS if number >= s / 10), (1, ""))
    return f"{number / size:.3g}{unit}"


def figures(runs: Path = Path("runs"), ladder: str = "nano", out: Path = Path("figures")) -> str:
    """Draw Figures 1 and 2, and the inference budget, from the runs of a ladder, finished or not.

    Args:
        runs: where the run folders are.
        ladder: nano, mini or full.
        out: where the figures go.

    Raises:
        ConfigError: an unknown ladder.
        DataError: a run or all evaluations are missing; the message says what to run. Figure 1
            and the inference budget need no evaluations and are written first.
    """
    from minillama.analysis.inference_figure import inference_budget  # which draws with this module

    loaded = load_runs(runs, ladder)
    command = ["minillama", "figures", "--runs", str(runs), "--ladder", ladder, "--out", str(out)]
    origin = provenance(command, {run.folder.name: run.folder for run in loaded})
    with matplotlib.rc_context(RC):
        figure, rows = loss_vs_tokens(loaded)
        written = save(figure, rows, out / "figure1_loss_vs_tokens", origin)
        if (budget := inference_budget(loaded)) is not None:
            figure, rows, used = budget
            origin_of_all = provenance(command, {run.folder.name: run.folder for run in used})
            written += save(figure, rows, out / "inference_budget", origin_of_all)
        figure, rows = benchmarks(loaded)
        written += save(figure, rows, out / "figure2_benchmarks", origin)
    return "\n".join(f"wrote {path}" for path in written)


def load_runs(runs: Path, ladder: str) -> list[Run]:
    """The four runs, smallest first. Raises as ``figures`` does."""
    if ladder not in LADDERS:
        raise ConfigError(f"unknown ladder '{ladder}'", nearest(ladder, LADDERS))
    names = {rung: f"{LADDERS[ladder]}{rung}" for rung in PARAMETERS}
    missing = [name for name in names.values() if not _started(runs / name)]
    if missing:
        commands = ", ".join(f"`minillama train --preset {name}`" for name in missing)
        raise DataError(f"{runs} has no run {', '.join(missing)}", f"run {commands}")
    return [
        Run(rung, runs / name, read_config(runs / name / "config.toml"), read_metrics(runs / name))
        for rung, name in names.items()
    ]


def _started(run: Path) -> bool:
    return (run / "metrics.jsonl").exists() and bool(read_metrics(run))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the ``window`` steps around each step; of those that exist, at both ends."""
    sums = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    at = np.arange(len(values))
    begin = np.maximum(at - window // 2, 0)
    end = np.minimum(at + (window + 1) // 2, len(values))
    return (sums[end] - sums[begin]) / (end - begin)


def loss_vs_tokens(runs: Sequence[Run]) -> tuple[Figure, list[dict[str, Any]]]:
    """Figure 1: training loss over tokens. Returns the figure and a row for each step."""
    longest = max(run.config.total_steps * run.config.batch_tokens for run in runs)
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    rows, settled, ends = [], [], []
    for run in runs:
        mine = loss_rows(run, WINDOW * longest)
        rows += mine
        tokens = run.column("tokens")
        mean = np.array([row["loss_smoothed"] for row in mine])
        draw_loss(axes, run, tokens, mean)
        late = tokens >= TRANSIENT * longest
        settled.append(mean[late] if late.any() else mean)
        ends.append((tokens[-1], mean[-1], run))
    low, high = min(map(np.min, settled)), max(map(np.max, settled))
    axes.set_ylim(low - 0.08 * (high - low), high + 0.04 * (high - low))
    axes.set_xlim(0, longest)
    axes.xaxis.set_major_formatter(one_unit(longest))
    axes.set_xlabel("Training tokens")
    axes.set_ylabel(f"Training loss (nats per token),\nmean over {short(WINDOW * longest)} tokens")
    label_ends(axes, ends)
    return figure, rows


def loss_rows(run: Run, window_tokens: float) -> list[dict[str, Any]]:
    """What Figure 1 draws of a run: a row for each step."""
    window = max(1, round(window_tokens / run.config.batch_tokens))
    return [
        {"run": run.folder.name, "parameters": run.config.model.num_parameters(),
         "step": line["step"], "tokens": line["tokens"], "loss": line["loss"],
         "loss_smoothed": float(mean), "window_steps": window}
        for line, mean in zip(run.metrics, smooth(run.column("loss"), window), strict=True)
    ]  # fmt: skip


def draw_loss(axes: Axes, run: Run, tokens: np.ndarray, mean: np.ndarray) -> None:
    """The curve as it was logged, faint, and its moving mean, with a marker at the end."""
    color, marker = run.style["color"], run.style["marker"]
    axes.plot(tokens, run.column("loss"), color=color, alpha=0.1, linewidth=0.5, zorder=2)
    axes.plot(tokens, mean, color=color, linestyle=run.style["linestyle"], linewidth=1.6,
              path_effects=[HALO], zorder=3)  # fmt: skip
    axes.plot(tokens[-1], mean[-1], color=color, marker=marker, markersize=5, clip_on=False,
              zorder=4)  # fmt: skip


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
    """Sorted heights, moved as little as keeps every two neighbours ``gap`` apart."""
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


def benchmarks(runs: Sequence[Run]) -> tuple[Figure, list[dict[str, Any]]]:
    """Figure 2: benchmarks during training. Returns the figure and a row for each point.

    One column for each benchmark; rows: accuracy over tokens, accuracy over validation perplexity,
    and bits per byte of the right answers over perplexity. All runs were asked the same questions.
    """
    limit = common_limit(runs)
    rows = [row for run in runs for row in benchmark_rows(run, limit)]
    if not rows:
        commands = ", ".join(f"`minillama evaluate {run.folder} --checkpoints all`" for run in runs)
        raise DataError("no run has been evaluated, so there is no Figure 2", f"run {commands}")
    names = [name for name in TASKS if any(row["task"] == name for row in rows)]
    figure = Figure(figsize=(max(4.6, 2.35 * len(names)), 7.0), layout="constrained")
    grid = figure.subplots(3, len(names), squeeze=False)
    for column, name in enumerate(names):
        mine = [row for row in rows if row["task"] == name]
        top, middle, bottom = grid[:, column]
        middle.sharey(top)
        top.set_title(TASKS[name].label)
        draw_panel(top, runs, mine, "tokens", "accuracy")
        draw_panel(middle, runs, mine, "perplexity", "accuracy")
        draw_panel(bottom, runs, mine, "perplexity", "gold_bpb")
    for axes, text in zip(grid[:, 0], ROW_LABELS, strict=True):
        axes.set_ylabel(text)
    figure.supxlabel(NOTE, fontsize=9, color="#555555")
    figure.align_ylabels(grid[:, 0])
    narrow = len(names) < 3 or sum(len(run.label) for run in runs) > 72
    key(figure, runs, columns=2 if narrow else 4)
    return figure, rows


def key(figure: Figure, runs: Sequence[Run], columns: int) -> None:
    """The four runs in a row above the panels, each in its colour, dash and marker."""
    lines = [Line2D([], [], **run.style, label=run.label) for run in runs]
    figure.legend(handles=lines, loc="outside upper center", ncols=columns,
                           labelcolor="linecolor", frameon=False, handlelength=2.4,
                           handletextpad=0.4, columnspacing=1.2)  # fmt: skip


def common_limit(runs: Sequence[Run]) -> int | None:
    """How many questions per benchmark (None: all) the evaluations that Figure 2 draws were asked.

    The number that most runs share; of those, the one with the most checkpoints; then the largest.
    """
    asked = [Counter(record["settings"]["limit"] for record in run.evaluations) for run in runs]

    def rank(limit: int | None) -> tuple[int, int, float]:
        counts = [limits[limit] for limits in asked if limit in limits]
        return len(counts), sum(counts), math.inf if limit is None else limit

    return max(set().union(*asked), key=rank, default=None)


def benchmark_rows(run: Run, limit: int | None) -> list[dict[str, Any]]:
    """What Figure 2 draws of a run: a row for each task and checkpoint scored with ``limit``."""
    return [
        {"run": run.folder.name, "parameters": run.config.model.num_parameters(),
         "step": record["step"], "tokens": record["tokens"], "perplexity": record["perplexity"],
         "task": name, "accuracy": result["accuracy"], "se": result["se"],
         "chance": result["chance"], "n": result["n"], "gold_bpb": result["gold_bpb"]}
        for record in run.evaluations
        if record["settings"]["limit"] == limit
        for name, result in record["tasks"].items()
    ]  # fmt: skip


def draw_panel(axes: Axes, runs: Sequence[Run], rows: list[dict[str, Any]], x: str, y: str) -> None:
    """One line for each run; checkpoints at which training measured no perplexity are left out."""
    scale = 100 if y == "accuracy" else 1
    for run in runs:
        points = [r for r in rows if r["run"] == run.folder.name and r[x] is not None]
        if not points:
            continue
        xs, ys = [r[x] for r in points], [scale * r[y] for r in points]
        axes.plot(xs, ys, **run.style, linewidth=1.2, markersize=3.8, markeredgecolor="white",
                  markeredgewidth=0.4)  # fmt: skip
        if y == "accuracy":
            axes.errorbar(xs[-1], ys[-1], scale * points[-1]["se"], color=run.style["color"],
                          capsize=2, linewidth=0.9)  # fmt: skip
    if y == "accuracy":
        draw_chance(axes, rows)
    axes.set_xscale("log")
    shown = [row[x] for row in rows if row[x] is not None]
    wide = bool(shown) and max(shown) / min(shown) > 30
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if x == "tokens":
        axes.xaxis.set_major_formatter(one_unit(max(shown)))
        axes.set_xlabel("Training tokens")
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("Validation perplexity")
        axes.invert_xaxis()


def draw_chance(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Chance, and the band in which 95% of guessing models fall."""
    chance, n = rows[-1]["chance"], rows[-1]["n"]
    half = 1.96 * math.sqrt(chance * (1 - chance) / n)
    axes.axhspan(100 * (chance - half), 100 * (chance + half), color="#ececec", zorder=0)
    axes.axhline(100 * chance, color="#777777", linewidth=0.9, linestyle=(0, (6, 3)), zorder=1)


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
