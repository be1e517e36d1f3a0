"""Contestants take turns; only counted rounds count; ratios are of turns that followed another."""

import time

from minillama.bench.race import Timed, race, table_of


def test_contestants_take_turns_after_a_warm_up():
    order, clock = [], iter(range(100))
    turns = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    results = race(turns, rounds=3, warm_up=2, clock=lambda: next(clock))
    assert order == ["a", "b"] * 5
    assert results["a"].seconds == [1, 1, 1]
    assert results["b"].outputs == [2, 10]  # of the first turn and the last


def test_a_contestant_may_bring_its_own_time():
    seconds = {"a": iter([9.0, 1, 2, 3]), "b": iter([9.0, 2, 2, 9])}
    turns = {name: lambda name=name: Timed(next(seconds[name]), name) for name in "ab"}
    results = race(turns, rounds=3)
    assert results["b"].seconds == [2, 2, 9] and results["b"].outputs == ["b", "b"]
    assert (results["b"].median, results["b"].best) == (2, 2)
    assert results["b"].slower_than(results["a"]) == 2  # the median of 2, 1 and 3


def test_the_clock_runs_during_the_turn():
    results = race({"sleep": lambda: time.sleep(0.02)}, rounds=1, clock=time.perf_counter)
    assert results["sleep"].best >= 0.02


def test_a_table_of_rows():
    table = table_of([(1, 2)], {"first": lambda row: row[0], "second": lambda row: row[1]})
    assert table.splitlines() == ["first  second", "1           2"]
