"""The paper's Tables 3-9 with our models beside LLaMA and its rivals: ``minillama report RUN...``.

A tiny model does not compete with these, and no table lets it look so. A result is read against
three lines: chance; the place among the choices that is right most often; and a 5-gram model of the
same text, which cannot understand a question. What was not measured is named.
"""

import fnmatch
import json
import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from minillama import paper
from minillama.errors import ConfigError, DataError
from minillama.evaluate import scoring
from minillama.evaluate.answers import zero_hit_bound
from minillama.evaluate.tasks import COMMON_SENSE, TASKS, Task
from minillama.tables import markdown_table, text_table
from minillama.train.config import read_config

Form = Literal["text", "markdown", "json"]
Record = dict[str, Any]
WIDTH = 110
"""Characters of a line in a terminal; wider tables are cut in parts."""
OURS = "ours"
FLOOR = ("chance", "majority", "5-gram")
MEASURES = {"gold_bpb": "gold bpb", "context_gain": "gain", "correct_probability": "p(right)"}
STYLES = {
    "llama": "the best reconstruction of the paper's, most of which it does not print",
    "olmes": "the Open Language Model Evaluation Standard's",
}


@dataclass(frozen=True)
class Line:
    """A line of a table: a benchmark, or a part of one."""

    label: str
    key: str  # its name in records
    column: str  # in the paper's table
    part: str = ""  # a group of questions (STEM) or a measure (maj1@*) instead of the accuracy

    def task(self) -> Task:
        """The benchmark, however many solved examples it shows."""
        return TASKS[self.key.split("-")[0]]


@dataclass(frozen=True)
class Layout:
    """One of the paper's tables, or a table of what is in none of them."""

    heading: str
    lines: tuple[Line, ...]
    number: int | None = None
    note: str = ""


def _accuracies(*tasks: str) -> tuple[Line, ...]:
    return tuple(Line(TASKS[name].label, name, TASKS[name].label) for name in tasks)


def _shots(task: str) -> tuple[Line, ...]:
    return tuple(Line(f"{n}-shot", TASKS[task].key(n), f"{n}-shot") for n in TASKS[task].shots)


LAYOUTS = (
    Layout(
        "Table 3. Common sense, zero-shot: accuracy in %", _accuracies(*COMMON_SENSE), 3,
        "BoolQ and OBQA rank choices by P(choice | question) / P(choice | \"Answer:\"), the others "
        "by log P over characters. For ARC-e, LLaMA's model card prints 76.7, 78.1, 81.4 and 81.5.",
    ),
    Layout("Table 4. NaturalQuestions: exact match in %", _shots("natural_questions"), 4),
    Layout("Table 5. TriviaQA: exact match in %", _shots("triviaqa"), 5,
           "The paper asks the filtered development set and does not print its size."),
    Layout("Table 6. Reading comprehension, zero-shot: accuracy in %",
           _accuracies("race_middle", "race_high"), 6),
    Layout(
        "Table 7. Mathematics: right answers in %",
        (Line("MATH", "math", "MATH"), Line("MATH maj1@k", "math", "MATH_maj1k", "maj1@*"),
         Line("GSM8k", "gsm8k", "GSM8k"),
         Line("GSM8k maj1@k", "gsm8k", "GSM8k_maj1k", "maj1@*")), 7,
        "maj1@k: the answer that most of k samples give; in the paper k = 256 for MATH and 100 for "
        "GSM8k (Minerva 540B: 64 and 40).",
    ),
    Layout(
        "Table 8. Code: problems solved in %",
        (Line("HumanEval@1", "humaneval", "HumanEval@1", "pass@1"),
         Line("HumanEval@100", "humaneval", "HumanEval@100", "pass@100"),
         Line("MBPP@1", "mbpp", "MBPP@1", "pass@1"), Line("MBPP@80", "mbpp", "MBPP@80", "pass@80")),
        8, "The paper samples at temperature 0.1 for @1 and 0.8 for @80 and @100.",
    ),
    Layout(
        "Table 9. MMLU, 5-shot: accuracy in %",
        (*(Line(name, "mmlu", name, name) for name in ("Humanities", "STEM")),
         Line("Social Sciences", "mmlu", "Social Sciences", "Social Science"),
         Line("Other", "mmlu", "Other", "Other"), Line("Average", "mmlu", "Average")), 9,
        "Averages are over questions; Anatomy counts to Other, as the paper's averages need.",
    ),
)  # fmt: skip


