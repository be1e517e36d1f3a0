"""The checks of notebook 01b: right answers pass, typical mistakes are named."""

import hashlib
import math
import re
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from exercises import *  # noqa: F403

from minillama.corpus.c4 import drop_repeated_spans
from minillama.corpus.commoncrawl import plain_line
from minillama.corpus.deduplicate import HashSet, hash64
from minillama.corpus.quality import terciles
from minillama.teach.check_web import OTHER_LINES, SAME_LINES, SPAN_CASES, _without_spans


def line_key(kind: str) -> Callable:
    def bare(line: str) -> str:
        if kind == "raw":
            return line
        if kind != "cased":
            line = line.lower() if kind == "lower" else line.casefold()
        if kind == "no digits":
            return re.sub(r"[\W\d]+", "", line)
        if kind == "one zero":
            return re.sub(r"\W+", "", re.sub(r"\d+", "0", line))
        if kind == "spaces":
            return re.sub(r"[^\w\s]+", "", re.sub(r"\d", "0", line))
        if kind == "sorted":
            line = "".join(sorted(line))
        return re.sub(r"\W+", "", line if kind == "digits" else re.sub(r"\d", "0", line))

    def answer(line: str) -> int | str:
        digest = hashlib.sha256(bare(line).encode())
        if kind == "text":
            return digest.hexdigest()
        if kind == "builtin":
            return hash(bare(line))
        if kind == "long":
            return int(digest.hexdigest(), 16)
        if kind == "crc":
            return zlib.crc32(bare(line).encode())
        return int.from_bytes(digest.digest()[:8], "little")

    return answer


def spans(kind: str) -> Callable:
    def answer(pages: list[list[str]]) -> list[list[str]]:
        if kind == "joined":
            return [line for page in pages for line in page]
        met, cleaned = set(), []
        if kind == "all copies":
            count = [tuple(p[i : i + 3]) for p in pages for i in range(len(p) - 2)]
            met = {span for span in count if count.count(span) > 1}
        size = {"pairs": 2, "sentences": 1}.get(kind, 3)
        for page in pages:
            gone, own = set(), set()
            for i in range(len(page) - size + 1):
                span = tuple(sorted(page[i : i + size]) if kind == "sets" else page[i : i + size])
                if span in met:
                    gone |= {i} if kind == "first only" else set(range(i, i + size))
                (own if kind in ("pages", "all copies") else met).add(span)
            met |= own if kind == "pages" else set()
            kept = [line for i, line in enumerate(page) if i not in gone]
            if kept or kind != "no empty":
                cleaned.append(kept)
        return cleaned

    return answer


def buckets(kind: str) -> Callable:
    def answer(pages: list[list[float]]) -> list[str]:
        names = ["head", "middle", "tail"]
        if kind == "capitals":
            names = [name.upper() for name in names]
        values = []
        for logs in pages:
            if not logs and kind != "crash":
                values.append(0.0 if kind == "empty first" else math.inf)
            elif kind == "sum":
                values.append(-sum(logs))
            elif kind == "arithmetic":
                values.append(1 / np.mean(np.exp(logs)))
            else:
                values.append(math.exp((1 if kind == "sign" else -1) * sum(logs) / len(logs)))
        cut = terciles(values)
        return [names[int(v > cut.head) + int(v > cut.middle)] for v in values]

    return answer


def threshold(kind: str) -> Callable:
    def answer(scores: list[float], labels: list[int], precision: float) -> float:
        best, most = math.inf, 0
        if kind in ("half", "first"):
            best = 0.5 if kind == "half" else 0.0
        for value in sorted(scores, reverse=True):
            strict = kind == "strict"
            kept = [y for s, y in zip(scores, labels, strict=True) if s > value or
                    (s == value and not strict)]  # fmt: skip
            enough = bool(kept) and sum(kept) / len(kept) >= precision
            if not enough and kind == "stops":
                return best
            if enough and sum(kept) > most and kind != "half":
                best, most = value, sum(kept)
                if kind == "highest":
                    return best
        return best

    return answer


RIGHT = [
    ("check_line_key", line_key("right")),
    ("check_line_key", lambda line: hash64(plain_line(line))),
    ("check_spans", spans("right")),
    ("check_buckets", buckets("right")),
    ("check_threshold", threshold("right")),
]

MISTAKES = [
    ("check_line_key", line_key("raw"), "in case"),
    ("check_line_key", line_key("cased"), "in case"),
    ("check_line_key", line_key("lower"), "casefold"),
    ("check_line_key", line_key("spaces"), "in punctuation and spaces"),
    ("check_line_key", line_key("digits"), "in which digits"),
    ("check_line_key", line_key("no digits"), "read digits as 0"),
    ("check_line_key", line_key("one zero"), "read each as 0"),
    ("check_line_key", line_key("sorted"), "another order"),
    ("check_line_key", line_key("text"), "whole number"),
    ("check_line_key", line_key("builtin"), "hashlib"),
    ("check_line_key", line_key("long"), "2**64 - 1"),
    ("check_line_key", line_key("crc"), "too small"),
    ("check_line_key", lambda line: 5, "must have different keys"),
    ("check_spans", spans("pairs"), "share two sentences in a row: too many"),
    ("check_spans", spans("sentences"), "too many"),
    ("check_spans", spans("sets"), "another order"),
    ("check_spans", spans("first only"), "too few"),
    ("check_spans", spans("pages"), "repeats itself: too few"),
    ("check_spans", spans("all copies"), "first copy"),
    ("check_spans", spans("no empty"), "empty ones too"),
    ("check_spans", spans("joined"), "as many pages"),
    ("check_buckets", buckets("sign"), "upside down"),
    ("check_buckets", buckets("sum"), "divide by the number of pieces"),
    ("check_buckets", buckets("arithmetic"), "mean of the logarithms"),
    ("check_buckets", buckets("crash"), "ZeroDivisionError"),
    ("check_buckets", buckets("empty first"), "without pieces"),
    ("check_buckets", buckets("capitals"), "one of head, middle, tail"),
    ("check_threshold", threshold("half"), "the precision is only"),
    ("check_threshold", threshold("highest"), "references, and"),
    ("check_threshold", threshold("stops"), "precision may rise again"),
    ("check_threshold", threshold("strict"), "the precision is only"),
    ("check_threshold", threshold("first"), "return math.inf"),
    ("check_threshold", lambda scores, labels, precision: scores, "return a number"),
]


def test_lines_are_the_same_to_the_check_and_to_the_corpus() -> None:
    assert all(plain_line(one) == plain_line(other) for one, other, _ in SAME_LINES)
    assert all(plain_line(one) != plain_line(other) for one, other, _ in OTHER_LINES)


@pytest.mark.parametrize(("case", "pages"), SPAN_CASES)
def test_spans_go_as_in_the_corpus(case: str, pages: list[list[str]]) -> None:
    seen = HashSet()
    texts = ["\n".join(f"{name * 3}." for name in page) for page in pages]
    kept = [drop_repeated_spans(text, seen)[0].splitlines() for text in texts]
    assert [[line[0] for line in page] for page in kept] == _without_spans(pages), case
