"""The checks of notebook 01c: right answers pass, typical mistakes are named."""

import re
from collections.abc import Callable

from exercises import *  # noqa: F403


def without_templates(kind: str) -> Callable:
    def answer(text: str) -> str:
        if kind in ("lazy", "greedy"):
            return re.sub(r"\{\{.*?\}\}" if kind == "lazy" else r"\{\{.*\}\}", "", text, flags=re.S)
        if kind == "nothing":
            return text
        if kind == "single":
            opening, closing = "{", "}"
        else:
            opening, closing = "{{", "}}"
        inner = re.compile(rf"{opening}(?:(?!{opening}|{closing}).)*{closing}", re.S)
        while inner.search(text):
            text = inner.sub("", text)
        return text.strip() if kind == "strip" else text

    return answer


def choose_bands(kind: str) -> Callable:
    def answer(numbers: int, overlap: float, wanted: float) -> tuple[int, int] | int:
        good = [
            (numbers // rows, rows)
            for rows in range(1, numbers + 1)
            if numbers % rows == 0 and 1 - (1 - overlap**rows) ** (numbers // rows) >= wanted
        ]
        bands, rows = good[0 if kind == "first" else -1]
        return {
            "swapped": (rows, bands), "rows only": rows, "product": (bands, rows + 1),
            "longer": (bands // 2, rows * 2), "floats": (float(bands), rows),
        }.get(kind, (bands, rows))  # fmt: skip

    return answer


def expand_macro(kind: str) -> Callable:
    def answer(source: str, name: str, body: str) -> str:
        if kind == "str.replace":
            return source.replace(name, body)
        flat, nested = r"\{([^{}]*)\}", r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
        braces = flat if kind == "flat" else nested
        end = "" if kind == "prefix" else "(?![A-Za-z])"
        use = re.compile(re.escape(name) + end + ("[^{]*" if kind == "prefix" else "") + braces)
        first = 1 if kind == "one #1" else 0
        while use.search(source):
            source = use.sub(lambda m: body.replace("#1", m[1], first or -1), source)
            if kind == "once":
                break
        return source

    return answer


def lazily(source: str, name: str, body: str) -> str:
    use = re.compile(re.escape(name) + r"\{(.*?)\}")
    return use.sub(lambda m: body.replace("#1", m[1]), source)


def format_thread(kind: str) -> Callable:
    def answer(title: str, question: str, answers: list[tuple[int, str]]) -> str:
        if kind == "in place":
            answers.sort(key=lambda pair: -pair[0])
        order = sorted(answers, key=lambda pair: -pair[0])
        if kind == "rising":
            order = order[::-1]
        if kind == "tuples":
            order = sorted(answers, reverse=True)
        if kind == "alphabet":
            order = sorted(answers, key=lambda pair: (-pair[0], pair[1]))
        if kind == "as given":
            order = answers
        told = [f"A: {text}" for _, text in order]
        if kind == "scores":
            told = [f"A ({score}): {text}" for score, text in order]
        head = [f"Q: {title}", question]
        if kind == "title":
            head = [title, question]
        return ("\n" if kind == "lines" else "\n\n").join([*head, *told])

    return answer


RIGHT = [
    ("check_nested_templates", without_templates("right")),
    ("check_choose_bands", choose_bands("right")),
    ("check_expand_macro", expand_macro("right")),
    ("check_sorted_answers", format_thread("right")),
]

MISTAKES = [
    ("check_nested_templates", without_templates("lazy"), "the inner template's end"),
    ("check_nested_templates", without_templates("greedy"), "between two templates"),
    ("check_nested_templates", without_templates("nothing"), "still there"),
    ("check_nested_templates", without_templates("single"), "a single brace"),
    ("check_nested_templates", without_templates("strip"), "should be ' and '"),
    ("check_nested_templates", len, "should be a text"),
    ("check_choose_bands", choose_bands("first"), "fewer strangers"),
    ("check_choose_bands", choose_bands("swapped"), "bands come first"),
    ("check_choose_bands", choose_bands("rows only"), "return (bands, rows)"),
    ("check_choose_bands", choose_bands("floats"), "whole numbers"),
    ("check_choose_bands", choose_bands("product"), "take 144 numbers of 128"),
    ("check_choose_bands", choose_bands("longer"), "with probability 0.8059"),
    ("check_expand_macro", expand_macro("str.replace"), "the place of #1"),
    ("check_expand_macro", expand_macro("prefix"), "another command"),
    ("check_expand_macro", lazily, "closes its own"),
    ("check_expand_macro", expand_macro("flat"), "closes its own"),
    ("check_expand_macro", expand_macro("once"), "inside its own argument"),
    ("check_expand_macro", expand_macro("one #1"), "the place of #1"),
    ("check_sorted_answers", format_thread("rising"), "lowest score comes first"),
    ("check_sorted_answers", format_thread("tuples"), "given first leads"),
    ("check_sorted_answers", format_thread("alphabet"), "given first leads"),
    ("check_sorted_answers", format_thread("as given"), "do not stand by score"),
    ("check_sorted_answers", format_thread("scores"), "its score is not told"),
    ("check_sorted_answers", format_thread("title"), "begins with 'Q: '"),
    ("check_sorted_answers", format_thread("lines"), "should be"),
    ("check_sorted_answers", format_thread("in place"), "work on a copy"),
]
