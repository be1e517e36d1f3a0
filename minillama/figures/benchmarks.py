"""Figure 2: benchmarks during training, for the four sizes.

Six panels, as in the paper, in two rows. The upper row has the paper's metric, with chance, the
line of an n-gram model that was counted on the same text, and the band in which 95% of guessing
models fall; small models stay inside it. The lower row has the bits per byte of the right answers
to the same questions, which move long before accuracy does. The figure is drawn twice: against
training tokens, and against validation perplexity, with Spearman's rank correlation.
"""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy import stats

from minillama.errors import DataError
from minillama.evaluate.answers import zero_hit_bound
from minillama.evaluate.scoring import read_record
from minillama.evaluate.tasks import TASKS
from minillama.figures.runs import Row, Rows, Run, Runs, find_variants
from minillama.figures.style import add_legend, one_unit
from minillama.tables import text_table

REMARKS = {
    "triviaqa": "follows perplexity",
    "hellaswag": "follows perplexity",
    "natural_questions": "follows perplexity",
    "socialiqa": "noisy",
    "winogrande": "33B and 65B alike",
    "piqa": "follows perplexity",
}
"""What the paper says of each benchmark (Section 3.7)."""
PANELS = tuple(REMARKS)
"""In the paper's order."""
METRICS = {"accuracy": "Paper's metric (%)", "gold_bpb": "Right answers (bits per byte)"}
NOTE = (
    "Gray: where 95% of guessing models fall. Dashes: chance. Dots: a 5-gram model of the same "
    "text. Bars: one standard error."
)
SCALE = {"accuracy": 100, "gold_bpb": 1}
RESAMPLES = 2000
RHO, SIGNED_RHO = "{rho:.2f} [{low:.2f}, {high:.2f}]", "{rho:+.2f} [{low:+.2f}, {high:+.2f}]"
Correlation = dict[str, float | int]
Correlations = dict[str, dict[str, Correlation | None]]
Questions = tuple[str, int | None]
"""The style of the prompts, and the limit on the number of questions."""


def read_evaluations(run: Run) -> Rows:
    """What ``minillama evaluate`` has written, with whatever limit, in step order.

    Left out is what was measured on an earlier training in the same folder: its loss is another,
    by more than the rounding by which two machines differ.
    """
    logged = {line["step"]: line.get("valid_loss") for line in run.metrics}
    records = []
    for path in sorted(run.folder.glob("evaluations/step-*.json")):
        record = read_record(path)
        first, second = logged.get(record["step"], math.nan), record["valid_loss"]
        unmeasured = first is None and second is None
        if unmeasured or math.isclose(first or 0, second or 0, rel_tol=1e-6):
            records.append(record)
    return records


def seeds_of(run: Run, *folders: Path) -> list[Run]:
    """Other trainings of the same size, which differ in the seed alone: ``NAME-seed1`` and so on.

    Args:
        run: the one that the figure draws.
        folders: where to look, such as the runs at hand and the published ones.
    """
    free = dict.fromkeys(("seed", "name", "runs", "threads", "corpus"))
    settings = vars(run.config) | free
    found = {run.config.seed: run}
    for other in find_variants(run, folders):
        name, config = other.folder.name, other.config
        is_seed = name.startswith(f"{run.folder.name}-seed")
        if is_seed and vars(config) | free == settings:
            found.setdefault(config.seed, other)
    return list(found.values())[1:]


def questions_of(record: Row) -> Questions:
    """How a checkpoint was examined."""
    return record["settings"]["style"], record["settings"]["limit"]


def common_questions(runs: Runs) -> Questions | None:
    """The style and limit that Figure 2 draws.

    Those that most runs share; of those, the ones with the most checkpoints; then the most
    questions.
    """
    sharing, checkpoints = Counter(), Counter()
    for run in runs:
        count = Counter(map(questions_of, read_evaluations(run)))
        sharing.update(count.keys())
        checkpoints.update(count)

    def rank(questions: Questions) -> tuple:
        style, limit = questions
        return sharing[questions], checkpoints[questions], limit or math.inf, style

    return max(checkpoints, key=rank, default=None)


def checkpoint_columns(run: Run, record: Row) -> Row:
    """What a row of Figure 2 says of the model."""
    return {
        "run": run.folder.name,
        "seed": run.config.seed,
        "parameters": run.config.model.num_parameters(),
        "step": record["step"],
        "tokens": record["tokens"],
        "perplexity": record["perplexity"],
    }


def benchmark_rows(run: Run, questions: Questions | None, tasks: Sequence[str] = PANELS) -> Rows:
    """What Figure 2 draws of a run: a row for each benchmark and checkpoint examined so."""
    copied = ("n", "accuracy", "se", "chance", "majority", "gold_bpb")
    rows = []
    for record in read_evaluations(run):
        if questions_of(record) != questions:
            continue
        for task in tasks:
            result = record["tasks"].get(task)
            if result is None:
                continue
            row = checkpoint_columns(run, record)
            row |= {"task": task, "style": record["settings"]["style"]}
            null = result.get("null") or {}
            row |= {name: result[name] for name in copied}
            row |= {f"null_{metric}": null.get(metric) for metric in METRICS}
            rows.append(row)
    return rows


