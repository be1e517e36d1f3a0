"""What all tests share: one tiny corpus, built by the real code from archives made here."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny import TinyCorpus, make_corpus
from tqdm import tqdm

torch.set_num_threads(1)
# A busy machine is no failure: neither a slow example nor slow making of examples.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
tqdm.monitor_interval = 0  # no thread: some tests fork
sys.path.insert(0, str(Path(__file__).parents[1]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out, unless markers were asked for (``pytest -m soak``)."""
    if config.getoption("-m"):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soak)
    items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    """A built corpus of three slices and 320 pieces. Never change it: copy it first."""
    return make_corpus(tmp_path_factory.mktemp("tiny corpus"))  # a space in the path