def find_result(record: Record, line: Line) -> Record | None:
    """A model's result on a line, in percent; None if it was not measured.

    ``floor`` is what it must rise above, None where that is not known; ``above`` says if it does.
    """
    result = record["tasks"].get(line.key)
    if result is None:
        return None
    n, value, se = result["n"], result["accuracy"], result["se"]
    floor = dict.fromkeys(FLOOR) | {"chance": result["chance"]}
    if line.part in result.get("groups", {}):
        n, value = result["groups"][line.part].values()
        se = math.sqrt(value * (1 - value) / n)
    elif line.part:
        measures = fnmatch.filter(result, line.part)
        value, se = result[measures[0]] if measures else None, None
    else:
        null = result.get("null") or {}
        floor |= {"majority": result["majority"], "5-gram": null.get("accuracy")}
    if value is None:
        return None
    return {
        "n": n,
        "accuracy": in_percent(value),
        "se": in_percent(se),
        "above": is_above(value, se, n, floor.values()),
        "floor": {name: in_percent(share) for name, share in floor.items()},
    }


def is_above(value: float, se: float | None, n: int, floor: Iterable[float | None]) -> bool:
    """Whether a share is more than two standard errors above all of ``floor``."""
    highest = max(share for share in floor if share is not None)
    if se is None or value <= highest:
        return False
    guesser = math.sqrt(highest * (1 - highest) / n)  # for few questions, all right
    return value - 2 * max(se, guesser) > highest


def in_percent(value: float | None) -> float | None:
    """A fraction in percent; None stays."""
    return None if value is None else round(100 * value, 4)


def decimals(value: float | None, digits: int = 1) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def result_text(result: Record | None) -> str:
    """A result with its standard error; for no hit at all, how many it could be."""
    if result is None:
        return "-"
    n, value, se = result["n"], result["accuracy"], result["se"]
    if value == 0:
        return f"0 of {n:,} (<{100 * zero_hit_bound(n):.2g}%)"
    error = "" if se is None else f" ±{se:.1f}"
    star = "*" if result["above"] else " "
    return f"{value:.1f}{error}{star}"


@dataclass(frozen=True)
class Table:
    """A table that can be shown."""

    heading: str
    columns: list[list[str]]  # each with two lines of heading; the first one names the lines
    notes: list[str]
    rows: list[dict[str, Any]]  # the same as data; accuracies in percent

    def as_text(self) -> str:
        """For the terminal. A wide table is cut in parts, with our columns in each."""
        label, *others = self.columns
        ours = [column for column in others if column[0] == OURS]
        parts = [[label]]
        for column in others:
            width = sum(2 + max(map(len, shown)) for shown in [*parts[-1], column])
            if width > WIDTH and len(parts[-1]) > 1:
                parts.append([label, *ours])
            if not any(column is shown for shown in parts[-1]):
                parts[-1].append(column)
        texts = []
        for part in parts:
            header, *rows = zip(*part, strict=True)
            texts.append(text_table(header, rows))
        texts[0] = f"{self.heading}\n{texts[0]}"
        notes = [textwrap.fill(note, WIDTH) for note in self.notes]
        return "\n\n".join([*texts, "\n".join(notes)]).rstrip()

    def as_markdown(self) -> str:
        """In one part, however wide."""
        header = [" ".join(filter(None, column[:2])) for column in self.columns]
        rows = zip(*(column[2:] for column in self.columns), strict=True)
        table = markdown_table(header, [[cell.strip() for cell in row] for row in rows])
        table = table.replace("*", "\\*").replace("<", "&lt;")
        return "\n\n".join([f"### {self.heading}", table, *self.notes])