def collect(runs: Runs, seeds: Runs = (), tasks: Sequence[str] = PANELS) -> Rows:
    """All rows, of the four runs and of further seeds. Raises ``DataError`` if nothing was asked.

    There are none if only other benchmarks were.
    """
    questions = common_questions(runs)
    if questions is None:
        commands = [f"`minillama evaluate {run.folder} --checkpoints all`" for run in runs]
        what = "no run has been evaluated, so there is no Figure 2"
        raise DataError(what, f"run {', '.join(commands)}")
    rows = []
    for run in (*runs, *seeds):
        rows += benchmark_rows(run, questions, tasks)
    return rows


def draw_benchmarks_figure(runs: Runs, rows: Rows, x: str = "tokens") -> Figure:
    """Figure 2 over ``tokens`` or ``perplexity``; ``rows`` are those of ``collect``."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    tasks.sort(key=PANELS.index)
    width = max(4.6, 2.3 * len(tasks))
    figure = Figure(figsize=(width, 5.6), layout="constrained")
    grid = figure.subplots(2, len(tasks), squeeze=False, sharex="col")
    draw_panels(grid, runs, rows, tasks, x)
    letters = sum(len(run.label) for run in runs)
    narrow = len(tasks) < 3 or letters > 24 * len(tasks)
    add_legend(figure, runs, columns=2 if narrow else 4)
    return figure


def draw_panels(grid: np.ndarray, runs: Runs, rows: Rows, tasks: Sequence[str], x: str) -> None:
    """A column of axes ``(2, tasks)`` for each task, and below them what the lines are."""
    for column, task in enumerate(tasks):
        of_task = [row for row in rows if row["task"] == task]
        draw_task(grid[:, column], runs, of_task, x)
    for axes, text in zip(grid[:, 0], METRICS.values(), strict=True):
        axes.set_ylabel(text)
    names = {run.folder.name for run in runs}
    seeds = {row["seed"] for row in rows if row["run"] not in names}
    note = NOTE
    if seeds:
        trainings, smallest = len(seeds) + 1, runs[0].folder.name
        note += f" Shaded: the range of {trainings} seeds of {smallest}."
    figure = grid[0, 0].figure
    figure.supxlabel(note, fontsize=9, color="#555555")
    figure.align_ylabels(grid[:, 0])


def draw_task(panels: Sequence[Axes], runs: Runs, rows: Rows, x: str) -> None:
    """One benchmark: the paper's metric above, the bits per byte below."""
    upper, lower = panels
    title = TASKS[rows[0]["task"]].label
    upper.set_title(title + ("\n" if x == "perplexity" else ""))  # leaves room for rho
    for axes, metric in zip(panels, METRICS, strict=True):
        draw_references(axes, rows[-1], metric)
        draw_band(axes, runs, rows, x, metric)
        for run in runs:
            draw_run(axes, run, rows, x, metric)
        if x == "perplexity":
            found = correlation(of_runs(rows, runs), metric)
            text = "flat" if found is None else "ρ = " + RHO.format(**found)
            look = {"ha": "right", "va": "bottom", "fontsize": 9, "color": "#555555"}
            text = text.replace("-", "\N{MINUS SIGN}")
            axes.text(1, 1.0, text, transform=axes.transAxes, **look)
    # Where no answer was ever right, what that rules out.
    if not any(row["accuracy"] for row in rows):
        n = rows[-1]["n"]
        text = f"0 of {n:,} right:\nbelow {100 * zero_hit_bound(n):.2g}%\n(95% sure)"
        upper.set_ylim(-0.5, 10)
        place = {"transform": upper.transAxes, "ha": "center", "va": "center"}
        upper.text(0.5, 0.5, text, color="#555555", **place)
    scale_x(lower, rows, x)


def of_runs(rows: Rows, runs: Runs) -> Rows:
    """The rows of the four runs, without further seeds."""
    names = {run.folder.name for run in runs}
    return [row for row in rows if row["run"] in names]


def read_curve(rows: Rows, run: str, x: str, metric: str) -> np.ndarray:
    """A run's steps, x, y as drawn (accuracy in percent) and standard errors, in step order."""
    table = []
    for row in rows:
        if row["run"] == run and row[x] is not None:
            y = SCALE[metric] * row[metric]
            error = 100 * row["se"]
            point = row["step"], row[x], y, error
            table.append(point)
    points = np.array(sorted(table)).reshape(-1, 4)
    return points.T


def draw_run(axes: Axes, run: Run, rows: Rows, x: str, metric: str) -> None:
    """A size's line, and at its end one standard error."""
    curve = read_curve(rows, run.folder.name, x, metric)
    _, xs, ys, errors = curve
    look = run.style | {"linewidth": 1.2, "markersize": 3.6}
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    axes.plot(xs, ys, **look, **edge)
    if metric == "accuracy" and len(xs):
        end = xs[-1], ys[-1], errors[-1]
        color = run.style["color"]
        bar = {"capsize": 2, "linewidth": 0.9}
        axes.errorbar(*end, color=color, **bar)


