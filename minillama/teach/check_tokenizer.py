"""Checks for the exercises of notebook 02 (the tokenizer)."""

import codecs
import math
from collections.abc import Callable
from itertools import product

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
        spelled = "".join(given)
        same_text = spelled == "".join(symbols)
        expect(same_text, f"{call} spells {spelled!r}: letters were lost or doubled")
        wanted = _merged(symbols, left, right)
        several = wanted.count(left + right) - symbols.count(left + right) > 1
        first_only = several and given.count(left + right) == 1
        expect(not first_only, f"{call} = {given}: only the first pair was merged")
        compare(call, given, wanted)
    return "pairs are found from left to right, without overlap"


@exercise
def check_fall_back(answer: Callable) -> str:
    """``answer(character) -> piece ids`` of a character without a piece of its own."""
    for character in ("é", "ß", "س", "猫", "🦙", "A"):
        content, place = list(character.encode("utf-8")), ord(character)
        size = f"in UTF-8 this character takes {len(content)} bytes"
        wrong = {
            "that is the character's number in Unicode; take its bytes": [place],
            "that is 3 + the character's number in Unicode; take its bytes": [3 + place],
            "those are the bytes; piece 0 is <unk>, and byte 0 is piece 3": content,
            f"that is UTF-32; {size}": [3 + byte for byte in character.encode("utf-32-le")],
            f"that is UTF-16; {size}": [3 + byte for byte in character.encode("utf-16-le")],
        }
        diagnose(answer, (character,), [3 + byte for byte in content], wrong)
    return "one to four pieces for any character of any script"


@exercise
def check_bits_per_byte(answer: Callable) -> str:
    """``answer(loss, tokens, n_bytes) -> bits per byte``; the loss is in nats per token."""
    for loss, tokens, n_bytes in ((2.0, 100, 400), (1.75, 1000, 1000), (5.545, 10, 55)):
        bits, share = loss / math.log(2), tokens / n_bytes
        turned = loss * math.log(2) * share
        wrong = {
            "that is nats per byte; one bit is ln 2 nats": loss * share,
            "a nat is more than a bit, so there must be more bits than nats": turned,
            "that is bits per token": bits,
            "a token spans several bytes, so a byte costs less than a token": bits / share,
        }
        diagnose(answer, (loss, tokens, n_bytes), bits * share, wrong)
    return "the same for every vocabulary: what the text costs, not how it was cut"


@exercise
def check_stream(answer: Callable) -> str:
    """``answer(pieces) -> list of str``: what can be shown after each piece of bytes."""
    texts = ("plain", "naïve café", "llama: 🦙!", "猫と🦙")
    for text, size in product(texts, (1, 2, 3)):
        content = text.encode("utf-8")
        pieces = [content[i : i + size] for i in range(0, len(content), size)]
        make_decoder = codecs.getincrementaldecoder("utf-8")
        decoder = make_decoder()
        right = [decoder.decode(piece) for piece in pieces]
        wrong = {
            "U+FFFD is shown: hold back the bytes of an unfinished character":
                [piece.decode("utf-8", "replace") for piece in pieces],
            "characters were lost": [piece.decode("utf-8", "ignore") for piece in pieces],
            "show a character with its last byte, not later": [""] * (len(pieces) - 1) + [text],
            "return one (perhaps empty) string for each piece": list(filter(None, right)),
        }  # fmt: skip
        given = returned(answer(list(pieces)), "a list of strings")
        compare(f"stream({pieces})", given, right, wrong)
    return "every character appears with its last byte, none in halves"


@exercise
def check_best_vocabulary(answer: Callable) -> str:
    """``answer(bytes_per_token, body, width)`` is the vocabulary in which a byte costs least."""
    fertility = {1000: 2.0, 2000: 2.5, 4000: 2.9, 8000: 3.2, 16_000: 3.4}

    def cheapest(body: int, output: int) -> int:
        costs = {n: (body + output * n) / size for n, size in fertility.items()}
        return min(costs, key=costs.get)

    for body, width in ((40_000, 32), (1_200_000, 128), (24_000_000, 512), (300_000_000, 1024)):
        wrong = {
            "count only the output layer; the input is a look-up": cheapest(body, 2 * width),
            "few tokens, but each also meets V d weights of the output": 16_000,
            "the tokens are cheap, but count by the byte, not by the token": 1000,
        }
        diagnose(answer, (fertility, body, width), cheapest(body, width), wrong)
    return "the larger the body, the more pieces pay"
