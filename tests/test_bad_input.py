"""Bad input through the real command line: one line that names the file and says how to mend it."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import TinyCorpus, prose, python, tiny_config

from minillama.apps.cli import main
from minillama.tokenizer import train_tokenizer
from minillama.train import checkpoint
from minillama.train.config import write_config
from minillama.train.log import read_metrics

BAR = re.compile(r"\[.*(/s|it|tok|package)\b.*\]$")


class Shop:
    """A folder with a corpus and a configuration that a test may spoil, and the command line."""

    def __init__(self, folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.corpus, self.runs, self.capsys = folder, corpus, folder / "runs", capsys
        self.config = folder / "config.toml"
        self.configure()

    @property
    def run(self) -> Path:
        return self.runs / "run"

    def configure(self, **changes: object) -> None:
        write_config(self.config, tiny_config(self.corpus, self.runs, **changes))

    def call(self, *arguments: object) -> tuple[int, str, list[str]]:
        """Exit status, output, and the lines of stderr without the progress bar."""
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        out, err = self.capsys.readouterr()
        lines = [line.strip() for line in err.replace("\r", "\n").splitlines()]
        return code, out, [line for line in lines if line and not BAR.search(line)]

    def train(self, *arguments: object) -> tuple[int, str, list[str]]:
        return self.call("train", "--config", self.config, *arguments)

    def fails(self, *arguments: object) -> str:
        """The one line on stderr of a command that must fail."""
        code, _, lines = self.call(*arguments)
        assert code == 1, (code, lines)
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]


@pytest.fixture
def shop(tiny_corpus: TinyCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shop:
    shutil.copytree(tiny_corpus.folder, tmp_path / "corpus")
    return Shop(tmp_path, tmp_path / "corpus", capsys)


@pytest.fixture(scope="module")
def finished_run(tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps with checkpoints after steps 1, 9 and 12."""
    folder = tmp_path_factory.mktemp("finished")
    write_config(folder / "config.toml", tiny_config(tiny_corpus.folder, folder))
    main(["train", "--config", str(folder / "config.toml")])
    assert checkpoint.steps(folder / "run") == [1, 9, 12]
    return folder / "run"


@pytest.fixture
def trained(shop: Shop, finished_run: Path) -> Shop:
    """A shop with a copy of that run."""
    shutil.copytree(finished_run, shop.run)
    write_config(shop.run / "config.toml", tiny_config(shop.corpus, shop.runs))
    return shop


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


DAMAGE = [Path.unlink, truncate, flip]
Damage = Callable[[Path], None]
every_damage = pytest.mark.parametrize("damage", DAMAGE, ids=["missing", "truncated", "flipped"])


# Settings


def test_unknown_preset(shop: Shop) -> None:
    assert "Did you mean 'nano-33b'?" in shop.fails("train", "--preset", "nano-30b")


@pytest.mark.parametrize(
    ("old", "new", "suggestion"),
    [
        ("seed", "sead", "Did you mean 'seed'?"),
        ("warmup_steps", "warm_up_steps", "Did you mean 'warmup_steps'?"),
        ("n_heads", "heads", "Did you mean 'n_heads'?"),
    ],
)
def test_unknown_key(shop: Shop, old: str, new: str, suggestion: str) -> None:
    shop.config.write_text(shop.config.read_text().replace(f"\n{old} =", f"\n{new} ="))
    line = shop.fails("train", "--config", shop.config)
    assert f"unknown key '{new}'" in line and suggestion in line and str(shop.config) in line


def test_sequence_longer_than_the_context(shop: Shop) -> None:
    line = shop.fails("train", "--config", shop.config, "--seq-len", 64, "--batch-tokens", 128)
    assert "seq_len = 64 exceeds the model's context of 32" in line


def test_prompt_longer_than_the_context(trained: Shop) -> None:
    line = trained.fails("generate", trained.run, "river " * 200)
    assert "32" in line and "context" in line


# The corpus


@every_damage
@pytest.mark.parametrize("name", ["books.train.00000.bin", "c4.valid.00000.bin",
                                  "github.train.offsets.npy", "books.train.json"])  # fmt: skip
def test_damaged_shards_are_named(shop: Shop, name: str, damage: Damage) -> None:
    path = shop.corpus / "tokens" / name
    damage(path)
    flipped = damage is flip  # an altered token is found by its checksum, which no run compares
    line = shop.fails(
        *(("data", "verify", shop.corpus) if flipped else ("train", "--config", shop.config))
    )
    stem = name.rsplit(".", maxsplit=1)[0] if name.endswith("json") else name
    assert stem in line or "an index in" in line
    assert re.search("minillama data build|again|path", line)
    assert not shop.runs.exists()


