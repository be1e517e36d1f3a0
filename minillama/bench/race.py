"""Races: contestants take turns, so that a machine whose speed drifts slows all alike.

Ratios are medians of paired ratios: those of turns that followed one another.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from minillama.figures.provenance import provenance
from minillama.tables import text_table


@dataclass(frozen=True)
class Timed:
    """What a contestant returns that has timed itself, such as a foreign program."""

    seconds: float
    output: Any = None


@dataclass(frozen=True)
class Result:
    """The turns of one contestant."""

    seconds: list[float] = field(default_factory=list)
    """Of the counted rounds."""
    outputs: list[Any] = field(default_factory=list)
    """What it returned in the first round and in the last, which may be one."""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Seconds."""
        return min(self.seconds)

    def slower_than(self, other: "Result") -> float:
        """How many times as long it takes: the median of the paired ratios."""
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(own / reference for own, reference in pairs)


def race(
    contestants: dict[str, Callable[[], Any]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Result]:
    """Let each contestant take its turn in every round.

    Args:
        contestants: functions by name; on a GPU they wait for it.
        rounds: counted rounds.
        warm_up: rounds before them that are not counted.
        clock: tells seconds.
    """
    results = {name: Result() for name in contestants}
    for number in range(-warm_up, rounds):
        for name, take_turn in contestants.items():
            began = clock()
            output = take_turn()
            seconds = clock() - began
            if isinstance(output, Timed):
                seconds, output = output.seconds, output.output
            if number >= 0:
                results[name].seconds.append(seconds)
            results[name].outputs[1:] = [output]
    return results


Columns = dict[str, Callable[[Any], Any]]
"""By header, how a cell is made of a row."""


def table_of(rows: Sequence[Any], columns: Columns) -> str:
    """Lay out the rows of a benchmark."""
    lines = [[cell(row) for cell in columns.values()] for row in rows]
    return text_table(list(columns), lines)


def bench_origin(verb: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a benchmark with these flags; a tuple is several values, None is not set."""
    command = ["minillama", "bench", verb]
    for name, value in settings.items():
        if value is None:
            continue
        command.append(f"--{name.replace('_', '-')}")
        values = value if isinstance(value, tuple) else (value,)
        command += map(str, values)
    shown = settings | {"threads": torch.get_num_threads()}
    shown.pop("out", None)
    return provenance(command) | {"settings": shown}
