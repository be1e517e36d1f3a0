"""Checks for the exercises of notebook 02 (the tokenizer)."""

import math
from collections.abc import Callable

from minillama.teach.checking import exercise, expect, is_number, same_number


def _merged(symbols: list[str], left: str, right: str) -> list[str]:
    result: list[str] = []
    open_pair = False  # the last symbol of the result may still be the left half of a pair
    for symbol in symbols:
        if open_pair and result[-1] == left and symbol == right:
            result[-1] = left + right
            open_pair = False
        else:
            result.append(symbol)
            open_pair = True
    return result


@exercise
def check_merge(answer: Callable) -> str:
    """``answer(symbols, left, right) -> symbols`` with every such pair replaced by one symbol."""
    cases = [
        ("l o w e r", "l", "o"), ("b a n a n a", "a", "n"), ("a a a a a", "a", "a"),
        ("x y z", "a", "b"), ("ab c d", "a", "bc"), ("ab c a bc", "a", "bc"), ("", "a", "b"),
        ("th e th e", "th", "e"),
    ]  # fmt: skip
    for text, left, right in cases:
        symbols = text.split()
        call = f"merge({symbols}, {left!r}, {right!r})"
        handed = list(symbols)
        given = answer(handed, left, right)
        expect(given is not None, "your function returned None; return the new list of symbols")
        expect(isinstance(given, list), f"{call} should be a list but is a {type(given).__name__}")
        wanted = _merged(symbols, left, right)
        expect(handed == symbols, f"{call} changed the list that it was given: build a new one")
        expect(
            "".join(given) == "".join(symbols),
            f"{call} spells {''.join(given)!r}: letters were lost or doubled",
        )
        found = wanted.count(left + right) - symbols.count(left + right)
        expect(
            found < 2 or given.count(left + right) > 1,
            f"{call} = {given}: only the first pair was merged",
        )
        expect(found or given == symbols, f"{call} = {given}: no two neighbors are that pair")
        expect(given == wanted, f"{call} = {given} and should be {wanted}")
    return "pairs are found from left to right, without overlap"


@exercise
def check_fall_back(answer: Callable) -> str:
    """``answer(character) -> piece ids`` of a character without a piece of its own."""
    for character in ("é", "ß", "س", "猫", "🦙", "A"):
        given = answer(character)
        call = f"fall_back({character!r})"
        expect(given is not None, f"{call} is None; replace `return None` by your answer")
        ids = [int(number) for number in given]
        content = character.encode("utf-8")
        expect(
            character == "A" or ids not in ([ord(character)], [ord(character) + 3]),
            f"{call}: {ids[0]} comes from the character's number in Unicode; take its bytes",
        )
        expect(
            ids != list(content),
            f"{call}: those are the bytes; piece 0 is <unk>, and byte 0 is piece 3",
        )
        expect(
            len(ids) == len(content),
            f"{call} has {len(ids)} ids; in UTF-8 this character takes {len(content)} bytes",
        )
        expect(ids == [3 + byte for byte in content], f"{call} = {ids}: wrong ids")
    return "one to four pieces for any character of any script"


@exercise
def check_bits_per_byte(answer: Callable) -> str:
    """``answer(loss, tokens, n_bytes) -> bits per byte``; the loss is in nats per token."""
    for loss, tokens, n_bytes in ((2.0, 100, 400), (1.75, 1000, 1000), (5.545, 10, 55)):
        given = answer(loss, tokens, n_bytes)
        call = f"bits_per_byte({loss}, {tokens}, {n_bytes})"
        bits = loss / math.log(2)
        expect(
            not is_number(given, loss * tokens / n_bytes),
            f"{call}: that is nats per byte; one bit is ln 2 nats",
        )
        expect(
            not is_number(given, loss * math.log(2) * tokens / n_bytes),
            f"{call}: a nat is more than a bit, so there must be more bits than nats",
        )
        expect(tokens == n_bytes or not is_number(given, bits), f"{call}: that is bits per token")
        expect(
            tokens == n_bytes or not is_number(given, bits * n_bytes / tokens),
            f"{call}: a token spans several bytes, so a byte costs less than a token",
        )
        same_number(given, bits * tokens / n_bytes, call)
    return "the same for every vocabulary: what the text costs, not how it was cut"


@exercise
def check_stream(answer: Callable) -> str:
    """``answer(pieces) -> list of str``: what can be shown after each piece of bytes."""
    for text in ("plain", "naïve café", "llama: 🦙!", "猫と🦙"):
        content = text.encode("utf-8")
        for size in (1, 2, 3):
            pieces = [content[i : i + size] for i in range(0, len(content), size)]
            given = answer(list(pieces))
            call = f"stream({pieces})"
            expect(given is not None, "your function returned None; return a list of strings")
            expect(
                isinstance(given, list) and all(isinstance(part, str) for part in given),
                f"{call} should be a list of strings",
            )
            expect(
                not any("\ufffd" in part for part in given),
                f"{call} shows U+FFFD: hold back the bytes of an unfinished character",
            )
            shown = "".join(given)
            expect(len(shown) >= len(text), f"{call} shows {shown!r}: characters were lost")
            expect(shown == text, f"{call} shows {shown!r} instead of {text!r}")
            expect(
                len(given) == len(pieces),
                f"{call} has {len(given)} parts for {len(pieces)} "
                "pieces: one (perhaps empty) string for each",
            )
            sizes = [len(b"".join(pieces[: i + 1])) for i in range(len(pieces))]
            whole = [len(content[:n].decode("utf-8", errors="ignore")) for n in sizes]
            early = [len("".join(given[: i + 1])) for i in range(len(pieces))]
            expect(early == whole, f"{call}: a character is shown later than with its last byte")
    return "every character appears with its last byte, none in halves"


@exercise
def check_best_vocabulary(answer: Callable) -> str:
    """``answer(bytes_per_token, body, width)`` is the vocabulary in which a byte costs least."""
    fertility = {1000: 2.0, 2000: 2.5, 4000: 2.9, 8000: 3.2, 16_000: 3.4}

    def best(tables: int, body: int, width: int) -> int:
        return min(
            fertility, key=lambda pieces: (body + tables * pieces * width) / fertility[pieces]
        )

    for body, width in ((40_000, 32), (1_200_000, 128), (24_000_000, 512), (300_000_000, 1024)):
        given = answer(dict(fertility), body, width)
        call = f"best_vocabulary(bytes_per_token, {body:,}, {width})"
        expect(given is not None, f"{call} is None; replace `return None` by your answer")
        key = isinstance(given, int) and given in fertility
        expect(key, f"{call} = {given!r}: return one of the keys {list(fertility)}")
        right = best(1, body, width)
        mistakes = {
            best(2, body, width): "count only the output layer; the input embedding is a look-up",
            max(fertility): "the tokens are few, but each also meets V d weights of the output",
            min(fertility): "the tokens are cheap, but count by the byte, not by the token",
        }
        hint = mistakes.get(given, f"it should be {right:,}")
        expect(given == right, f"{call} = {given:,}: {hint}")
    return "the larger the body, the more pieces pay"