def paper_table(layout: Layout, records: dict[str, Record]) -> Table:
    """One of the paper's tables with our results beside."""
    # Our results and the paper's, line by line.
    models = paper.table(layout.number) if layout.number else []
    rows, missing = [], []
    for line in layout.lines:
        ours = {name: find_result(record, line) for name, record in records.items()}
        known = next(filter(None, ours.values()), None)
        if known is None:
            missing.append(line)
            known = {"n": None, "floor": dict.fromkeys(FLOOR)}
        row = {"benchmark": line.label, "task": line.key, "n": known["n"], **known["floor"]}
        row["ours"] = ours
        row["paper"] = {f"{m['model']} {m['size']}": m[line.column] for m in models}
        rows.append(row)

    # The same as columns of text.
    columns = [["", "", *(row["benchmark"] for row in rows)]]
    columns.append(["", "n", *("-" if row["n"] is None else f"{row['n']:,}" for row in rows)])
    for name in FLOOR:
        columns.append(["", name, *(decimals(row[name]) for row in rows)])
    for name in records:
        columns.append([OURS, name, *(result_text(row["ours"][name]) for row in rows)])
    for model in sorted(models, key=lambda model: model["model"] != "LLaMA"):  # LLaMA first
        cells = [decimals(model[line.column]) for line in layout.lines]
        columns.append([model["model"], model["size"], *cells])

    notes = [layout.note] if layout.note else []
    return Table(layout.heading, columns, notes + gaps(missing) + cuts(layout, records), rows)


def gaps(missing: list[Line]) -> list[str]:
    """Which lines are empty, and why."""
    reasons: dict[str, list[str]] = {}
    for line in missing:
        absent = line.task().source.startswith("local")
        reason = "absent, as no package carries the data" if absent else "not measured here"
        reasons.setdefault(reason, []).append(line.label)
    return [f"{', '.join(labels)}: {reason}." for reason, labels in sorted(reasons.items())]


def cuts(layout: Layout, records: dict[str, Record]) -> list[str]:
    """How many prompts did not fit into a model."""
    notes = []
    keys = dict.fromkeys(line.key for line in layout.lines)
    for name, record in records.items():
        parts = []
        for key in keys:
            if count := record["tasks"].get(key, {}).get("truncated"):
                parts.append(f"{key} {count:,}")
        if parts:
            notes.append(f"Questions of which {name} saw only the end: {', '.join(parts)}.")
    return notes


