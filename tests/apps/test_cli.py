"""The command line: verbs, help, and one line for each mistake."""

import json
import os
from pathlib import Path

import pytest
from tiny import TinyCorpus, prose, python

from minillama.apps.cli import VERBS, main
from minillama.errors import ConfigError, MinillamaError, nearest
from minillama.tokenizer import Tokenizer


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    try:
        main(arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_first_page(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(arguments, capsys)
    assert code == 0
    for verb in VERBS:
        assert f"  {verb} " in out


def test_the_first_page_comes_at_once() -> None:
    """Without torch or numpy; under half a second of the processor, however busy the machine."""
    times = []
    for _ in range(3):
        began = os.times()
        done = python("-m", "minillama", "--help")
        ended = os.times()
        user = ended.children_user - began.children_user
        times.append(user + ended.children_system - began.children_system)
    assert done.returncode == 0 and done.stdout.startswith("usage: minillama")
    assert min(times) < 0.5, times
    heavy = "{'torch', 'numpy', 'sentencepiece'} & {*sys.modules}"
    assert python("-c", f"import minillama.apps.cli, sys; print({heavy})").stdout == "set()\n"


PAGES = {
    "data": ["fetch", "build", "add", "list", "remove", "hub", "trace"],
    "data fetch": ["--sources", "--downloads"],
    "data build": ["--name", "--vocab-size", "--slice-mb", "--own-share"],
    "data add": ["--data", "--name", "--column", "PATH"],
    "data list": ["--data"],
    "data remove": ["--data"],
    "data hub": ["--config", "--split", "--column", "--tokens", "--files", "--slice"],
    "data trace": ["--split", "the slice"],
    "tokenizer": ["train", "encode", "decode"],
    "tokenizer train": ["--vocab-size", "--out"],
    "tokenizer encode": ["--tokenizer", "--bos"],
    "tokenizer decode": ["--tokenizer"],
    "train": ["--preset", "nano-65b", "--tokens", "--optimizer.lr", "--model.dim"],
    "plan": ["--gpus", "--gpu", "--mfu", "--recompute"],
    "bench": ["train", "block", "generate"],
    "bench train": ["--widths", "--steps"],
    "bench block": ["--widths", "--seq-len"],
    "bench generate": ["--llama2c", "--tokens"],
}


@pytest.mark.parametrize("verb", PAGES)
def test_every_verb_has_a_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told([*verb.split(), "--help"], capsys)
    assert (code, err) == (0, "")
    assert f"minillama {verb}" in out
    for word in PAGES[verb]:
        assert word in out


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {page.split()[0] for page in PAGES}))
def test_other_verbs_have_pages_too(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told([verb, "--help"], capsys)
    assert (code, err) == (0, "") and f"usage: minillama {verb}" in out and "--" in out


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["trian"], "unknown verb 'trian'. Did you mean 'train'?"),
        (["data", "biuld"], "unknown verb 'data biuld'. Did you mean 'build'?"),
        (["tokenizer", "xyz"], "Choose one of: decode, encode, train."),
        (["train", "--preset", "nano-66b"], "Did you mean 'nano-65b'?"),
        (["train", "--preset"], "--preset has no value. Write --preset NAME."),
        (["train"], "Say --preset NAME"),
        (["train", "--preset=7b", "--config", "x"], "both name a whole configuration"),
        (["train", "--preset=nano-7b", "--tokens", "0"], "Tokens must be at least 1."),
        (["plan", "66b"], "Did you mean '65b'?"),
        (["data", "add"], "no files were named"),
        (["plan", "65b", "--gpu", "a100"], "a100-80gb"),
    ],
)
def test_mistakes_take_one_line(
    arguments: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(arguments, capsys)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert suggestion in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "--gpuz", "3"], ["--gpuz", "Perhaps you meant", "--gpus"]),
        (["plan", "--gpus", "many"], ["--gpus", "'many'"]),
        (["plan", "--recompute", "some"], ["selective"]),
        (["train", "--preset", "nano-7b", "--optimizer.lrr", "3"], ["--optimizer.lr "]),
        (["train", "--preset", "nano-7b", "--seed", "x"], ["--seed", "'x'"]),
        (["data", "trace", "a", "b", "c"], ["'c'"]),
        (["tokenizer", "decode", "1", "two"], ["'two'"]),
    ],
)
def test_wrong_flags_are_named(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(arguments, capsys)
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err
    assert "Traceback" not in err and err.count("\n") < 20


def test_module_doors() -> None:
    done = python("-m", "minillama.train", "--preset", "nano-66b")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: unknown preset 'nano-66b'. Did you mean 'nano-65b'?\n"
    piped = python("-c", "import sys; from minillama.apps.cli import main; main(['plan', '7b'])")
    assert piped.returncode == 0 and "82,432" in piped.stdout


def test_a_reader_who_leaves() -> None:
    shell = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'minillama'," \
        " 'plan'], stdout=subprocess.PIPE, stderr=subprocess.PIPE); p.stdout.close();" \
        " print(p.wait(), p.stderr.read())"  # fmt: skip
    assert python("-c", shell).stdout == "141 b''\n"


