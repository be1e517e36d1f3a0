"""The checks of notebook 02: right answers pass, typical mistakes are named."""

import codecs
import math
from collections.abc import Callable

from exercises import *  # noqa: F403


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


def best_vocabulary(kind: str) -> Callable:
    tables = {"no output": 0, "two tables": 2}.get(kind, 1)

    def answer(bytes_per_token: dict[int, float], body: int, width: int) -> object:
        def cost(pieces: int) -> float:
            weights = body + tables * pieces * width
            return weights if kind == "by token" else weights / bytes_per_token[pieces]

        best = min(bytes_per_token, key=cost)
        if kind == "middle" and best == 2000:
            return 4000
        return bytes_per_token[best] if kind == "bytes" else best

    return answer


RIGHT = [
    ("check_merge", merge("right")),
    ("check_fall_back", lambda character: [3 + byte for byte in character.encode()]),
    ("check_bits_per_byte", lambda loss, tokens, size: loss / math.log(2) * tokens / size),
    ("check_stream", stream("right")),
    ("check_best_vocabulary", best_vocabulary("right")),
]

MISTAKES = [
    ("check_merge", merge("in place"), "build a new one"),
    ("check_merge", merge("text"), "should be a list"),
    ("check_merge", merge("letters"), "should be"),
    ("check_merge", merge("first"), "only the first pair"),
    ("check_merge", merge("overlap"), "lost or doubled"),
    ("check_merge", merge("joined"), "should be"),
    ("check_fall_back", lambda character: [3 + ord(character)], "number in Unicode"),
    ("check_fall_back", lambda character: list(character.encode()), "piece 0 is <unk>"),
    ("check_fall_back", lambda c: [3 + b for b in c.encode("utf-32-le")], "takes 2 bytes"),
    ("check_bits_per_byte", lambda loss, tokens, size: loss * tokens / size, "nats per byte"),
    ("check_bits_per_byte", lambda loss, t, s: loss / math.log(2), "bits per token"),
    ("check_bits_per_byte", lambda loss, t, s: loss / math.log(2) * s / t, "costs less"),
    ("check_bits_per_byte", lambda loss, t, s: loss * math.log(2) * t / s, "more bits than nats"),
    ("check_stream", stream("replace"), "U+FFFD"),
    ("check_stream", stream("ignore"), "characters were lost"),
    ("check_stream", stream("late"), "not later"),
    ("check_stream", stream("skip"), "one (perhaps empty) string"),
    ("check_best_vocabulary", best_vocabulary("no output"), "weights of the output"),
    ("check_best_vocabulary", best_vocabulary("two tables"), "is a look-up"),
    ("check_best_vocabulary", best_vocabulary("by token"), "count by the byte"),
    ("check_best_vocabulary", best_vocabulary("bytes"), "should be 1000"),
    ("check_best_vocabulary", best_vocabulary("middle"), "should be 2000"),
]
