"""How far one walks to understand training: the files from ``train(config)`` to the first step."""

import sys
from pathlib import Path

import pytest
from tiny import TinyCorpus, tiny_config

import minillama
from minillama.train import loop

PACKAGE = Path(minillama.__file__).parent
MOST = 15
"""Files of the package in which a line runs before the first update; the model is one stop."""


class FirstStep(Exception):
    """The first gradient is there."""


def test_the_walk_to_the_first_step_visits_few_files(
    tiny_corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arrive(*_: object) -> None:
        raise FirstStep

    visited = set()

    def note(frame: object, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            file = Path(frame.f_code.co_filename).relative_to(PACKAGE)
            visited.add("model/" if file.parts[0] == "model" else file.as_posix())

    monkeypatch.setattr(loop, "clip_gradients", arrive)
    config = tiny_config(tiny_corpus.folder, tmp_path)
    sys.setprofile(note)
    try:
        with pytest.raises(FirstStep):
            loop.train(config)
    finally:
        sys.setprofile(None)
    assert "model/" in visited
    assert len(visited) <= MOST, sorted(visited)