def smooth_table(records: dict[str, Record]) -> Table:
    """Measures that move long before accuracy does, for all that was measured."""
    rows = []
    for key in dict.fromkeys(key for record in records.values() for key in record["tasks"]):
        row = {"task": key, "5-gram": {"gold_bpb": None}, "ours": {}}
        for name, record in records.items():
            result = record["tasks"].get(key, {})
            row["ours"][name] = {measure: result.get(measure) for measure in MEASURES}
            if null := result.get("null"):
                row["5-gram"] = {"gold_bpb": null["gold_bpb"]}
        rows.append(row)
    columns = [["", "", *(row["task"] for row in rows)]]
    columns.append(["5-gram", "gold bpb", *(decimals(r["5-gram"]["gold_bpb"], 3) for r in rows)])
    for name in records:
        for measure, label in MEASURES.items():
            columns.append([name, label, *(decimals(r["ours"][name][measure], 3) for r in rows)])
    note = (
        "gold bpb: bits per byte of the right answers, lower is better; gain: how many of them the "
        "question saves (0: it is ignored); p(right): the right choice's share of probability."
    )
    return Table("What small models can show", columns, [note], rows)


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
    settings = {(r["settings"]["style"], r["settings"]["limit"]) for r in records.values()}
    if len(settings) != 1:
        what = f"these evaluations cannot stand in one table: {settings}"
        raise ConfigError(what, "evaluate all in the same way")

    # The tables of which something was measured, and the names of the others.
    measured = {key for record in records.values() for key in record["tasks"]}
    tables, missing = [], []
    for layout in LAYOUTS:
        if any(line.key in measured for line in layout.lines):
            tables.append(paper_table(layout, records))
        elif complete:
            missing.append(left_out(layout))
    known = {line.key for layout in LAYOUTS for line in layout.lines}
    others = tuple(Line(key, key, "") for key in sorted(measured - known))
    if others:
        tables.append(paper_table(Layout("Not in the paper: accuracy in %", others), records))
    tables.append(smooth_table(records))

    # All of it in one form.
    if form == "json":
        about = {}
        for name, record in records.items():
            about[name] = {key: value for key, value in record.items() if key != "tasks"}
        data = [{"heading": t.heading, "rows": t.rows, "notes": t.notes} for t in tables]
        whole = {"models": about, "tables": data, "not_measured": missing}
        return json.dumps(whole, indent=2, ensure_ascii=False)
    if form == "markdown":
        return "\n\n".join([*introduction(records), *map(Table.as_markdown, tables), *missing])
    top = "\n".join(textwrap.fill(line, WIDTH) for line in introduction(records))
    parts = [top, *(table.as_text() for table in tables), "\n".join(missing)]
    return "\n\n".join(filter(None, parts))


def left_out(layout: Layout) -> str:
    """What to say of a table of which nothing was measured: how to measure it."""
    tasks = list(dict.fromkeys(line.task() for line in layout.lines))
    what = f"Table {layout.number} ({', '.join(task.label for task in tasks)})"
    if all(task.source.startswith("local") for task in tasks):
        return f"{what} is absent: no package carries the data."
    names = " ".join(task.name for task in tasks)
    return f"{what} is not measured: minillama evaluate RUN --tasks {names}"


def introduction(records: dict[str, Record]) -> list[str]:
    """Which models these are, and how they were asked."""
    lines = []
    for name, record in records.items():
        size = f"{record['parameters']:,} parameters, " if "parameters" in record else ""
        loss = record["perplexity"]
        after = "" if loss is None else f", validation perplexity {loss:.1f}"
        lines.append(f"{name}: {size}step {record['step']}, {record['tokens']:,} tokens{after}")
    settings = next(iter(records.values()))["settings"]
    style, limit = settings["style"], settings["limit"]
    questions = "all questions" if limit is None else f"at most {limit} questions of each benchmark"
    lines.append(f"Prompts in the style {style} ({STYLES[style]}); {questions}.")
    lines.append(
        "±: one standard error. *: more than two of them above chance, majority (the place that is "
        "right most often) and the 5-gram model. In brackets: 95% bound where there is no hit."
    )
    return lines


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
    records = {}
    for run, name in zip(runs, names, strict=True):
        label = str(run) if names.count(name) > 1 else name
        records[label] = last_record(run, step, style, limit)
    return report(records, form, complete=True)


def last_record(run: Path, step: int | None, style: str, limit: int | None) -> Record:
    """What is stored of a run. Raises ``DataError`` that names what there is instead."""
    wanted = "*" if step is None else f"{step:08d}"
    name = scoring.record_name(f"step-{wanted}", {"style": style, "limit": limit})
    folder = run / "evaluations"
    dots = name.count(".")  # another style or limit adds one
    found = [path for path in folder.glob(f"{name}.json") if path.stem.count(".") == dots]
    if not found:
        there = ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"
        what = f"{run} has no evaluation {name} (there are: {there})"
        raise DataError(what, "run `minillama evaluate`")
    parameters = read_config(run / "config.toml").model.num_parameters()
    return {"parameters": parameters} | scoring.read_record(max(found))