@every_damage
def test_damaged_tokenizer_is_named(shop: Shop, damage: Damage) -> None:
    damage(shop.corpus / "tokenizer.model")
    assert "tokenizer.model" in shop.fails("train", "--config", shop.config)


def test_no_corpus(shop: Shop) -> None:
    line = shop.fails("train", "--config", shop.config, "--corpus", shop.folder / "none")
    assert (
        f"{shop.folder / 'none'} holds no corpus. Run `minillama data build --name none`." in line
    )


def test_empty_corpus(shop: Shop) -> None:
    sources = shop.folder / "sources.toml"
    sources.write_text("source = []\n")
    words = ["--sources", sources, "--downloads", shop.folder, "--data", shop.folder / "data"]
    assert "the corpus would be empty" in shop.fails("data", "build", *words)
    sources.write_text("[[source]\n")
    assert "sources.toml is malformed" in shop.fails("data", "build", *words)


def test_a_package_that_is_not_there(shop: Shop, tiny_corpus: TinyCorpus) -> None:
    words = ["--sources", tiny_corpus.data / "sources.toml", "--downloads", shop.folder]
    line = shop.fails("data", "build", *words, "--data", shop.folder / "data")
    assert "tales==1.0 is not in" in line and "minillama data fetch" in line


# Texts


def test_texts_that_are_none(shop: Shop) -> None:
    """Files that cannot be read are named and skipped; the others are added."""
    mine, data = shop.folder / "mine", shop.folder / "data"
    mine.mkdir()
    (mine / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (mine / "picture.txt").write_bytes(b"\x89PNG\0\0\0")
    (mine / "empty.txt").write_text("\n")
    line = shop.call("data", "add", mine, "--data", data)
    assert line[0] == 1 and f"error: {mine}: no text that can be read" in line[2][-1]
    (mine / "good.txt").write_text(prose(3), encoding="utf-8")
    code, out, lines = shop.call("data", "add", mine, "--data", data)
    assert code == 0 and out.startswith("added 1 files")
    skipped = {Path(text.split(": ")[0]).name: text.split(": ")[1] for text in lines}
    reasons = {"latin.txt": "neither UTF-8", "picture.txt": "binary", "empty.txt": "empty"}
    assert skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert skipped[name].startswith(reason)
    assert sorted(os.listdir(data / "my-texts")) == ["mine.json", "mine.jsonl"]
    assert "does not exist" in shop.fails("data", "add", mine / "gone.txt", "--data", data)


def test_tokenizer_texts_that_are_none(shop: Shop) -> None:
    bad = shop.folder / "bad.txt"
    out = ["--out", shop.folder / "t.model", "--vocab-size", 300]
    bad.write_bytes(b"caf\xe9")
    assert "bad.txt cannot be read (neither UTF-8" in shop.fails("tokenizer", "train", bad, *out)
    bad.write_bytes(b"")
    assert "no text to train the tokenizer on" in shop.fails("tokenizer", "train", bad, *out)
    bad.write_text(prose(1, words=10))
    out[-1] = 3_000
    assert "no vocabulary of 3000" in shop.fails("tokenizer", "train", bad, *out)
    assert "none does not exist" in shop.fails("tokenizer", "train", shop.folder / "none", *out)
    line = shop.fails("tokenizer", "encode", "a", "--tokenizer", bad)
    assert "bad.txt is not a SentencePiece model" in line
    assert not (shop.folder / "t.model").exists()


# Checkpoints


@every_damage
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json",
                                  "manifest.json"])  # fmt: skip
def test_training_falls_back_to_the_last_good_checkpoint(
    trained: Shop, finished_run: Path, name: str, damage: Damage
) -> None:
    """It warns, goes on from step 9, and ends with the weights of the undamaged run."""
    damage(checkpoint.folder(trained.run, 12) / name)
    code, _, lines = trained.train()
    warned = [line for line in lines if line.startswith("warning: ")]
    assert code == 0 and len(warned) == 1
    named = "" if name == "manifest.json" else name  # a checksum in it no longer fits its file
    assert f"step-00000012/{named}" in warned[0]
    assert [record["step"] for record in read_metrics(trained.run)] == list(range(1, 13))
    again, first = (
        load_file(checkpoint.folder(run, 12) / "model.safetensors")
        for run in (trained.run, finished_run)
    )
    assert all(again[key].equal(first[key]) for key in first)


@every_damage
def test_generating_falls_back_too(trained: Shop, damage: Damage) -> None:
    damage(checkpoint.folder(trained.run, 12) / "model.safetensors")
    code, out, lines = trained.call("generate", trained.run, "the", "--max-new-tokens", 2)
    assert code == 0 and out.startswith("the")
    assert len(lines) == 1 and "step-00000012/model.safetensors" in lines[0]
    asked = trained.fails("generate", trained.run, "the", "--step", 12)
    assert "step-00000012/model.safetensors" in asked


