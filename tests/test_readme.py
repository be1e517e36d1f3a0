"""What README.md tells people to type exists, and what it links to is there."""

import re
import shlex
from pathlib import Path

import pytest
from tiny import ROOT

from minillama.cli import VERBS, main

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
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


def page(verbs: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*verbs, "--help"])
        raise SystemExit(0)  # pages of our own return
    assert ended.value.code in (0, None), f"minillama {' '.join(verbs)} does not exist"
    return capsys.readouterr().out


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The help page of a verb, or of a verb of a verb."""
    verbs = [word for word in arguments[:2] if not word.startswith("-")]
    first = page(verbs[:1], capsys)
    has_verbs = f"usage: minillama {''.join(verbs[:1])} <" in first
    return page(verbs, capsys) if has_verbs and len(verbs) == 2 else first


def check(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Fail if a command names a verb, a flag or a make target that does not exist."""
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
        assert all(word in targets for word in words[1:] if "=" not in word), words
    arguments = arguments_of(words)
    if arguments:
        known = help_of(arguments, capsys) + "--preset --config --help"
        flags = {word.split("=")[0] for word in arguments if word.startswith("--")}
        assert all(re.search(rf"{flag}\b", known) for flag in flags), (words, flags)


@pytest.mark.parametrize("words", commands(TEXT), ids=" ".join)
def test_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    check(words, capsys)


@pytest.mark.parametrize("path", sorted({path for path, _ in LINK.findall(TEXT)}))
def test_links(path: str) -> None:
    if not re.match(r"[a-z]+:", path):
        assert (ROOT / path).exists()


MISTAKES = [
    "make reproduse",
    "minillama trian",
    "minillama data fetchh",
    "python -m minillama.train --presett nano-7b",
    "torchrun --standalone -m minillama.train --tokns 3",
]


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_found(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = commands(f"```sh\n{line}\n```\n")
    with pytest.raises(AssertionError):
        check(words, capsys)


def test_right_commands_pass(capsys: pytest.CaptureFixture[str]) -> None:
    lines = "$ minillama plan 65b --gpus 2048 \\\n  --gpu a100-80gb  # so\nmake lab && make test"
    found = commands(f"```sh\n{lines}\n```\n")
    assert found[0] == ["minillama", "plan", "65b", "--gpus", "2048", "--gpu", "a100-80gb"]
    assert found[1:] == [["make", "lab"], ["make", "test"]]
    for words in found:
        check(words, capsys)


def test_every_verb_is_shown() -> None:
    """README has at least one line for each verb."""
    shown = {(arguments_of(words) or [""])[0] for words in commands(TEXT)}
    assert not TEXT or set(VERBS) - shown == set()
