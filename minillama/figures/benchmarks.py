"""Figure 2: benchmarks during training, for the four sizes.

Six panels, as in the paper, in two rows. The upper row has the paper's metric, with chance, the
line of an n-gram model that was counted on the same text, and the band in which 95% of guessing
models fall; small models stay inside it. The lower row has the bits per byte of the right answers
to the same questions, which move long before accuracy does. The figure is drawn twice: against
training tokens, and against validation perplexity, with Spearman's rank correlation.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from minillama.errors import DataError
from minillama.evaluate.answers import zero_hit_bound
from minillama.evaluate.tasks import TASKS
from minillama.figures.runs import Run
from minillama.figures.style import key, one_unit
from minillama.train.config import read_config
from minillama.train.log import read_metrics

PANELS = ("triviaqa", "hellaswag", "natural_questions", "socialiqa", "winogrande", "piqa")
"""In the paper's order."""
REMARKS = {
    "triviaqa": "follows perplexity",
    "hellaswag": "follows perplexity",
    "natural_questions": "follows perplexity",
    "socialiqa": "noisy",
    "winogrande": "33B and 65B alike",
    "piqa": "follows perplexity",
}
"""What the paper says of each (Section 3.7)."""
METRICS = {"accuracy": "Paper's metric (%)", "gold_bpb": "Right answers (bits per byte)"}
NOTE = (
    "Gray: where 95% of guessing models fall. Dashes: chance. Dots: a 5-gram model of the same "
    "text. Bars: one standard error.{band}"
)
BAND = " Shaded: the range of {count} seeds of {name}."
RESAMPLES = 2000
Row = dict[str, Any]


def seeds_of(run: Run, *folders: Path) -> list[Run]:
    """Other trainings of the same size, which differ in the seed alone: ``NAME-seed1`` and so on.

    Args:
        run: the one that the figure draws.
        folders: where to look, such as the runs at hand and the published ones.
    """
    found: dict[int, Run] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"{run.folder.name}-seed*")):
            if not (path / "config.toml").exists() or not (path / "metrics.jsonl").exists():
                continue
            config = read_config(path / "config.toml")
            same = replace(config, seed=run.config.seed, name=run.config.name, runs=run.config.runs,
                           threads=run.config.threads, corpus=run.config.corpus)  # fmt: skip
            if same == run.config and config.seed != run.config.seed:
                found.setdefault(config.seed, Run(run.rung, path, config, read_metrics(path)))
    return list(found.values())


def asked(record: Row) -> tuple[str, int | None]:
    """How a checkpoint was examined: the style of the prompts, and the limit on the questions."""
    return record["settings"]["style"], record["settings"]["limit"]


def common_questions(runs: Sequence[Run]) -> tuple[str, int | None] | None:
    """The style and limit that Figure 2 draws.

    Those that most runs share; of those, the ones with the most checkpoints; then the most
    questions.
    """
    counts = [Counter(map(asked, run.evaluations)) for run in runs]

    def rank(how: tuple[str, int | None]) -> tuple[int, int, float]:
        shared = [count[how] for count in counts if how in count]
        return len(shared), sum(shared), math.inf if how[1] is None else how[1]

    return max(sorted(set().union(*counts), key=str), key=rank, default=None)


def benchmark_rows(run: Run, how: tuple[str, int | None] | None) -> list[Row]:
    """What Figure 2 draws of a run: a row for each benchmark and checkpoint examined so."""
    return [
        {"run": run.folder.name, "seed": run.config.seed,
         "parameters": run.config.model.num_parameters(), "step": record["step"],
         "tokens": record["tokens"], "perplexity": record["perplexity"], "task": name,
         "style": record["settings"]["style"],
         **{field: result[field] for field in ("n", "accuracy", "se", "chance", "majority")},
         "gold_bpb": result["gold_bpb"],
         "null_accuracy": (result.get("null") or {}).get("accuracy"),
         "null_gold_bpb": (result.get("null") or {}).get("gold_bpb")}
        for record in run.evaluations
        if asked(record) == how
        for name in PANELS
        if (result := record["tasks"].get(name)) is not None
    ]  # fmt: skip


