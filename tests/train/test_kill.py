"""A run killed with SIGKILL at any moment and started again is the run that was never killed."""

import json
import os
from collections import Counter

import pytest
from killing import assert_same_run
from tiny import ROOT, python


def kill(corpus, runs, mode, seed=0, timeout=100):
    """Run killing.py; its report on every kill."""
    script = ROOT / "tests" / "helpers" / "killing.py"
    path = os.pathsep.join([str(ROOT / "tests" / "helpers"), str(ROOT)])
    done = python(str(script), str(corpus), str(runs), mode, str(seed), timeout=timeout,
                  env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert not done.returncode, done.stderr[-3_000:]
    report = json.loads(done.stdout)
    for run in {entry["run"] for entry in report}:
        assert_same_run(runs / run, runs / "reference")
    return report


def test_twenty_kills_change_nothing(tiny_corpus, tmp_path):
    report = kill(tiny_corpus.folder, tmp_path / "runs", "20")
    assert len(report) == 20
    assert Counter(entry["kind"] for entry in report).keys() == {"writing", "operation", "time"}
    assert sum(entry["half_written"] for entry in report) >= 3
    assert len({tuple(entry["steps"]) for entry in report}) >= 3  # early and late


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hundreds_of_kills(tiny_corpus, tmp_path, seed):
    report = kill(tiny_corpus.folder, tmp_path / "runs", "150", seed, timeout=3_000)
    assert len(report) == 150
    assert sum(entry["half_written"] for entry in report) >= 25


@pytest.mark.soak
def test_a_kill_at_every_file_operation(tiny_corpus, tmp_path):
    report = kill(tiny_corpus.folder, tmp_path / "runs", "every", timeout=3_000)
    assert len(report) > 100
    assert sum(entry["half_written"] for entry in report) > 20
