"""``minillama generate`` and ``minillama chat``, from the command line."""

import io
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TinyCorpus, tiny_config

from minillama.apps import cli
from minillama.apps.chat import WELCOME
from minillama.inference import generate
from minillama.inference.quantize import quantized
from minillama.interop import huggingface, meta
from minillama.train.checkpoint import load_model
from minillama.train.loop import train


@pytest.fixture(scope="module")
def run(tiny_corpus: TinyCorpus, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("runs")
    train(tiny_config(tiny_corpus.folder, folder))
    return folder / "run"


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, and what was printed."""
    code = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as done:
        code = int(done.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_text_on_stdout_and_how_it_went_on_stderr(run, capsys):
    code, out, err = call(capsys, "generate", run, "The old", "--max-new-tokens", 4)
    model, tokenizer = load_model(run)
    assert code == 0 and out == "The old" + generate(model, tokenizer, "The old",
                                                     max_new_tokens=4) + "\n"  # fmt: skip
    told = (
        r"\[\d tokens, [\d.]+ tokens/s; (the number of tokens asked for is reached|.*ended.*)\]\n"
    )
    assert re.fullmatch(told, err)


def test_a_full_context_is_told(run, capsys):
    code, out, err = call(capsys, "generate", run, "a", "--max-new-tokens", 10**6, "--top-p", 1)
    assert code == 0 and ("the context is full" in err or "the model ended" in err)
    assert int(re.search(r"\[(\d+) tokens", err)[1]) <= 32


def test_settings_reach_the_model(run, capsys):
    model, tokenizer = load_model(run)
    settings = {"max_new_tokens": 12, "temperature": 1.2, "top_k": 40, "top_p": 0.9,
                "repetition_penalty": 1.5, "seed": 3, "stop": ["zz"]}  # fmt: skip
    flags = [f"--{name.replace('_', '-')}" for name in settings]
    values = ["zz" if name == "stop" else value for name, value in settings.items()]
    words = [word for pair in zip(flags, values, strict=True) for word in pair]
    _, out, _ = call(capsys, "generate", run, "The", *words)
    assert out == "The" + generate(model, tokenizer, "The", **settings) + "\n"
    _, out, _ = call(capsys, "generate", run, "The", *words, "--quantize", "int8")
    assert out == "The" + generate(quantized(model), tokenizer, "The", **settings) + "\n"


def test_other_formats_are_read_too(run, capsys, tmp_path):
    model, tokenizer = load_model(run)
    huggingface.save(model, tokenizer, tmp_path / "hf")
    meta.save(model, tokenizer, tmp_path / "meta", 1)
    options = ("The", "--max-new-tokens", 9, "--temperature", 0)
    expected = call(capsys, "generate", run, *options)[1]
    for folder in ("hf", "meta"):
        assert call(capsys, "generate", tmp_path / folder, *options)[:2] == (0, expected)
    code, _, err = call(capsys, "generate", tmp_path, "The")
    assert code == 1 and err.count("\n") == 1 and "has no checkpoints" in err


def test_a_prompt_of_a_megabyte_is_refused_at_once(run, capsys):
    code, out, err = call(capsys, "generate", run, "river " * 175_000)
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "tokens or more exceeds the context of 32" in err and len(err) < 300


def test_an_empty_prompt_is_a_text_from_its_beginning(run, capsys):
    code, out, _ = call(capsys, "generate", run, "", "--max-new-tokens", 5)
    assert code == 0 and out == generate(*load_model(run), "", max_new_tokens=5) + "\n"


def test_weights_that_are_no_numbers_are_named(run, capsys, tmp_path):
    model, tokenizer = load_model(run)
    huggingface.save(model, tokenizer, tmp_path)
    [file] = tmp_path.glob("*.safetensors")
    weights = load_file(file)
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], torch.nan)
    save_file(weights, file, metadata={"format": "pt"})
    code, _, err = call(capsys, "generate", tmp_path, "The")
    assert code == 1 and err.count("\n") == 1 and "'norm.weight' has 16 of 16" in err


def test_chat_reads_lines_and_writes_on(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("The\nAnd\n"))
    code, out, err = call(capsys, "chat", run, "--max-new-tokens", 3, "--seed", 2)
    assert (code, err) == (0, "") and out.startswith(WELCOME) and out.endswith("> \n")
    assert out.count("tokens/s;") == 2
    first = generate(*load_model(run), "The", max_new_tokens=3, seed=2)
    assert out.split("\n> ")[1].startswith(first + "\n[")


def test_bytes_that_are_no_text_are_read_as_marks(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff The\n"), "utf-8"))
    code, out, err = call(capsys, "chat", run, "--max-new-tokens", 3)
    assert (code, err) == (0, "")
    first = generate(*load_model(run), "\ufffd The", max_new_tokens=3)
    assert out.split("\n> ")[1].startswith(first + "\n[")


def test_text_that_the_terminal_cannot_write_is_marked(run, monkeypatch):
    terminal = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(terminal, "ascii"))
    cli.main(["generate", str(run), "żółw", "--max-new-tokens", "0"])
    assert terminal.getvalue().replace(b"\r", b"") == b"???w\n"


def test_chat_ends_quietly_when_interrupted(run, capsys, monkeypatch):
    class Interrupted(io.StringIO):
        def __next__(self) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupted())
    assert call(capsys, "chat", run) == (0, WELCOME + "\n> \n", "")
