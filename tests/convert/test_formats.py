"""``minillama convert``: from a run to any format, and from one format to another."""

from pathlib import Path

import pytest
import torch
from tiny import TinyCorpus, tiny_config

from minillama.cli import main
from minillama.convert import formats
from minillama.model import Llama
from minillama.train import checkpoint
from minillama.train.config import write_config


@pytest.fixture(scope="module")
def run(tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a run")
    write_config(folder / "config.toml", tiny_config(tiny_corpus.folder, folder))
    main(["train", "--config", str(folder / "config.toml")])
    return folder / "run"


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, output and errors of ``minillama convert``."""
    try:
        main(["convert", *map(str, arguments)])
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    return code, *capsys.readouterr()


def same(one: Llama, other: Llama) -> bool:
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(w, there[n]) for n, w in here.items())


def test_a_run_goes_through_all_formats(run, tmp_path, capsys):
    meta, hugging = tmp_path / "meta", tmp_path / "hugging"
    words = (run, "--to", "meta", "--out", meta, "--shards", "2")
    assert told(capsys, *words) == (0, f"wrote {meta}\n", "")
    assert len(list(meta.glob("*.pth"))) == 2
    words = (meta, "--to", "huggingface", "--out", hugging, "--max-seq-len", "32")
    assert told(capsys, *words) == (0, f"wrote {hugging}\n", "")
    model, pieces = checkpoint.load_model(run)
    again, their_pieces = formats.load(hugging)
    assert same(model, again) and again.config == model.config
    assert their_pieces.model == pieces.model
    words = (hugging, "--to", "llama2c", "--out", tmp_path / "c")
    assert told(capsys, *words) == (0, f"wrote {tmp_path / 'c' / 'model.bin'}\n", "")
    from_run = (run, "--to", "llama2c", "--out", tmp_path / "d")
    assert told(capsys, *from_run)[0] == 0
    for name in ("model.bin", "tokenizer.bin"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "d" / name).read_bytes()


def test_an_earlier_step(run, tmp_path, capsys):
    words = (run, "--to", "huggingface", "--out", tmp_path, "--step", "9")
    assert told(capsys, *words)[0] == 0
    model, _ = formats.load(tmp_path)
    assert same(model, checkpoint.load_model(run, 9)[0])
    assert not same(model, checkpoint.load_model(run)[0])


@pytest.mark.parametrize("words, said", [
    (("--to", "huggingface", "--shards", "2"), "2 shards for huggingface"),
    (("--to", "meta", "--shards", "3"), "3 shards. Meta's format has 1, 2, 4, 8"),
    (("--to", "meta", "--shards", "8"), "n_heads = 2 cannot be cut into 8 shards"),
    (("--to", "meta", "--step", "2"), "no checkpoint of step 2"),
])  # fmt: skip
def test_mistakes_take_one_line(words, said, run, tmp_path, capsys):
    code, out, err = told(capsys, run, *words, "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (1, "", 1) and said in err
    assert not (tmp_path / "out").exists()


def test_no_such_folder_and_no_such_format(run, tmp_path, capsys):
    code, _, err = told(capsys, tmp_path / "none", "--to", "meta", "--out", tmp_path / "out")
    assert code == 1 and "none has no checkpoints" in err and err.count("\n") == 1
    code, _, err = told(capsys, run, "--to", "onnx", "--out", tmp_path / "out")
    assert code == 2 and "onnx" in err and "llama2c" in err
