"""The comparison with datatrove: the same inputs, honest clocks, and steps that agree."""

import multiprocessing
import time

import pytest
from tiny import ROOT

pytest.importorskip("datatrove")

from minillama.bench import data as bench
from minillama.bench.race import table_of
from minillama.corpus.c4 import C4Rules, clean_page
from minillama.corpus.language import LanguageModel
from minillama.errors import ConfigError

STEPS = ["extraction", "language", "quality", "near duplicates"]
PLACES = {"downloads": ROOT / "data" / "downloads", "sources": ROOT / "data" / "sources.toml"}


@pytest.fixture(scope="module")
def rows():
    return bench.bench_data(megabytes=0.03, rounds=1, **PLACES)


def test_every_step_is_measured(rows):
    assert [row.name for row in rows] == STEPS
    assert all(row.ours > 0 and row.megabytes > 0.02 and row.kept.endswith("%") for row in rows)
    for row in rows:  # timed, or left out with a reason
        assert (row.reference is None) == bool(row.absent)


def test_both_find_the_same_language(rows):
    row = next(row for row in rows if row.name == "language")
    assert row.reference > 0 and row.kept_reference == "100%"
    assert float(row.kept.rstrip("%")) >= 90  # of a few pages ours sees the beginning only


def test_the_table_says_it_all(rows):
    lines = table_of(rows + bench.add_up(rows), bench.COLUMNS).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [*STEPS, "together"]
    for line, row in zip(lines[1:], rows, strict=False):
        assert ("-" in line) == (row.reference is None)


def test_sums_and_ratios():
    rows = [
        bench.DataRow("language", 2.0, 1.0, "100%", 3.0, "100%"),
        bench.DataRow("quality", 4.0, 0.5, "50%", 1.5),
        bench.DataRow("near duplicates", 4.0, 9.0, "100%"),
    ]
    [together] = bench.add_up(rows)  # of the steps that both have done
    assert (together.ours, together.reference) == (1.5, 4.5)
    assert bench.add_up(rows[2:]) == []
    assert table_of([together], bench.COLUMNS).split()[-4:] == ["2.00", "1.33", "0.44", "3.00x"]


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

    def ours(texts):
        calls.append(("ours", len(texts)))
        return list(texts)

    def reference(texts):
        calls.append(("reference", len(texts)))
        return texts[:1]

    row = bench.measure_step("x", ["abc", "", "def"], ours, reference, rounds=2)
    assert calls == [(who, size) for size in (2, 3, 3) for who in ("ours", "reference")]
    assert (row.megabytes, row.kept, row.kept_reference) == (6e-6, "100%", "50%")


def test_a_step_whose_package_is_missing_is_named():
    def broken(texts):
        raise ImportError("Please install `spacy` to use it (`pip install spacy`).")

    row = bench.measure_step("x", ["a"], list, broken, rounds=1)
    assert row.reference is None
    assert row.absent == "not compared: Please install `spacy` to use it"


def test_their_language_step_gets_our_predictor():
    model = LanguageModel.find(**PLACES)
    english, german = "The llama lives in the Andes.", "Das Lama lebt in den Anden."
    texts = [english, german, english + "\n" + english]
    assert bench.datatrove_language(model, texts) == texts[::2]
    assert bench.keep_english(model, texts) == texts[::2]


def test_our_contenders_are_the_steps_themselves():
    prose = "Llamas live in the high Andes. They eat grass all day. They carry loads for people."
    page = f"{prose}\nMenu\n{prose}"
    assert bench.apply_c4_rules([page, "{ code }"]) == [f"{prose}\n{prose}"]
    assert clean_page(page, C4Rules(), bench.Counter())[0] == f"{prose}\n{prose}"
    assert bench.drop_duplicates([page * 9, "other", page * 9]) == [page * 9, "other"]


@pytest.mark.parametrize("wrong", [{"megabytes": 0.0}, {"rounds": 0}])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError, match="rounds"):
        bench.bench_data(**wrong, **PLACES)
