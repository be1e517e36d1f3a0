"""Checks for the exercises of notebook 02 (the tokenizer)."""

import math
from collections.abc import Callable

from minillama.teach.checking import compare, diagnose, exercise, expect, returned


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
        symbols, handed = text.split(), text.split()
        given = returned(answer(handed, left, right), "the new list of symbols")
        call = f"merge({symbols}, {left!r}, {right!r})"
        expect(isinstance(given, list), f"{call} should be a list but is a {type(given).__name__}")
        expect(handed == symbols, f"{call} changed the list that it was given: build a new one")
        lost = f"spells {''.join(given)!r}: letters were lost or doubled"
        expect("".join(given) == "".join(symbols), f"{call} {lost}")
        wanted = _merged(symbols, left, right)
        pairs = wanted.count(left + right) - symbols.count(left + right)
        all_pairs = pairs < 2 or given.count(left + right) > 1
        expect(all_pairs, f"{call} = {given}: only the first pair was merged")
        expect(pairs or given == symbols, f"{call} = {given}: no two neighbors are that pair")
        compare(call, given, wanted)
    return "pairs are found from left to right, without overlap"


@diagnose(
    ("é",), ("ß",), ("س",), ("猫",), ("🦙",), ("A",),
    praise="one to four pieces for any character of any script",
)  # fmt: skip
def check_fall_back(character: str) -> tuple:
    """``answer(character) -> piece ids`` of a character without a piece of its own."""
    content, place = list(character.encode("utf-8")), ord(character)
    size = f"in UTF-8 this character takes {len(content)} bytes"
    return [3 + byte for byte in content], {
        "that is the character's number in Unicode; take its bytes": [place],
        "that is 3 + the character's number in Unicode; take its bytes": [3 + place],
        "those are the bytes; piece 0 is <unk>, and byte 0 is piece 3": content,
        f"that is UTF-32; {size}": [3 + byte for byte in character.encode("utf-32-le")],
        f"that is UTF-16; {size}": [3 + byte for byte in character.encode("utf-16-le")],
    }


@diagnose(
    (2.0, 100, 400), (1.75, 1000, 1000), (5.545, 10, 55),
    praise="the same for every vocabulary: what the text costs, not how it was cut",
)  # fmt: skip
def check_bits_per_byte(loss: float, tokens: int, n_bytes: int) -> tuple:
    """``answer(loss, tokens, n_bytes) -> bits per byte``; the loss is in nats per token."""
    bits, share = loss / math.log(2), tokens / n_bytes
    turned = loss * math.log(2) * share
    return bits * share, {
        "that is nats per byte; one bit is ln 2 nats": loss * share,
        "a nat is more than a bit, so there must be more bits than nats": turned,
        "that is bits per token": bits,
        "a token spans several bytes, so a byte costs less than a token": bits / share,
    }


@exercise
def check_stream(answer: Callable) -> str:
    """``answer(pieces) -> list of str``: what can be shown after each piece of bytes."""
    texts = ("plain", "naïve café", "llama: 🦙!", "猫と🦙")
    for text, size in ((text, size) for text in texts for size in (1, 2, 3)):
        content = text.encode("utf-8")
        pieces = [content[i : i + size] for i in range(0, len(content), size)]
        given, call = returned(answer(list(pieces)), "a list of strings"), f"stream({pieces})"
        listed = isinstance(given, list) and all(isinstance(part, str) for part in given)
        expect(listed, f"{call} should be a list of strings")
        shown = "".join(given)
        unfinished = f"{call} shows U+FFFD: hold back the bytes of an unfinished character"
        expect("\ufffd" not in shown, unfinished)
        expect(len(shown) >= len(text), f"{call} shows {shown!r}: characters were lost")
        expect(shown == text, f"{call} shows {shown!r} instead of {text!r}")
        parts = f"has {len(given)} parts for {len(pieces)} pieces"
        one_each = f"{call} {parts}: one (perhaps empty) string for each"
        expect(len(given) == len(pieces), one_each)
        read = sent = ""
        for part, end in zip(given, range(size, len(content) + size, size), strict=True):
            sent = content[:end].decode("utf-8", errors="ignore")
            read += part
            expect(read == sent, f"{call}: a character is shown later than with its last byte")
    return "every character appears with its last byte, none in halves"


FERTILITY = {1000: 2.0, 2000: 2.5, 4000: 2.9, 8000: 3.2, 16_000: 3.4}


@diagnose(
    (FERTILITY, 40_000, 32), (FERTILITY, 1_200_000, 128), (FERTILITY, 24_000_000, 512),
    (FERTILITY, 300_000_000, 1024),
    praise="the larger the body, the more pieces pay",
)  # fmt: skip
def check_best_vocabulary(bytes_per_token: dict[int, float], body: int, width: int) -> tuple:
    """``answer(bytes_per_token, body, width)`` is the vocabulary in which a byte costs least."""

    def cheapest(tables: int) -> int:
        costs = {n: (body + tables * n * width) / b for n, b in bytes_per_token.items()}
        return min(costs, key=costs.get)

    return cheapest(1), {
        "count only the output layer; the input embedding is a look-up": cheapest(2),
        "few tokens, but each also meets V d weights of the output": max(bytes_per_token),
        "the tokens are cheap, but count by the byte, not by the token": min(bytes_per_token),
    }
