"""The checks of notebook 01: right answers pass, typical mistakes are named."""

import difflib
import hashlib
import itertools
import random
from collections.abc import Callable

import pytest
from exercises import *  # noqa: F403

from minillama import teach


def held_out(kind: str) -> Callable:
    memory: list[str] = []

    def answer(text: str, share: float) -> bool | int | str:
        if kind == "chance":
            return random.random() < share
        if kind == "memory":
            memory.append(text)
            return len(memory) % 10 == 0
        if kind == "builtin":
            return hash(text) % 1000 < 1000 * share
        plain = text if kind == "raw" else " ".join(text.lower().split())
        number = int(hashlib.sha256(plain.encode()).hexdigest()[:8], 16) / 16**8
        if kind == "number":
            return number
        return number < (share / 2 if kind == "half" else share)

    return answer


def similarity(kind: str) -> Callable:
    def answer(first: str, second: str, n: int) -> float:
        def grams(text: str) -> list:
            parts = text if kind == "letters" else text.split()
            return [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]

        mine, theirs = set(grams(first)), set(grams(second))
        if kind == "one side":
            return len(mine & theirs) / max(1, len(mine))
        if kind == "sum":
            return len(mine & theirs) / max(1, len(mine) + len(theirs))
        if kind == "zero":
            return len(mine & theirs) / len(mine | theirs)
        return len(mine & theirs) / max(1, len(mine | theirs))

    return answer


def longest_run(kind: str) -> Callable:
    def answer(first: str, second: str) -> int | list[str]:
        a, b = (text if kind == "capitals" else text.lower() for text in (first, second))
        if kind != "letters":
            a, b = a.split(), b.split()
        if kind == "any order":
            return len(set(a) & set(b))
        if kind == "same place":
            equal = "".join(
                "x" if left == right else " " for left, right in zip(a, b, strict=False)
            )
            return max(map(len, equal.split(" ")))
        matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
        if kind == "gaps":
            table = {(i, j): 0 for i in range(-1, len(a)) for j in range(-1, len(b))}
            for i, j in itertools.product(range(len(a)), range(len(b))):
                either = max(table[i - 1, j], table[i, j - 1])
                table[i, j] = table[i - 1, j - 1] + 1 if a[i] == b[j] else either
            return table[len(a) - 1, len(b) - 1]
        found = matcher.find_longest_match()
        return a[found.a : found.a + found.size] if kind == "words" else found.size

    return answer


def rank_sequences(kind: str) -> Callable:
    def answer(step: int, rank: int, world: int, batch: int) -> list[int]:
        local = batch // world
        if kind == "no step":
            return [rank * local + i for i in range(local)]
        if kind == "no rank":
            return [step * batch + i for i in range(local)]
        if kind == "strided":
            return [step * batch + rank + i * world for i in range(local)]
        if kind == "everything":
            return [step * batch + i + rank for i in range(batch)]
        if kind == "short step":
            return [step * local + rank * local + i for i in range(local)]
        return [step * batch + rank * local + i for i in range(local)]

    return answer


RIGHT = [
    ("check_unique_tokens", lambda share, epochs, total: share * total / epochs),
    ("check_similarity", similarity("right")),
    ("check_held_out", held_out("right")),
    ("check_rank_sequences", rank_sequences("right")),
    ("check_longest_run", longest_run("right")),
]

MISTAKES = [
    ("check_unique_tokens", lambda s, e, t: s * t * e, "divide"),
    ("check_unique_tokens", lambda s, e, t: s * t, "read before"),
    ("check_unique_tokens", lambda s, e, t: t / e, "only a share"),
    ("check_unique_tokens", lambda s, e, t: s / 100 * t / e, "fraction"),
    ("check_similarity", similarity("letters"), "runs of 2 words"),
    ("check_similarity", similarity("one side"), "in either text"),
    ("check_similarity", similarity("sum"), "in either text"),
    ("check_similarity", similarity("zero"), "ZeroDivisionError"),
    ("check_held_out", held_out("chance"), "the text alone"),
    ("check_held_out", held_out("memory"), "the text alone"),
    ("check_held_out", held_out("builtin"), "use hashlib"),
    ("check_held_out", held_out("raw"), "other spacing"),
    ("check_held_out", held_out("half"), "you hold out"),
    ("check_held_out", held_out("number"), "True or False"),
    ("check_rank_sequences", rank_sequences("no step"), "sequences of step 0"),
    ("check_rank_sequences", rank_sequences("no rank"), "the same data"),
    ("check_rank_sequences", rank_sequences("strided"), "unbroken stretch"),
    ("check_rank_sequences", rank_sequences("everything"), "should be"),
    ("check_rank_sequences", rank_sequences("short step"), "should be"),
    ("check_longest_run", longest_run("letters"), "letters in a row"),
    ("check_longest_run", longest_run("capitals"), "capitals do not count"),
    ("check_longest_run", longest_run("any order"), "must stand in a row"),
    ("check_longest_run", longest_run("gaps"), "without others"),
    ("check_longest_run", longest_run("same place"), "different places"),
    ("check_longest_run", longest_run("words"), "should be a number"),
]


def test_the_check_gives_the_builtin_hash_back(capsys: pytest.CaptureFixture) -> None:
    before = hash
    teach.check_held_out(held_out("builtin"))
    assert hash is before
    assert hash("text") == hash("text")
