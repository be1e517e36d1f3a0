"""The paper's tables with ours beside: every number is where it belongs, and nothing is hidden."""

import json

import pytest
from tiny import tiny_config

from minillama import paper
from minillama.apps import cli
from minillama.apps.report import LAYOUTS, WIDTH, report, report_runs
from minillama.errors import ConfigError, DataError
from minillama.evaluate.scoring import FORMAT
from minillama.evaluate.tasks import TASKS
from minillama.files import write_json
from minillama.train.config import write_config


def result(accuracy, n=400, **changes):
    """What a record holds of a task; the normalizer's other measures left out."""
    told = {
        "n": n, "accuracy": accuracy, "se": 0.02, "chance": 0.25, "majority": 0.27,
        "gold_bpb": 3.125, "context_gain": 0.011, "correct_probability": 0.251, "truncated": 0,
        "groups": {}, "null": {"accuracy": 0.262, "gold_bpb": 3.5},
    }  # fmt: skip
    return told | changes


def make_record(tasks, limit=None, style="llama", **changes):
    settings = {"format": FORMAT, "style": style, "limit": limit, "wheel": "benchmarks==1.0"}
    record = {"step": 12, "tokens": 4096, "perplexity": 45.678, "settings": settings}
    return record | {"tasks": tasks} | changes


GROUPS = {
    "Humanities": {"n": 100, "accuracy": 0.21}, "STEM": {"n": 80, "accuracy": 0.22},
    "STEM/astronomy": {"n": 40, "accuracy": 0.9}, "Other": {"n": 120, "accuracy": 0.24},
    "Social Science": {"n": 100, "accuracy": 0.23},
}  # fmt: skip
WRITTEN = {"chance": 0.0, "majority": 0.0, "se": 0.0, "null": None}
FULL = {
    "boolq": result(0.61, 3270, truncated=49), "piqa": result(0.515), "hellaswag": result(0.345),
    "mmlu": result(0.2255, groups=GROUPS), "lambada": result(0.015, **WRITTEN),
    "natural_questions": result(0.0, 3610, **WRITTEN),
    "natural_questions-5shot": result(0.004, 3610, **WRITTEN | {"se": 0.001}),
    "gsm8k": result(0.02, 1319, **WRITTEN, **{"maj1@40": 0.031}),
    "humaneval": result(0.0, 164, **WRITTEN, **{"pass@1": 0.0, "pass@10": 0.2}),
    "mbpp": result(None, 500, **WRITTEN | {"se": None}),
}  # fmt: skip


def table_of(number, records):
    data = json.loads(report(records, "json"))
    return next(t for t in data["tables"] if t["heading"].startswith(f"Table {number}."))


def row_of(number, label, records):
    return next(r for r in table_of(number, records)["rows"] if r["benchmark"] == label)


@pytest.fixture
def records():
    return {"nano-7b": make_record(FULL), "nano-13b": make_record(FULL | {"piqa": result(0.7)})}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"table {layout.number}")
def test_every_line_is_a_column_of_the_paper(layout):
    row = paper.table(layout.number)[0]
    assert {line.column for line in layout.lines} == set(row) - {"model", "size"}
    assert all(line.key.split("-")[0] in TASKS for line in layout.lines)


def test_our_numbers_stand_in_their_lines(records):
    row = row_of(3, "PIQA", records)
    assert (row["n"], row["chance"], row["majority"], row["5-gram"]) == (400, 25, 27, 26.2)
    assert [row["ours"][name]["accuracy"] for name in records] == [51.5, 70]
    assert row["paper"]["LLaMA 13B"] == 80.1 and row["paper"]["PaLM-cont 62B"] == 81.4
    assert row_of(3, "OBQA", records)["ours"] == {"nano-7b": None, "nano-13b": None}
    assert row_of(9, "STEM", records)["ours"]["nano-7b"]["accuracy"] == 22
    assert row_of(9, "Social Sciences", records)["ours"]["nano-7b"]["n"] == 100
    assert row_of(9, "Average", records)["ours"]["nano-7b"]["accuracy"] == 22.55
    assert row_of(4, "5-shot", records)["ours"]["nano-7b"]["accuracy"] == 0.4
    assert row_of(4, "64-shot", records)["ours"]["nano-7b"] is None
    assert row_of(7, "GSM8k maj1@k", records)["ours"]["nano-7b"]["accuracy"] == 3.1
    assert row_of(7, "GSM8k", records)["ours"]["nano-7b"]["accuracy"] == 2
    assert row_of(8, "HumanEval@100", records)["ours"]["nano-7b"] is None
    assert row_of(8, "MBPP@1", records)["ours"]["nano-7b"] is None  # nothing was executed


@pytest.mark.parametrize(
    ("value", "floor", "starred"),
    [
        (0.345, {}, True),
        (0.305, {}, False),  # within two standard errors of the most frequent answer
        (0.345, {"null": {"accuracy": 0.31, "gold_bpb": 3.0}}, False),
        (0.345, {"majority": 0.33}, False),
        (0.345, {"null": None}, True),
        (1.0, {"n": 1, "se": 0.0}, False),  # one question may be luck
        (1.0, {"n": 20, "se": 0.0}, True),
    ],
)
def test_a_star_needs_more_than_chance_majority_and_the_5_gram(value, floor, starred):
    text = report({"tiny": make_record({"hellaswag": result(value, **floor)})})
    line = next(line for line in text.splitlines() if line.startswith("HellaSwag"))
    assert f"{100 * value:.1f} ±{100 * floor.get('se', 0.02):.1f}{'*' if starred else ''}" in line
    assert ("*" in line) == starred