def collect(runs: Sequence[Run], seeds: Sequence[Run] = ()) -> list[Row]:
    """All rows, of the four runs and of further seeds. Raises ``DataError`` if there are none."""
    how = common_questions(runs)
    rows = [row for run in runs for row in benchmark_rows(run, how)]
    if not rows:
        commands = ", ".join(f"`minillama evaluate {run.folder} --checkpoints all`" for run in runs)
        raise DataError("no run has been evaluated, so there is no Figure 2", f"run {commands}")
    return rows + [row for run in seeds for row in benchmark_rows(run, how)]


def benchmarks(runs: Sequence[Run], rows: Sequence[Row], x: str = "tokens") -> Figure:
    """Figure 2 over ``tokens`` or ``perplexity``; ``rows`` are those of ``collect``."""
    names = [name for name in PANELS if any(row["task"] == name for row in rows)]
    drawn = {run.folder.name for run in runs}
    seeds = {row["seed"] for row in rows if row["run"] not in drawn}
    figure = Figure(figsize=(max(4.6, 2.3 * len(names)), 5.6), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for (upper, lower), name in zip(grid.T, names, strict=True):
        mine = [row for row in rows if row["task"] == name]
        upper.set_title(TASKS[name].label + ("\n" if x == "perplexity" else ""))  # room for rho
        for axes, metric in ((upper, "accuracy"), (lower, "gold_bpb")):
            draw_references(axes, mine, metric)
            draw_band(axes, runs[0], mine, x, metric)
            draw_runs(axes, runs, mine, x, metric)
            if x == "perplexity":
                label_correlation(axes, correlation([r for r in mine if r["run"] in drawn], metric))
        label_zero_hits(upper, mine)
        scale_x(lower, mine, x)
    for axes, text in zip(grid[:, 0], METRICS.values(), strict=True):
        axes.set_ylabel(text)
    band = BAND.format(count=len(seeds) + 1, name=runs[0].folder.name) if seeds else ""
    figure.supxlabel(NOTE.format(band=band), fontsize=9, color="#555555")
    figure.align_ylabels(grid[:, 0])
    narrow = len(names) < 3 or sum(len(run.label) for run in runs) > 24 * len(names)
    key(figure, runs, columns=2 if narrow else 4)
    return figure


def points(rows: Sequence[Row], run: str, x: str) -> list[Row]:
    """The rows of one run that have an x, in the order of training."""
    mine = [row for row in rows if row["run"] == run and row[x] is not None]
    return sorted(mine, key=lambda row: row["step"])


def draw_runs(axes: Axes, runs: Sequence[Run], rows: Sequence[Row], x: str, metric: str) -> None:
    """A line for each size, and at its end one standard error."""
    scale = 100 if metric == "accuracy" else 1
    for run in runs:
        mine = points(rows, run.folder.name, x)
        if not mine:
            continue
        xs, ys = [row[x] for row in mine], [scale * row[metric] for row in mine]
        axes.plot(xs, ys, **run.style, linewidth=1.2, markersize=3.6, markeredgecolor="white",
                  markeredgewidth=0.4)  # fmt: skip
        if metric == "accuracy":
            axes.errorbar(xs[-1], ys[-1], scale * mine[-1]["se"], color=run.style["color"],
                          capsize=2, linewidth=0.9)  # fmt: skip


def draw_band(axes: Axes, smallest: Run, rows: Sequence[Row], x: str, metric: str) -> None:
    """The range of the smallest size over its seeds, at the steps that all were examined at."""
    families = [smallest.folder.name, *sorted({r["run"] for r in rows if is_seed(r, smallest)})]
    tables = [{row["step"]: row for row in points(rows, name, x)} for name in families]
    steps = sorted(set(tables[0]).intersection(*tables[1:]))
    if len(tables) == 1 or not steps:
        return
    scale = 100 if metric == "accuracy" else 1
    values = np.array([[scale * table[step][metric] for step in steps] for table in tables])
    xs = np.mean([[table[step][x] for step in steps] for table in tables], axis=0)
    axes.fill_between(xs, values.min(axis=0), values.max(axis=0), alpha=0.3, linewidth=0,
                      color=smallest.style["color"], zorder=1.5)  # fmt: skip


def is_seed(row: Row, run: Run) -> bool:
    """Whether a row is of another seed of this run."""
    return row["run"].startswith(f"{run.folder.name}-seed")


def draw_references(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Chance with the band of guessing models, and the n-gram model."""
    row = rows[-1]
    if metric == "accuracy" and row["chance"]:
        chance = row["chance"]
        half = 1.96 * math.sqrt(chance * (1 - chance) / row["n"])
        axes.axhspan(100 * (chance - half), 100 * (chance + half), color="#ececec", zorder=0)
        axes.axhline(100 * chance, color="#777777", linewidth=0.9, linestyle=(0, (6, 3)), zorder=1)
    null = row["null_accuracy" if metric == "accuracy" else "null_gold_bpb"]
    if null is not None:
        height = 100 * null if metric == "accuracy" else null
        axes.axhline(height, color="#CC79A7", linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1)


def label_zero_hits(axes: Axes, rows: Sequence[Row]) -> None:
    """Where no answer was ever right, say what that rules out."""
    if any(row["accuracy"] for row in rows):
        return
    n = rows[-1]["n"]
    axes.set_ylim(-0.5, 10)
    axes.text(0.5, 0.5, f"0 of {n:,} right:\nbelow {100 * zero_hit_bound(n):.2g}%\n(95% sure)",
              transform=axes.transAxes, ha="center", va="center", color="#555555")  # fmt: skip


def scale_x(axes: Axes, rows: Sequence[Row], x: str) -> None:
    """A logarithmic axis; perplexity falls to the right, as training goes."""
    shown = [row[x] for row in rows if row[x] is not None]
    axes.set_xscale("log")
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


def ranks(values: Sequence[float]) -> np.ndarray:
    """Place of each value in order, from 1; equal values share the mean of their places."""
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[which]


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of ranks (Spearman, 1904); None where one of the two never changes."""
    a, b = ranks(x), ranks(y)
    if len(a) < 2 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def correlation(rows: Sequence[Row], metric: str, seed: int = 0) -> dict[str, float | int] | None:
    """Spearman's rho of a metric and perplexity over all checkpoints of all sizes.

    Returns:
        ``rho`` with the bounds ``low`` and ``high`` of its 95% interval, from checkpoints drawn
        with replacement (neighboring checkpoints are alike, so the truth is somewhat wider), and
        ``n``. None where there is no correlation to speak of: fewer than four checkpoints, or a
        metric that never changes.
    """
    pairs = np.array([(r["perplexity"], r[metric]) for r in rows if r["perplexity"] is not None])
    rho = spearman(*pairs.T) if len(pairs) > 3 else None
    if rho is None:
        return None
    rng = np.random.default_rng(seed)
    drawn = (pairs[rng.integers(len(pairs), size=len(pairs))].T for _ in range(RESAMPLES))
    found = [value for part in drawn if (value := spearman(*part)) is not None]
    low, high = np.quantile(found, [0.025, 0.975])
    return {"rho": rho, "low": float(low), "high": float(high), "n": len(pairs)}


def label_correlation(axes: Axes, found: dict[str, float | int] | None) -> None:
    """Write rho above a panel."""
    text = "flat" if found is None else "ρ = {rho:.2f} [{low:.2f}, {high:.2f}]".format(**found)
    axes.text(1, 1.0, text.replace("-", "\N{MINUS SIGN}"), transform=axes.transAxes, ha="right",
              va="bottom", fontsize=9, color="#555555")  # fmt: skip


def correlations(runs: Sequence[Run], rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """``correlation`` of both metrics for each benchmark, of the four runs alone."""
    drawn = {run.folder.name for run in runs}
    return {
        name: {metric: correlation(mine, metric) for metric in METRICS}
        for name in PANELS
        if (mine := [row for row in rows if row["task"] == name and row["run"] in drawn])
    }


def correlation_table(found: dict[str, dict[str, Any]]) -> str:
    """The correlations beside the paper's remarks, as text."""

    def cell(value: dict[str, float | int] | None) -> str:
        return "flat" if value is None else "{rho:+.2f} [{low:+.2f}, {high:+.2f}]".format(**value)

    lines = [
        "Spearman correlation with validation perplexity, over checkpoints of all sizes",
        f"{'':<18}{'metric':<24}{'bits per byte':<24}the paper",
    ]
    for name, values in found.items():
        cells = "".join(f"{cell(values[metric]):<24}" for metric in METRICS)
        lines.append(f"{TASKS[name].label:<18}{cells}{REMARKS[name]}")
    return "\n".join(lines)