def test_no_good_checkpoint_is_left(trained: Shop) -> None:
    for step in checkpoint.steps(trained.run):
        flip(checkpoint.folder(trained.run, step) / "model.safetensors")
    code, _, lines = trained.call("generate", trained.run, "the")
    assert code == 1 and len(lines) == 4  # three warnings, then
    assert lines[-1].startswith(f"error: every checkpoint of {trained.run} is damaged.")


def test_no_such_run_or_step(trained: Shop) -> None:
    assert "none has no checkpoints" in trained.fails("generate", trained.folder / "none")
    assert "no checkpoint of step 7" in trained.fails("generate", trained.run, "--step", 7)


def test_tokenizer_that_does_not_match(trained: Shop) -> None:
    train_tokenizer([prose(i) for i in range(20)], trained.run / "tokenizer.model", 310)
    line = trained.fails("generate", trained.run, "the")
    assert "tokenizer.model has 310 pieces but the model has 320" in line
    train_tokenizer([prose(i) for i in range(20)], trained.run / "tokenizer.model", 320)
    line = trained.fails("generate", trained.run, "the")
    assert "is not the tokenizer that the model was trained with" in line
    other = ["--name", "other", "--model.vocab-size", 512]
    line = trained.fails("train", "--config", trained.config, *other)
    assert "has 320 pieces but the model has 512" in line
    assert not (trained.runs / "other").exists()


def test_another_run_of_the_same_name(trained: Shop) -> None:
    line = trained.fails("train", "--config", trained.config, "--seed", 1)
    assert "was started with seed = 0, not 1" in line


# A full disk


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: writing more fails, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def left_aside(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


def test_full_disk_while_a_checkpoint_is_written(shop: Shop, finished_run: Path) -> None:
    """The run stops and says so; with room again, it ends as if nothing had been."""
    with small_files(30_000):
        code, _, lines = shop.train()
    assert code == 1 and lines[-1].startswith("error: cannot write ")
    assert "make room" in lines[-1].lower() and not left_aside(shop.runs)
    assert shop.train()[0] == 0
    model = "checkpoints/step-00000012/model.safetensors"
    assert (shop.run / model).read_bytes() == (finished_run / model).read_bytes()


def test_full_disk_keeps_the_checkpoint_before(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        saved.append(descriptor)
        if checkpoint.steps(shop.run) == [1, 3]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    code, _, lines = shop.train()
    assert code == 1 and "the disk is full. The checkpoint of step 3 is intact" in lines[-1]
    assert checkpoint.last_good(shop.run) == 3 and not left_aside(shop.runs) and saved


def test_full_disk_while_the_corpus_is_built(shop: Shop, tiny_corpus: TinyCorpus) -> None:
    words = ["--sources", tiny_corpus.data / "sources.toml", "--data", shop.folder / "data",
             "--downloads", tiny_corpus.data / "downloads", "--vocab-size", 320]  # fmt: skip
    with small_files(5_000):
        code, _, lines = shop.call("data", "build", *words)
    assert code == 1 and "the disk is full" in lines[-1] and not left_aside(shop.folder)
    assert shop.call("data", "build", *words)[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_disk_under_the_output(unbuffered: str) -> None:
    """Also when nothing is written before the process ends."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "minillama", "plan"], stdout=full, stderr=subprocess.PIPE,
            text=True, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: the disk is full (while writing). Make room and run again.\n"


# Ctrl-C


def test_ctrl_c_finishes_the_step_and_saves(shop: Shop) -> None:
    """Exit 130 with the step saved; the same command goes on and writes every step once."""
    shop.configure(tokens=200 * 128, save_every=10_000, eval_every=10_000, milestones=1)
    command = [sys.executable, "-m", "minillama", "train", "--config", str(shop.config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics, patience = shop.run / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < patience and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert process.returncode == 130 and out == "" and "Traceback" not in err
    assert f"error: stopped after step {last}; run the same command to go on" in err
    assert 3 <= last < 200 and checkpoint.last_good(shop.run) == last
    assert shop.train("--threads", 1)[0] == 0
    assert [record["step"] for record in read_metrics(shop.run)] == list(range(1, 201))
    assert checkpoint.last_good(shop.run) == 200


def test_one_line_in_a_process_of_its_own(shop: Shop) -> None:
    """What the tests above see inside this process is what a user sees."""
    (shop.corpus / "tokens" / "books.train.00000.bin").unlink()
    done = python("-m", "minillama.train", "--config", str(shop.config), cwd=shop.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "books.train.00000.bin is missing" in done.stderr
