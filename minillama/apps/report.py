"""The paper's Tables 3-9 with our models beside LLaMA and its rivals: ``minillama report RUN...``.

A tiny model does not compete with these, and no table lets it look so: chance stands in each, with
the size of the sample and the standard error. What was not measured is named.
"""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from minillama import paper
from minillama.apps.comparison import (
    FLOOR,
    LAYOUTS,
    Layout,
    Line,
    Record,
    Result,
    in_percent,
    result_of,
)
from minillama.errors import ConfigError, DataError
from minillama.evaluate import scoring
from minillama.train.config import read_config

Form = Literal["text", "markdown", "json"]
WIDTH = 110
"""Characters of a line in a terminal; wider tables are cut in parts."""
OURS = "ours"
STYLES = {
    "llama": "the best reconstruction of the paper's, most of which it does not print",
    "olmes": "the Open Language Model Evaluation Standard's",
}


@dataclass(frozen=True)
class Table:
    """A table that can be shown."""

    heading: str
    columns: list[list[str]]
    """Each with two lines of heading, then its cells; the first column names the lines."""
    notes: list[str]
    rows: list[dict[str, Any]]
    """The same as data; accuracies in percent."""


def paper_table(layout: Layout, records: dict[str, Record]) -> Table:
    """One of the paper's tables with our results beside."""
    found = [
        {name: result_of(record, line) for name, record in records.items()} for line in layout.lines
    ]
    theirs = {} if layout.number is None else {
        (row["model"], row["size"]): [row[line.column] for line in layout.lines]
        for row in paper.table(layout.number)
    }  # fmt: skip
    known = [next((r for r in results.values() if r), None) for results in found]
    rows = []
    for i, (line, result) in enumerate(zip(layout.lines, known, strict=True)):
        rows.append({
            "benchmark": line.label,
            "task": line.key,
            "n": result and result.n,
            **{name: result and in_percent(result.floor[name]) for name in FLOOR},
            "ours": {name: r and r.as_data() for name, r in found[i].items()},
            "paper": {" ".join(model): values[i] for model, values in theirs.items()},
        })  # fmt: skip
    columns = [
        ["", "", *(row["benchmark"] for row in rows)],
        ["", "n", *("-" if row["n"] is None else f"{row['n']:,}" for row in rows)],
        *(["", name, *(cell(row[name]) for row in rows)] for name in FLOOR),
    ]
    for name in records:
        columns.append([OURS, name, *(r[name].text() if r[name] else "-" for r in found)])
    for model in sorted(theirs, key=lambda model: model[0] != "LLaMA"):  # LLaMA first
        columns.append([*model, *map(cell, theirs[model])])
    said = notes(layout, known) + cuts(layout, records)
    return Table(layout.heading(), columns, said, rows)


def cell(value: float | None) -> str:
    """A number with one decimal, or a dash."""
    return "-" if value is None else f"{value:.1f}"


def notes(layout: Layout, known: list[Result | None]) -> list[str]:
    """What has to be said under a table: its own note, and what is missing and why."""
    missing = [line for line, result in zip(layout.lines, known, strict=True) if result is None]
    absent = [line for line in missing if line.task().source.startswith("local")]
    skipped = [line for line in missing if line not in absent]
    said = [layout.note] if layout.note else []
    for lines, why in (
        (absent, "absent, as no package carries the data"),
        (skipped, "not measured here"),
    ):
        if lines:
            said.append(f"{', '.join(line.label for line in lines)}: {why}.")
    return said


def cuts(layout: Layout, records: dict[str, Record]) -> list[str]:
    """How many prompts did not fit into a model."""
    said = []
    for name, record in records.items():
        told = {key: record["tasks"].get(key) for key in dict.fromkeys(x.key for x in layout.lines)}
        parts = [f"{key} {t['truncated']:,}" for key, t in told.items() if t and t["truncated"]]
        if parts:
            said.append(f"Questions of which {name} saw only the end: {', '.join(parts)}.")
    return said


