"""The table of environments: counts, a Python that is not here, and the exit status."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("portable", Path(__file__).with_name("portable.py"))
portable = importlib.util.module_from_spec(spec)
spec.loader.exec_module(portable)

TESTS = """
import os, pytest
def test_variable(): assert os.environ.get("OMP_NUM_THREADS") != "4"
def test_skipped(): pytest.skip("not now")
def test_right(): pass
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "test_few.py").write_text(TESTS)
    monkeypatch.setattr(portable, "make_environment", lambda version: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return ["--rootdir", str(tmp_path), str(tmp_path / "test_few.py")]


def test_one_row_an_environment(arguments, monkeypatch, capsys):
    four = {"OMP_NUM_THREADS": "4"}
    monkeypatch.setattr(portable, "ENVIRONMENTS", {"as it is": {}, "four threads": four})
    assert portable.main(arguments) == 1
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}
    assert table["environment"] == ["passed", "failed", "skipped", "seconds"]
    assert table["as it is"][:3] == ["2", "0", "1"]
    assert table["four threads"][:3] == ["1", "1", "1"]
    assert table["Python 3.12"] == table["Python 3.13"] == ["not here"]


def test_a_run_that_never_started_is_a_failure(arguments, monkeypatch, capsys):
    monkeypatch.setattr(portable, "ENVIRONMENTS", {"as it is": {}})
    assert portable.main([*arguments[:2], "no_such_file.py"]) == 1
    assert "exit 4" in capsys.readouterr().out


def test_a_python_is_found_only_if_it_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert portable.find_python("3.12") is None
