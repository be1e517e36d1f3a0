"""What README.md and data/README.md tell people to type exists, and what they link to is there."""

import functools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tyro
from tiny import ROOT

import minillama.scale.runtime
from minillama.apps.cli import HELP, VERBS, main

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
DATA = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:sh|bash|shell|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
MODULES = {"minillama": [], "minillama.train": ["train"]}


def commands(text: str) -> list[list[str]]:
    """The words of every command in the shell blocks of a Markdown text."""
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    split = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words[words[0] == "$" :] for words in split if words]


def arguments_of(words: list[str]) -> list[str] | None:
    """What the command line gets, if a command calls it: after ``minillama`` or ``-m MODULE``."""
    if "-m" in words and words[words.index("-m") + 1] in MODULES:
        at = words.index("-m") + 1
        return MODULES[words[at]] + words[at + 1 :]
    return words[1:] if Path(words[0]).name == "minillama" else None


def stub(function: Callable[..., Any]) -> Callable[..., Any]:
    """Takes the arguments that the function takes, and does nothing."""

    @functools.wraps(function)
    def nothing(*_: Any, **__: Any) -> None:
        return None

    return nothing


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the command line, all of it, or a make target cannot be read."""
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
        assert all(word in targets for word in words[1:] if "=" not in word), words
    arguments = arguments_of(words)
    if arguments is None:
        return

    def parse_only(target: Callable[..., Any], **options: Any) -> Any:
        parsed.append(target)
        return tyro.cli(target if isinstance(target, type) else stub(target), **options)

    parsed: list[Callable[..., Any]] = []
    monkeypatch.setattr("minillama.apps.cli.tyro", SimpleNamespace(cli=parse_only, conf=tyro.conf))
    train_stub = stub(minillama.scale.runtime.train_distributed)
    monkeypatch.setattr("minillama.scale.runtime.train_distributed", train_stub)
    monkeypatch.setattr("minillama.scale.dry_run.dry_run", train_stub)
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code in (0, None), f"minillama {shlex.join(arguments)} cannot be read"
    assert parsed or not arguments or arguments[-1] in HELP, "nothing has read the arguments"


@pytest.mark.parametrize("words", commands(TEXT) + commands(DATA), ids=" ".join)
def test_commands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check(words, monkeypatch)


@pytest.mark.parametrize("path", sorted({path for path, _ in LINK.findall(TEXT)}))
def test_links(path: str) -> None:
    if not re.match(r"[a-z]+:", path):
        assert (ROOT / path).exists()


@pytest.mark.parametrize("path", sorted({path for path, _ in LINK.findall(DATA)}))
def test_links_of_the_data_folder(path: str) -> None:
    if not re.match(r"[a-z]+:", path):
        assert (ROOT / "data" / path).exists()


MISTAKES = [
    "make reproduse",
    "minillama trian",
    "minillama data fetchh",
    "python -m minillama.train --presett nano-7b",
    "torchrun --standalone -m minillama.train --tokns 3",
    'minillama tokenizer encode tokenizer.model "The 1 language model"',
    "minillama data trace",
    "minillama data trace data/corpus/nano books first",
    "minillama evaluate",
    "minillama plan 65b --gpus many",
    "minillama train --preset nano-7b 0.001",
    "minillama train --preset nano-8b",
]


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (words,) = commands(f"```sh\n{line}\n```\n")
    with pytest.raises(AssertionError):
        check(words, monkeypatch)


def test_right_commands_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "$ minillama plan 65b --gpus 2048 \\\n  --gpu a100-80gb  # so\nmake lab && make test"
    found = commands(f"```sh\n{lines}\n```\n")
    assert found[0] == ["minillama", "plan", "65b", "--gpus", "2048", "--gpu", "a100-80gb"]
    assert found[1:] == [["make", "lab"], ["make", "test"]]
    for words in found:
        check(words, monkeypatch)


def test_every_verb_is_shown() -> None:
    """README has at least one line for each verb."""
    shown = {(arguments_of(words) or [""])[0] for words in commands(TEXT)}
    assert not TEXT or set(VERBS) - shown == set()
