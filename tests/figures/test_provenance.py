"""What is said about where a figure comes from is true."""

import hashlib
import json
import platform
import shutil
import subprocess

import pytest
import torch
from tiny import ROOT, tiny_config

from minillama.corpus.token_files import open_corpus
from minillama.figures import provenance as module
from minillama.figures.provenance import code, describe_run, hardware, provenance, versions
from minillama.figures.runs import read_run
from minillama.train.loop import train


@pytest.fixture(scope="module")
def run(tiny_corpus, tmp_path_factory):
    return read_run(train(tiny_config(tiny_corpus.folder, tmp_path_factory.mktemp("runs"))), "7b")


def test_everything_is_there_and_plain(run):
    told = provenance(["minillama", "figures", "--out", "my figures"], [run])
    assert json.loads(json.dumps(told)) == told
    assert told["command"] == "minillama figures --out 'my figures'"
    assert set(told) == {"command", "commit", "dirty", "date", "hardware", "versions", "runs"}
    assert told["date"].endswith("+00:00")
    assert platform.node() not in json.dumps(told) or platform.node() in ("", "localhost")


def test_the_run_is_identified(run, tiny_corpus):
    told = describe_run(run)
    for name in ("config.toml", "metrics.jsonl"):
        digest = hashlib.sha256((run.folder / name).read_bytes()).hexdigest()
        assert told[f"{name.split('.')[0]}_sha256"] == digest
    assert told["data_sha256"] == open_corpus(tiny_corpus.folder).fingerprint
    assert told["tokens"] == told["tokens_planned"] == 12 * 128 and told["parameters"] > 10_000


def test_logs_without_checkpoints_are_enough(run, tmp_path):
    for name in ("config.toml", "metrics.jsonl"):
        shutil.copy(run.folder / name, tmp_path)
    assert describe_run(read_run(tmp_path, "7b")) == describe_run(run) | {"data_sha256": None}


def test_versions_and_hardware():
    assert versions()["torch"] == torch.__version__
    assert versions()["python"] == platform.python_version()
    told = hardware()
    assert told["cores"] >= 1 and told["cpu"] and len(told["gpus"]) == torch.cuda.device_count()


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a package and a drawn figure, which the module takes for its own."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name in ("package/provenance.py", "figures/figure1.svg", "top.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "package" / "provenance.py"))
    return tmp_path


def test_commit_and_dirt(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert code() == {"commit": commit, "dirty": False}
    (checkout / "figures" / "figure1.svg").write_text("drawn again")
    (checkout / "untracked.txt").write_text("new")
    assert code() == {"commit": commit, "dirty": False}
    (checkout / "top.toml").write_text("changed")
    assert code() == {"commit": commit, "dirty": True}


def test_without_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code() == {"commit": None, "dirty": None}


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code() == {"commit": None, "dirty": None}


def test_this_checkout():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert code()["commit"] == git(ROOT, "rev-parse", "HEAD")
