"""Writing by turns: what is read, what is said, and how it ends."""

import re
from collections.abc import Iterator

import pytest
import torch
from generation import text_model
from tiny import TinyCorpus

from minillama.apps.chat import WELCOME, WHY, chat_by_turns, write_stream
from minillama.inference import Decoder
from minillama.inference.text import stream
from minillama.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def say(tokenizer: Tokenizer, lines: object, **settings: object) -> list[str]:
    """What is shown, without the speed; one part for each turn."""
    shown: list[str] = []
    settings = {"max_new_tokens": 5, "seed": 4} | settings
    chat_by_turns(Decoder(text_model()), tokenizer, lines, shown.append, **settings)
    turns = re.sub(r"[0-9.]+ tokens/s", "N tokens/s", "".join(shown)).split("\n> ")
    assert turns[0] == WELCOME and turns[-1] == "\n"
    return turns[1:-1]


def completed(tokenizer: Tokenizer, prompt: str, seed: int, **settings: object) -> str:
    pieces = stream(text_model(), tokenizer, prompt, seed=seed, max_new_tokens=5, **settings)
    return "".join(pieces)


def test_says_that_it_is_no_assistant(tokenizer):
    assert "not an assistant" in WELCOME
    assert say(tokenizer, []) == []


def test_each_turn_goes_on_from_all_before(tokenizer):
    shown = say(tokenizer, ["The", "", "An"])
    text, expected = "", []
    for i, line in enumerate(["The", "", "An"]):
        pieces = stream(text_model(), tokenizer, text + line, seed=4 + i, max_new_tokens=5)
        written = "".join(pieces)
        told = f"[{pieces.tokens} tokens, N tokens/s; {WHY[pieces.finish]}]"
        expected.append(f"{written}\n{told}")
        text += line + written + "\n"
    assert shown == expected


def test_new_begins_another_text(tokenizer):
    shown = say(tokenizer, ["The", "/new", "An"])
    assert shown[-1].startswith("> " + completed(tokenizer, "An", 6) + "\n[")


def test_a_full_context_is_told_and_the_text_begins_anew(tokenizer):
    shown = say(tokenizer, ["The", "a"], max_new_tokens=10_000)
    full = f"the context is full]\n[the context of {48} tokens is full: the next"
    assert full in shown[0] and full in shown[1]
    first = completed(tokenizer, "a", 5)
    assert shown[1].startswith(first)  # nothing of the first turn is in the prompt


def test_a_line_that_is_too_long_changes_nothing(tokenizer):
    shown = say(tokenizer, ["The", "river " * 40, "An"])
    assert "exceeds the context of 48" in shown[1]
    text = "The" + completed(tokenizer, "The", 4) + "\n"
    assert shown[2].startswith(completed(tokenizer, text + "An", 6) + "\n[")


def test_an_interrupt_ends_it_cleanly(tokenizer):
    def lines() -> Iterator[str]:
        yield "The"
        raise KeyboardInterrupt

    assert len(say(tokenizer, lines())) == 1


@pytest.mark.parametrize("finish", WHY)
def test_the_report_counts_and_says_why(finish):
    class Done:
        tokens = 50

        def __iter__(self):
            yield from ("a", "b")

    Done.finish = finish
    shown = []
    report = write_stream(Done(), shown.append)
    assert re.fullmatch(rf"\[50 tokens, [0-9.]+ tokens/s; {WHY[finish]}\]", report)
    assert shown == ["a", "b"]


def test_settings_reach_the_model(tokenizer):
    greedy = say(tokenizer, ["The"], temperature=0.0, seed=1)
    assert greedy == say(tokenizer, ["The"], temperature=0.0, seed=2)
    assert say(tokenizer, ["The"], seed=1) != say(tokenizer, ["The"], seed=2)
    with torch.no_grad():
        assert greedy[0].startswith(completed(tokenizer, "The", 9, temperature=0.0))
