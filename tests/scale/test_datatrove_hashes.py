"""Deduplication on many machines drops what one machine drops, whatever the shares."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("datatrove")

from minillama.corpus.c4 import REPEATED_SPANS
from minillama.corpus.commoncrawl import REPEATED_LINES
from minillama.corpus.deduplicate import HashSet, hash64
from minillama.corpus.document import Document, to_json
from minillama.corpus.pipeline import ExactDuplicates, StepContext, fresh_hashes, run
from minillama.scale.datatrove import Engine, make_executors
from minillama.scale.datatrove_steps import (
    Noting,
    bucket_bounds,
    written_parts,
)

LINES = [f"Sentence {word} comes first. It is a line of {word}." for word in
         ("ice", "moss", "rain", "sand", "wood", "wind", "fire", "clay")]  # fmt: skip


@pytest.fixture
def parts(tmp_path):
    """Eight files of pages that share lines; two are empty."""
    rng = random.Random(3)
    for number in range(8):
        count = 0 if number in (0, 5) else 6
        documents = (
            Document(
                "\n".join(rng.choices(LINES, k=rng.choice((1, 2, 5)))), "c4", "s", f"{number}-{i}"
            )
            for i in range(count)
        )
        path = tmp_path / "in" / f"{number:05d}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(map(to_json, documents)))
    return written_parts(tmp_path / "in", 8)


def distributed(inputs, steps, output, tasks):
    engine = Engine(tasks=tasks, workers=1)
    make_executors(inputs, steps, StepContext(), output, engine)[-1].run()
    return [path.read_text() for path in sorted((output / "clean").iterdir())]


@pytest.mark.parametrize("step", [REPEATED_LINES, ExactDuplicates(), REPEATED_SPANS])
def test_the_same_for_any_number_of_tasks(step, parts, tmp_path):
    rows = []
    everything = (d for part in parts for d in part.documents(StepContext(), None))
    alone = "".join(map(to_json, run((step,), everything, rows, StepContext())))
    assert rows[0].dropped or rows[0].removed
    for tasks in (1, 2, 3, 8):
        done = distributed(parts, (step,), tmp_path / f"{tasks}", tasks)
        assert "".join(done) == alone and len(done) == 8


def test_two_such_steps_one_after_the_other(parts, tmp_path):
    steps = (REPEATED_SPANS, REPEATED_LINES)
    one, three = (distributed(parts, steps, tmp_path / str(n), n) for n in (1, 3))
    assert one == three and any(one)


def test_the_counts_of_all_tasks_add_up(parts, tmp_path):
    rows = []
    everything = (d for part in parts for d in part.documents(StepContext(), None))
    list(run((REPEATED_LINES,), everything, rows, StepContext()))
    distributed(parts, (REPEATED_LINES,), tmp_path / "out", 3)
    told = json.loads((tmp_path / "out" / "logs" / "02-of-3-tasks" / "stats.json").read_text())
    removed = told[1]["stats"]["removed_repeated lines"]
    assert rows[0].removed == {"repeated lines": removed["total"]}


def test_every_hash_has_one_bucket():
    assert bucket_bounds(1).tolist() == [0]
    assert bucket_bounds(4).tolist() == [0, 2**62, 2**63, 3 * 2**62]
    bounds = bucket_bounds(7)
    hashes = np.sort(np.array([hash64(str(i)) for i in range(7_000)], dtype=np.uint64))
    sizes = [len(part) for part in np.split(hashes, np.searchsorted(hashes, bounds[1:]))]
    assert sum(sizes) == 7_000 and min(sizes) > 800  # spread evenly


def test_a_set_that_knows_hashes(tmp_path):
    seen = HashSet(buffer=4, folder=tmp_path)
    seen.know(np.array([], dtype=np.uint64))
    seen.know(np.array([2, 5, 9], dtype=np.uint64))
    assert seen.first_time([1, 2, 2, 5, 9, 10]) == [True, False, False, False, False, True]
    for number in range(100, 130):  # merged with others, on disk
        assert seen.first_time([number, number]) == [True, False]
    assert seen.first_time([2, 5, 9, 1]) == [False] * 4 and len(seen) == 35


def test_steps_take_their_set_from_the_context():
    noting = Noting()
    assert fresh_hashes(StepContext(hashes=lambda: noting)) is noting
    assert noting.first_time(iter([3, 3])) == [True, True]
    assert noting.requests[0].tolist() == [3, 3]