def test_no_hit_is_a_bound(records):
    text = report(records)
    assert "0 of 3,610 (<0.083%)" in text and "0 of 164 (<1.8%)" in text
    bound = 0.00083
    assert (1 - bound) ** 3610 == pytest.approx(0.05, rel=0.02)


def test_what_is_missing_is_said():
    text = report({"tiny": make_record(FULL | {"race_high": result(0.3)})}, complete=True)
    assert "RACE-middle: absent, as no package carries the data." in text
    assert "MATH, MATH maj1@k: not measured here." in text
    assert "minillama evaluate RUN --tasks triviaqa" in text and "Table 5 (TriviaQA)" in text
    assert "Table 5." not in text and "Table 6." in text
    without = report({"tiny": make_record(FULL)}, complete=True)
    assert "Table 6 (RACE-middle, RACE-high) is absent: no package carries the data." in without


def test_what_a_reader_must_know(records):
    told = report({"nano-7b": make_record(FULL, limit=400) | {"parameters": 157856}})
    text = " ".join(told.split())
    assert "157,856 parameters" in text and "perplexity 45.7" in text
    assert "style llama" in text and "at most 400 questions" in text
    assert "76.7, 78.1, 81.4 and 81.5" in text  # the model card's ARC-e
    assert "nano-7b saw only the end: boolq 49" in text
    assert "Not in the paper: accuracy in %" in text and "lambada" in text
    assert "all questions" in " ".join(report(records).split())


def test_smooth_measures(records):
    data = json.loads(report(records, "json"))["tables"][-1]
    row = next(row for row in data["rows"] if row["task"] == "hellaswag")
    assert row["ours"]["nano-13b"] == {
        "gold_bpb": 3.125, "context_gain": 0.011, "correct_probability": 0.251,
    }  # fmt: skip
    assert row["5-gram"]["gold_bpb"] == 3.5
    assert {row["task"] for row in data["rows"]} == set(FULL)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_terminal_is_wide_enough(count):
    text = report({f"nano-{i}": make_record(FULL) for i in range(count)}, complete=True)
    assert max(map(len, text.splitlines())) <= WIDTH
    for model in ("LLaMA", "Chinchilla", "PaLM-cont", "GPT-NeoX", "LaMDA"):
        assert model in text
    assert text.count("BoolQ  ") >= 2  # the table in parts, each with the names of its lines


def test_markdown_has_all_columns_in_one_table(records):
    text = report(records, "markdown")
    lines = text.splitlines()
    top = next(i for i, line in enumerate(lines) if line.startswith("### Table 3.")) + 2
    heads, rule, boolq = (
        [cell.strip() for cell in lines[i].strip("|").split("|")] for i in range(top, top + 3)
    )
    assert len(heads) == len(rule) == len(boolq) == 5 + 2 + 10
    assert dict(zip(heads, boolq, strict=True))["LLaMA 65B"] == "85.3"
    assert dict(zip(heads, boolq, strict=True))["ours nano-7b"] == "61.0 ±2.0\\*"
    assert "&lt;0.083%" in text  # a bare < would begin a tag


def test_two_styles_or_limits_do_not_mix():
    with pytest.raises(ConfigError, match="cannot stand in one table"):
        report({"a": make_record(FULL), "b": make_record(FULL, style="olmes")})
    with pytest.raises(ConfigError, match="cannot stand in one table"):
        report({"a": make_record(FULL), "b": make_record(FULL, limit=5)})
    with pytest.raises(ConfigError):
        report({})


@pytest.fixture
def runs(tmp_path, tiny_corpus):
    folders = []
    for name, value in (("x/nano", 0.3), ("y/nano", 0.4)):
        run = tmp_path / name
        write_config(run / "config.toml", tiny_config(tiny_corpus.folder, tmp_path))
        for step, suffix in ((3, ""), (12, ""), (12, ".limit-5"), (12, ".olmes")):
            record = make_record({"piqa": result(value + step / 100)}, step=step)
            write_json(run / "evaluations" / f"step-{step:08d}{suffix}.json", record)
        folders.append(run)
    return folders


def test_from_the_command_line(runs, capsys):
    cli.run(["report", str(runs[0])])
    assert "42.0 ±2.0" in capsys.readouterr().out
    cli.run(["report", *map(str, runs), "--step", "3", "--form", "json"])
    data = json.loads(capsys.readouterr().out)
    assert [r["accuracy"] for r in data["tables"][0]["rows"][1]["ours"].values()] == [33, 43]
    with pytest.raises(DataError, match="no evaluation step-[*].limit-7 .there are: step-00000003"):
        cli.run(["report", str(runs[0]), "--limit", "7"])


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"settings": {"format": 1, "limit": null}}'])
def test_records_of_another_form_are_named(runs, text):
    path = runs[0] / "evaluations" / "step-00000012.json"
    path.write_text(text)
    with pytest.raises(DataError, match="step-00000012.json was not written by this version"):
        report_runs((runs[0],))
