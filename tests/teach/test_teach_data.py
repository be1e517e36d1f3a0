"""The checks of notebooks 01 and 02: right answers pass, typical mistakes are named."""

import codecs
import difflib
import hashlib
import itertools
import math
import random
from collections.abc import Callable

import pytest
from exercises import (  # noqa: F401
    pytest_generate_tests,
    test_a_mistake_is_named,
    test_a_right_answer_is_accepted,
    test_an_empty_answer_is_no_answer,
)

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


def merge(kind: str) -> Callable:
    def answer(symbols: list[str], left: str, right: str) -> list[str]:
        if kind == "in place":
            symbols.append("")
            return symbols
        if kind == "text":
            return "".join(symbols)
        if kind == "letters":
            return list("".join(symbols))
        result, i, done = [], 0, False
        while i < len(symbols):
            pair = symbols[i : i + 2] == [left, right] and not (kind == "first" and done)
            if kind == "joined":
                pair = "".join(symbols[i : i + 2]) == left + right and i + 1 < len(symbols)
            if pair:
                result.append(left + right)
                done = True
            else:
                result.append(symbols[i])
            i += 2 if pair and kind != "overlap" else 1
        return result

    return answer


def stream(kind: str) -> Callable:
    def answer(pieces: list[bytes]) -> list[str]:
        if kind in ("replace", "ignore"):
            return [piece.decode("utf-8", errors=kind) for piece in pieces]
        if kind == "late":
            return [""] * (len(pieces) - 1) + [b"".join(pieces).decode()]
        decoder = codecs.getincrementaldecoder("utf-8")()
        shown = [decoder.decode(piece) for piece in pieces]
        return [part for part in shown if part] if kind == "skip" else shown

    return answer


RIGHT = [
    ("check_unique_tokens", lambda share, epochs, total: share * total / epochs),
    ("check_similarity", similarity("right")),
    ("check_held_out", held_out("right")),
    ("check_rank_sequences", rank_sequences("right")),
    ("check_longest_run", longest_run("right")),
    ("check_merge", merge("right")),
    ("check_fall_back", lambda character: [3 + byte for byte in character.encode()]),
    ("check_bits_per_byte", lambda loss, tokens, size: loss / math.log(2) * tokens / size),
    ("check_stream", stream("right")),
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
    ("check_rank_sequences", rank_sequences("everything"), "sequences each"),
    ("check_rank_sequences", rank_sequences("short step"), "missing"),
    ("check_longest_run", longest_run("letters"), "letters in a row"),
    ("check_longest_run", longest_run("capitals"), "capitals do not count"),
    ("check_longest_run", longest_run("any order"), "must stand in a row"),
    ("check_longest_run", longest_run("gaps"), "without others"),
    ("check_longest_run", longest_run("same place"), "different places"),
    ("check_longest_run", longest_run("words"), "how many words"),
    ("check_merge", merge("in place"), "build a new one"),
    ("check_merge", merge("text"), "should be a list"),
    ("check_merge", merge("letters"), "should be"),
    ("check_merge", merge("first"), "only the first pair"),
    ("check_merge", merge("overlap"), "lost or doubled"),
    ("check_merge", merge("joined"), "no two neighbors"),
    ("check_fall_back", lambda character: [3 + ord(character)], "number in Unicode"),
    ("check_fall_back", lambda character: list(character.encode()), "piece 0 is <unk>"),
    ("check_fall_back", lambda c: [3 + b for b in c.encode("utf-32-le")], "takes 2 bytes"),
    ("check_bits_per_byte", lambda loss, tokens, size: loss * tokens / size, "nats per byte"),
    ("check_bits_per_byte", lambda loss, t, s: loss / math.log(2), "bits per token"),
    ("check_bits_per_byte", lambda loss, t, s: loss / math.log(2) * s / t, "costs less"),
    ("check_bits_per_byte", lambda loss, t, s: loss * math.log(2) * t / s, "more bits than nats"),
    ("check_stream", stream("replace"), "shows U+FFFD"),
    ("check_stream", stream("ignore"), "characters were lost"),
    ("check_stream", stream("late"), "later than"),
    ("check_stream", stream("skip"), "one (perhaps empty) string"),
]


def test_the_check_gives_the_builtin_hash_back(capsys: pytest.CaptureFixture) -> None:
    before = hash
    teach.check_held_out(held_out("builtin"))
    assert hash is before
    assert hash("text") == hash("text")