def smooth_table(records: dict[str, Record]) -> Table:
    """Measures that move long before accuracy does, for all that was measured."""
    keys = list(dict.fromkeys(key for record in records.values() for key in record["tasks"]))
    measures = {"gold_bpb": "gold bpb", "context_gain": "gain", "correct_probability": "p(right)"}
    found = [
        {name: record["tasks"].get(key, {}) for name, record in records.items()} for key in keys
    ]
    nulls = [
        next((told["null"]["gold_bpb"] for told in each.values() if told.get("null")), None)
        for each in found
    ]
    columns = [["", "", *keys], ["5-gram", "gold bpb", *map(three, nulls)]]
    for name in records:
        for measure, label in measures.items():
            columns.append([name, label, *(three(each[name].get(measure)) for each in found)])
    rows = [
        {"task": key, "5-gram": {"gold_bpb": null},
         "ours": {name: {m: told.get(m) for m in measures} for name, told in each.items()}}
        for key, null, each in zip(keys, nulls, found, strict=True)
    ]  # fmt: skip
    note = (
        "gold bpb: bits per byte of the right answers, lower is better; gain: how many of them the "
        "question saves (0: it is ignored); p(right): the right choice's share of probability."
    )
    return Table("What small models can show", columns, [note], rows)


def three(value: float | None) -> str:
    """A number with three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def as_text(table: Table) -> str:
    """A table for the terminal. A wide one is cut in parts, with our columns in each."""
    label, *others = table.columns
    ours = [column for column in others if column[0] == OURS]
    parts = [[label]]
    for column in others:
        if sum(map(width, [*parts[-1], column])) > WIDTH and len(parts[-1]) > 1:
            parts.append([label, *ours])
        if not any(column is shown for shown in parts[-1]):
            parts[-1].append(column)
    lines = [table.heading]
    for part in parts:
        for cells in zip(*part, strict=True):
            padded = [text.rjust(width(c)) for text, c in zip(cells, part, strict=True)]
            lines.append((cells[0].ljust(width(label)) + "".join(padded[1:])).rstrip())
        lines.append("")
    wrapped = [textwrap.fill(note, WIDTH) for note in table.notes]
    return "\n".join(lines + wrapped if wrapped else lines[:-1])


def width(column: list[str]) -> int:
    """Characters that a column takes, with the space before it."""
    return max(map(len, column)) + 2


def as_markdown(table: Table) -> str:
    """A table in Markdown, in one part however wide."""
    heads = [" ".join(filter(None, column[:2])) for column in table.columns]
    rows = zip(*(column[2:] for column in table.columns), strict=True)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    body = [f"| {' | '.join(text.strip() for text in line)} |" for line in lines]
    body = [line.replace("*", "\\*").replace("<", "&lt;") for line in body]
    said = [f"{note}\n" for note in table.notes]
    return "\n".join([f"### {table.heading}\n", *body, "", *said])


def tables(records: dict[str, Record]) -> list[Table]:
    """All tables in which something was measured, and the smooth measures."""
    measured = {key for record in records.values() for key in record["tasks"]}
    known = {line.key for layout in LAYOUTS for line in layout.lines}
    others = tuple(Line(key, key, "") for key in sorted(measured - known))
    shown = [each for each in LAYOUTS if measured & {line.key for line in each.lines}]
    if others:
        shown.append(Layout(None, "Not in the paper: accuracy in %", others))
    return [paper_table(layout, records) for layout in shown] + [smooth_table(records)]


def left_out(records: dict[str, Record]) -> list[str]:
    """The tables of which nothing was measured, and how to measure it."""
    measured = {key for record in records.values() for key in record["tasks"]}
    said = []
    for layout in LAYOUTS:
        if not measured & {line.key for line in layout.lines}:
            tasks = list({line.task().name: line.task() for line in layout.lines}.values())
            what = f"Table {layout.number} ({', '.join(task.label for task in tasks)})"
            if all(task.source.startswith("local") for task in tasks):
                said.append(f"{what} is absent: no package carries the data.")
            else:
                names = " ".join(task.name for task in tasks)
                said.append(f"{what} is not measured: minillama evaluate RUN --tasks {names}")
    return said


def introduction(records: dict[str, Record]) -> list[str]:
    """Which models these are, and how they were asked."""
    lines = []
    for name, record in records.items():
        size = f"{record['parameters']:,} parameters, " if "parameters" in record else ""
        loss = record["perplexity"]
        after = "" if loss is None else f", validation perplexity {loss:.1f}"
        lines.append(f"{name}: {size}step {record['step']}, {record['tokens']:,} tokens{after}")
    settings = next(iter(records.values()))["settings"]
    limit = settings["limit"]
    asked = "all questions" if limit is None else f"at most {limit} questions of each benchmark"
    style = settings["style"]
    return [
        *lines,
        f"Prompts in the style {style} ({STYLES[style]}); {asked}.",
        "±: one standard error. *: more than two of them above chance, majority (the place that is "
        "right most often) and the 5-gram model. In brackets: 95% bound where there is no hit.",
    ]


def report(records: dict[str, Record], form: Form = "text", complete: bool = False) -> str:
    """The paper's tables with our models beside, as far as they were measured.

    Args:
        records: by the name to show, what ``minillama evaluate`` has stored; all of one style and
            on the same questions. ``parameters`` is shown if it is there.
        form: of the result. JSON holds accuracies in percent.
        complete: also name the tables of which nothing was measured.

    Raises:
        ConfigError: there is none, or they were asked differently.
    """
    asked = [{k: record["settings"][k] for k in ("style", "limit")} for record in records.values()]
    if not asked or any(each != asked[0] for each in asked):
        raise ConfigError(
            f"these evaluations cannot stand in one table: {asked}", "evaluate all in the same way"
        )
    shown, missing = tables(records), left_out(records) if complete else []
    if form == "json":
        about = {name: {k: v for k, v in r.items() if k != "tasks"} for name, r in records.items()}
        parts = [{"heading": t.heading, "rows": t.rows, "notes": t.notes} for t in shown]
        whole = {"models": about, "tables": parts, "not_measured": missing}
        return json.dumps(whole, indent=2, ensure_ascii=False)
    if form == "markdown":
        lines = [*introduction(records), *map(as_markdown, shown), *missing]
        return "\n\n".join(line.strip() for line in lines)
    top = "\n".join(textwrap.fill(line, WIDTH) for line in introduction(records))
    return "\n\n".join(filter(None, [top, *map(as_text, shown), "\n".join(missing)]))


def report_runs(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    step: int | None = None,
    style: Literal["llama", "olmes"] = "llama",
    limit: int | None = None,
    form: Form = "text",
) -> str:
    """Show the paper's Tables 3-9 with these runs beside, from what `minillama evaluate` stored.

    Args:
        runs: run folders.
        step: the checkpoint; by default the last that was evaluated.
        style: of the prompts.
        limit: what `minillama evaluate` was told.
        form: text, markdown or json.

    Raises:
        DataError: a run was not evaluated in this way.
    """
    names = [run.resolve().name for run in runs]
    records = {
        str(run) if names.count(name) > 1 else name: read_record(run, step, style, limit)
        for run, name in zip(runs, names, strict=True)
    }
    return report(records, form, complete=True)


def read_record(run: Path, step: int | None, style: str, limit: int | None) -> Record:
    """What is stored of a run. Raises ``DataError`` that names what there is instead."""
    wanted = "*" if step is None else f"{step:08d}"
    name = scoring.record_name(f"step-{wanted}", {"style": style, "limit": limit})
    folder = run / "evaluations"
    dots = name.count(".")  # another style or limit adds one
    found = sorted(path for path in folder.glob(f"{name}.json") if path.stem.count(".") == dots)
    if not found:
        there = ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"
        raise DataError(
            f"{run} has no evaluation {name} (there are: {there})", "run `minillama evaluate`"
        )
    parameters = read_config(run / "config.toml").model.num_parameters()
    return {"parameters": parameters} | scoring.read_record(found[-1])