def test_tokenizer_from_files_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    for i in range(8):
        (tmp_path / "texts" / "deep" / f"{i}.txt").write_text(prose(i))
    (tmp_path / "one.md").write_text(prose(9))
    model = str(tmp_path / "t.model")
    texts = [str(tmp_path / "texts"), str(tmp_path / "one.md")]
    code, out, _ = told(
        ["tokenizer", "train", *texts, "--vocab-size", "320", "--out", model], capsys
    )
    assert (code, out) == (0, f"{model}: 320 pieces\n")
    tokenizer = Tokenizer.load(model)
    text = "The old boat, 1066: żółw\n"
    code, out, _ = told(["tokenizer", "encode", text, "--tokenizer", model, "--bos"], capsys)
    ids = out.split()
    assert code == 0 and [int(i) for i in ids] == tokenizer.encode(text, bos=True)
    code, out, _ = told(["tokenizer", "decode", *ids, "--tokenizer", model], capsys)
    assert (code, out) == (0, text + "\n")


def test_tokenizer_from_a_corpus(
    tiny_corpus: TinyCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same texts, shares and size give the corpus's own tokenizer."""
    made = tmp_path / "t.model"
    words = ["train", str(tiny_corpus.folder), "--vocab-size", "320", "--out", str(made)]
    assert told(["tokenizer", *words], capsys)[0] == 0
    assert made.read_bytes() == (tiny_corpus.folder / "tokenizer.model").read_bytes()


def test_data_trace(tiny_corpus: TinyCorpus, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(["data", "trace", str(tiny_corpus.folder), "books", "10"], capsys)
    record = json.loads((tiny_corpus.folder / "text/books.train.jsonl").read_text().split("\n")[0])
    assert code == 0 and out.startswith(f"tales==1.0  {record['path']}\n")
    assert record["id"] in out


def test_data_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text(prose(1))
    words = ["data", "add", str(tmp_path / "mine"), "--data", str(tmp_path / "data")]
    code, out, _ = told(words, capsys)
    assert code == 0 and out.startswith("added 1 files")
    assert prose(1) in (tmp_path / "data" / "my-texts" / "mine.jsonl").read_text()
    data = ["--data", str(tmp_path / "data")]
    code, out, _ = told(["data", "list", *data], capsys)
    assert code == 0 and out.split("\n")[1].split()[:3] == ["mine", "1", "1"]
    assert told(["data", "remove", "mine", *data], capsys)[0] == 0
    assert "no texts of yours" in told(["data", "list", *data], capsys)[1]


def test_plan_prints_the_papers_own(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "65b", "--gpus", "2048", "--gpu", "a100-80gb"]
    code, out, _ = told(words, capsys)
    assert code == 0
    assert any(line.startswith("days") and "21 on 2,048" in line for line in out.splitlines())
    assert any(line.startswith("tokens/s") and line.endswith(" 380") for line in out.splitlines())


def test_under_torchrun_a_line_names_its_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert told(["plan", "66b"], capsys)[2].startswith("[rank 3] error: unknown model")


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the program is not dressed up as the user's."""

    def broken(model: str = "65b") -> float:
        return len(model) / 0

    monkeypatch.setattr("minillama.parallel.memory.plan", broken)
    with pytest.raises(ZeroDivisionError):
        main(["plan"])


def test_messages_end_once() -> None:
    assert str(ConfigError("a is wrong", "did you mean 'b'?")) == "a is wrong. Did you mean 'b'?"
    assert str(ConfigError("a is wrong.", "use b.")) == "a is wrong. Use b."
    assert str(MinillamaError("a is wrong")) == "a is wrong."
    assert nearest("bild", ["build", "add"]) == "did you mean 'build'?"
    assert nearest("zzz", ["build", "add"]) == "choose one of: add, build"
