"""The comparison with datatrove: the same inputs, honest clocks, and steps that agree."""

import multiprocessing
import time

import pytest
from tiny import ROOT

pytest.importorskip("datatrove")

from minillama.bench import data as bench
from minillama.corpus.c4 import C4Rules, clean_page
from minillama.corpus.language import LanguageModel
from minillama.errors import ConfigError

PLACES = {"downloads": ROOT / "data" / "downloads", "sources": ROOT / "data" / "sources.toml"}


@pytest.fixture(scope="module")
def rows():
    return bench.bench_data(megabytes=0.03, rounds=1, **PLACES)


def test_every_step_is_measured(rows):
    assert [row.name for row in rows] == list(bench.STEPS)
    assert all(row.ours > 0 and row.megabytes > 0.02 and 0 < row.kept <= 1 for row in rows)
    for row in rows:  # timed, or left out with a reason
        assert (row.theirs is None) == bool(row.absent)
        assert row.ratio is None or row.ratio == row.theirs / row.ours
    assert rows[-1].absent.startswith("datatrove's asks for kenlm")


def test_both_find_the_same_language(rows):
    row = next(row for row in rows if row.name == "language")
    assert row.theirs > 0 and row.kept == row.kept_theirs > 0.5


def test_the_table_says_it_all(rows):
    lines = bench.render(rows).splitlines()
    assert len(lines) == len(bench.STEPS) + 2
    assert [line.split("  ")[0] for line in lines[1:]] == [*bench.STEPS, "together"]
    assert all(
        ("-" in line) == (row.theirs is None) for line, row in zip(lines[1:], rows, strict=False)
    )


def test_sums_and_ratios():
    rows = [
        bench.Row("language", 2.0, 1.0, 1.0, 3.0, 1.0), bench.Row("quality", 4.0, 0.5, 0.5, 1.5),
        bench.Row("perplexity", 4.0, 9.0, 1.0), bench.Row("repeated lines", 4.0, 9.0, 1.0),
    ]  # fmt: skip
    together = bench.total(rows)  # of the steps that both have done
    assert (together.ours, together.theirs, together.ratio) == (1.5, 4.5, 3.0)
    assert bench.total(rows[2:]) is None
    assert bench.render(rows[2:]).count("\n") == 2
    assert "1.33       0.44   3.00x" in bench.render(rows).splitlines()[-1]


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_clock_counts_children_and_no_sleep():
    began = bench.processor_seconds()
    time.sleep(0.2)
    assert bench.processor_seconds() - began < 0.1
    child = multiprocessing.get_context("fork").Process(target=burn, args=(0.2,))
    child.start()
    while child.is_alive():  # collected by the clock, not by join
        time.sleep(0.01)
    assert bench.processor_seconds() - began > 0.19


def test_rounds_alternate_after_a_warm_up():
    calls = []
    contest = bench.Contest(
        "x", ["abc", "", "def"],
        lambda texts: calls.append(("ours", len(texts))) or list(texts),
        lambda texts: calls.append(("theirs", len(texts))) or texts[:1],
    )  # fmt: skip
    row = bench.compare(contest, rounds=2)
    assert calls == [(who, size) for size in (2, 3, 3) for who in ("ours", "theirs")]
    assert (row.megabytes, row.kept, row.kept_theirs) == (6e-6, 1.0, 0.5)


def test_a_step_whose_package_is_missing_is_named():
    def broken(trove):
        raise ImportError("Please install `spacy` to use it (`pip install spacy`).")

    contest = bench._contest("x", ["a"], list, broken)
    assert contest.theirs is None
    assert contest.absent == "not compared: Please install `spacy` to use it"


def test_their_language_step_gets_our_predictor():
    model = LanguageModel.find(**PLACES)
    english, german = "The llama lives in the Andes.", "Das Lama lebt in den Anden."
    [label, *_], [probability, *_] = bench.SamePredictor(model).predict(german, k=-1)
    assert label == "__label__de" and probability == pytest.approx(model.guess(german).probability)
    texts = [english, german, english + "\n" + english]
    assert bench.Trove().language(model)(texts) == bench.english(model)(texts) == texts[::2]


def test_our_contenders_are_the_steps_themselves():
    prose = "Llamas live in the high Andes. They eat grass all day. They carry loads for people."
    page = f"{prose}\nMenu\n{prose}"
    assert bench.c4_rules([page, "{ code }"]) == [f"{prose}\n{prose}"]
    assert clean_page(page, C4Rules(), bench.Counter())[0] == f"{prose}\n{prose}"
    lines = bench.without_repetition(bench.drop_repeated_lines)
    assert lines(["one\ntwo", "two\nthree"]) == ["one\ntwo", "three"]
    assert bench.near_duplicates([page * 9, "other", page * 9]) == [page * 9, "other"]


@pytest.mark.parametrize("wrong", [{"megabytes": 0.0}, {"rounds": 0}, {"steps": ("speling",)}])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError, match="there is no step" if "steps" in wrong else "rounds"):
        bench.bench_data(**wrong, **PLACES)
