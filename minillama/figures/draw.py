"""``minillama figures``: Figures 1 and 2, the inference budget and the corpus, from run folders.

Each is written as png, svg, csv (the numbers drawn) and json (where they come from).
"""

from pathlib import Path

import matplotlib

from minillama.figures.benchmarks import (
    collect,
    correlation_table,
    correlations,
    draw_benchmarks_figure,
    seeds_of,
)
from minillama.figures.data import draw_corpus
from minillama.figures.inference_budget import draw_budget_figure
from minillama.figures.loss import draw_loss_figure
from minillama.figures.overtaking import (
    crossings_table,
    draw_overtaking_figure,
    find_crossings,
    read_rivals,
)
from minillama.figures.provenance import provenance
from minillama.figures.runs import PUBLISHED, load_runs
from minillama.figures.small_models import SMALL_PANELS, draw_small_models_figure
from minillama.figures.style import RC, save_figure
from minillama.files import sha256


def draw_figures(
    runs: Path = Path("runs"),
    ladder: str = "nano",
    out: Path | None = None,
    published: Path = PUBLISHED,
) -> str:
    """Draw Figures 1 and 2, and the inference budget, from the runs of a ladder, finished or not.

    Beside them the waterfall of the corpus that they were trained on, if it is there, and where
    the runs overtake a 5-gram model, if that was counted; else the answer says so. Figure 2 gets a
    further row if the benchmarks for small models were asked.

    Args:
        runs: where the run folders are.
        ladder: nano, small, mini or full.
        out: where the figures go; by default RUNS/figures.
        published: where further runs of the same sizes are looked for, if not in ``runs``: other
            seeds of the smallest, and other lengths.

    Raises:
        ConfigError: an unknown ladder.
        DataError: a run or all evaluations are missing; the message says what to run. Figure 1,
            the inference budget and the waterfall need no evaluations and are written first.
    """
    out = out or runs / "figures"
    loaded = load_runs(runs, ladder)
    seeds = seeds_of(loaded[0], runs, published)
    command = ["minillama", "figures", "--runs", str(runs), "--ladder", ladder, "--out", str(out)]
    origin = provenance(command, [*loaded, *seeds])
    lines = draw_corpus(loaded[-1], out, command)
    with matplotlib.rc_context(RC):
        # Figure 1.
        figure, rows = draw_loss_figure(loaded)
        written = save_figure(figure, rows, out / "figure1_loss_vs_tokens", origin)
        # The inference budget, if the sizes can be compared.
        budget = draw_budget_figure(loaded, published)
        if budget is None:
            lines.append("inference_budget is not drawn: each size needs two finished runs")
        else:
            figure, rows, used = budget
            origin_of_budget = provenance(command, used)
            written += save_figure(figure, rows, out / "inference_budget", origin_of_budget)
        # Where they overtake the 5-gram, if that was counted.
        counted = runs / f"{ladder}-5gram.json"
        rivals = read_rivals(counted)
        if rivals is None:
            lines.append(f"overtaking is not drawn: {counted} has no curve of a 5-gram")
        else:
            figure, rows = draw_overtaking_figure(loaded, rivals)
            crossings = find_crossings(loaded, rivals)
            found = {"crossings": crossings, "counted_sha256": sha256(counted)}
            written += save_figure(figure, rows, out / "overtaking", origin | found)
            lines += [crossings_table(crossings), ""]
        # Figure 2, twice.
        rows = collect(loaded, seeds)
        found = correlations(loaded, rows)
        for stem, x in (("figure2_perplexity", "perplexity"), ("figure2_benchmarks", "tokens")):
            figure = draw_benchmarks_figure(loaded, rows, x)
            written += save_figure(figure, rows, out / stem, origin | {"spearman": found})
        # What small models can do, if they were asked.
        rows = collect(loaded, seeds, SMALL_PANELS)
        if rows:
            figure, rows = draw_small_models_figure(loaded, rows)
            written += save_figure(figure, rows, out / "figure2_small_models", origin)
    lines += [f"wrote {path}" for path in written]
    return "\n".join([*lines, "", correlation_table(found)])