def draw_band(axes: Axes, runs: Runs, rows: Rows, x: str, metric: str) -> None:
    """The range of the smallest size over its seeds, at the steps that all were examined at."""
    smallest = runs[0].folder.name
    drawn = {run.folder.name for run in runs}
    seeds = {row["run"] for row in rows} - drawn
    if not seeds:
        return
    family = [read_curve(rows, name, x, metric) for name in (smallest, *seeds)]
    # The steps that all have
    steps = family[0][0]
    for curve in family:
        steps = np.intersect1d(steps, curve[0])
    if not len(steps):
        return
    shared = []
    for curve in family:
        is_shared = np.isin(curve[0], steps)
        shared.append(curve[:, is_shared])
    # Their range
    _, xs, ys, _ = np.stack(shared, axis=1)  # (seeds, steps) each
    color = runs[0].style["color"]
    look = {"color": color, "alpha": 0.3, "linewidth": 0, "zorder": 1.5}
    axes.fill_between(xs.mean(axis=0), ys.min(axis=0), ys.max(axis=0), **look)


def draw_references(axes: Axes, row: Row, metric: str) -> None:
    """Chance with the band of guessing models, and the n-gram model."""
    chance, null = row["chance"], row[f"null_{metric}"]
    if metric == "accuracy" and chance:
        # Where 95% of guessing models fall
        variance = chance * (1 - chance) / row["n"]
        half_width = 1.96 * math.sqrt(variance)
        low = 100 * (chance - half_width)
        high = 100 * (chance + half_width)
        axes.axhspan(low, high, color="#ececec", zorder=0)
        dashes = {"color": "#777777", "linestyle": (0, (6, 3))}
        axes.axhline(100 * chance, linewidth=0.9, zorder=1, **dashes)
    if null is not None:
        dots = {"color": "#CC79A7", "linestyle": (0, (1, 1.5))}
        axes.axhline(SCALE[metric] * null, linewidth=1.1, zorder=1, **dots)


def scale_x(axes: Axes, rows: Rows, x: str) -> None:
    """A logarithmic axis; perplexity falls to the right, as training goes."""
    values = [row[x] for row in rows if row[x] is not None]
    wide = bool(values) and max(values) / min(values) > 30
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if x == "tokens":
        axes.xaxis.set_major_formatter(one_unit(max(values)))
        axes.set_xlabel("Training tokens")
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("Validation perplexity")
        axes.invert_xaxis()


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of ranks (Spearman, 1904); None where one of the two never changes."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(stats.spearmanr(x, y).statistic)


def correlation(rows: Rows, metric: str, seed: int = 0) -> Correlation | None:
    """Spearman's rho of a metric and perplexity over all checkpoints of all sizes.

    Returns:
        ``rho`` with the bounds ``low`` and ``high`` of its 95% interval, from checkpoints drawn
        with replacement (neighboring checkpoints are alike, so the truth is somewhat wider), and
        ``n``. None where there is no correlation to speak of: fewer than four checkpoints, or a
        metric that never changes.
    """
    rows = [row for row in rows if row["perplexity"] is not None]
    perplexities = np.array([row["perplexity"] for row in rows])
    values = np.array([row[metric] for row in rows])
    rho = spearman(perplexities, values) if len(rows) > 3 else None
    if rho is None:
        return None

    def correlate_ranks(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        x_ranks = stats.rankdata(x, axis=axis)
        y_ranks = stats.rankdata(y, axis=axis)
        return stats.pearsonr(x_ranks, y_ranks, axis=axis).statistic

    pair = perplexities, values
    settings = {"paired": True, "n_resamples": RESAMPLES, "method": "percentile"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # draws that never change are no numbers
        rng = np.random.default_rng(seed)
        drawn = stats.bootstrap(pair, correlate_ranks, **settings, rng=rng)
    low, high = np.nanquantile(drawn.bootstrap_distribution, [0.025, 0.975])
    return {"rho": rho, "low": float(low), "high": float(high), "n": len(rows)}


def correlations(runs: Runs, rows: Rows) -> Correlations:
    """``correlation`` of both metrics for each benchmark, of the four runs alone."""
    found = {}
    for task in PANELS:
        drawn = [row for row in of_runs(rows, runs) if row["task"] == task]
        if drawn:
            found[task] = {metric: correlation(drawn, metric) for metric in METRICS}
    return found


def correlation_table(found: Correlations) -> str:
    """The correlations beside the paper's remarks, as text."""
    lines = []
    for task, values in found.items():
        cells = []
        for metric in METRICS:
            value = values[metric]
            cells.append("flat" if value is None else SIGNED_RHO.format(**value))
        label, remark = TASKS[task].label, REMARKS[task]
        lines.append([label, *cells, remark])
    title = "Spearman correlation with validation perplexity, over checkpoints of all sizes\n"
    return title + text_table(["", "metric", "bits per byte", "the paper"], lines)
