"""Checks of notebook 01c (GitHub, Wikipedia, books, ArXiv, StackExchange)."""

import re
from collections.abc import Callable

from minillama.corpus.deduplicate import candidate_probability
from minillama.teach.checking import ANYTHING_ELSE, diagnose, exercise, expect, number, several


def _without_nested(text: str, opening: str, closing: str) -> str:
    inner = re.compile(rf"{opening}(?:(?!{opening}|{closing}).)*{closing}", re.DOTALL)
    while inner.search(text):
        text = inner.sub("", text)
    return text


@exercise
def check_nested_templates(answer: Callable) -> str:
    """``answer(wikitext) -> the text outside all templates``."""
    for text in (
        "plain words", "before {{stub}}after", "{{a}} and {{b}}", "{{a|{{b}}|c}}end",
        "{{a|{{b|{{c}}}}{{d}}}}x{{e}}y", "one {brace} stays{{a\n|b}}.",
    ):  # fmt: skip
        lazy, greedy = (
            re.sub(r"\{\{.*" + end, "", text, flags=re.DOTALL) for end in (r"?\}\}", r"\}\}")
        )
        wrong = {
            "the template is still there": text,
            "the words between two templates are gone: you cut up to the last end": greedy,
            "the inner template's end was taken for the outer one's; count": lazy,
            "a single brace opens no template": _without_nested(text, "{", "}"),
        }
        diagnose(answer, (text,), _without_nested(text, "{{", "}}"), wrong)
    return "templates inside templates are gone, to any depth"


@exercise
def check_choose_bands(answer: Callable) -> str:
    """``answer(permutations, overlap, wanted) -> (bands, rows)``, with the most rows that do."""
    cases = [(128, 0.9, 0.999), (128, 0.5, 0.9), (128, 0.2, 0.95), (12, 0.8, 0.9), (256, 0.8, 0.99)]
    for case in cases:
        numbers, overlap, wanted = case
        given = several(answer(*case), 2, "(bands, rows)")
        bands, rows = (number(n) for n in given)
        whole = isinstance(bands, int) and isinstance(rows, int)
        expect(whole, f"return (bands, rows), whole numbers, not {given!r}")
        call = f"choose_bands{case}: {bands} bands of {rows} rows"
        expect(bands * rows == numbers, f"{call} take {bands * rows} numbers of {numbers}")
        divisors = [n for n in range(1, numbers + 1) if numbers % n == 0]
        found = {n: candidate_probability(overlap, numbers // n, n) for n in divisors}
        most = max(n for n, probability in found.items() if probability >= wanted)
        swapped = "; bands come first" if bands == most else ""
        expect(rows <= most, f"{call} find it with probability {found[rows]:.4f}{swapped}")
        longer = "find it, but longer bands would, too, and let fewer strangers through"
        expect(rows == most, f"{call} {longer}")
    return "enough bands to miss nothing, bands long enough to compare little"


CLOSING = "an argument goes to the brace that closes its own"
EXPANSIONS: dict[tuple[str, str, str], tuple[str, str]] = {
    (r"\norm{x}", r"\norm", "|#1|"): ("|x|", "put the argument in the place of #1"),
    (r"a \norm{x} b \norm{y}", r"\norm", "|#1|"): ("a |x| b |y|", "it may be used again"),
    (r"\v{x} and \vec{x}", r"\v", r"\mathbf{#1}"):
        (r"\mathbf{x} and \vec{x}", r"\vec is another command: no letter may follow the name"),
    (r"\norm{\frac{a}{b}}", r"\norm", "|#1|"): (r"|\frac{a}{b}|", CLOSING),
    (r"\norm{x + \norm{y}}", r"\norm", "|#1|"):
        ("|x + |y||", "it may also stand inside its own argument"),
    (r"\two{ab}", r"\two", "#1+#1"): ("ab+ab", "the place of #1 may be there more than once"),
    (r"no macro {here}", r"\norm", "|#1|"): ("no macro {here}", "nothing is to be expanded"),
}  # fmt: skip
"""Source, name and body of a macro, to what becomes of it and a hint."""


@exercise
def check_expand_macro(answer: Callable) -> str:
    r"""``answer(source, name, body) -> source`` with ``\name{…}`` written out."""
    for source, name, body in (*EXPANSIONS,):
        right, hint = EXPANSIONS[source, name, body]
        wrong = {f"it should be {right!r}: {hint}": ANYTHING_ELSE}
        diagnose(answer, (source, name, body), right, wrong)
    return "names, braces and nested uses are respected"


def _thread(answers: list[tuple[int, str]], begin: str = "Q: ", gap: str = "\n\n") -> str:
    return gap.join([f"{begin}Why?", "It hums.", *(f"A: {text}" for _, text in answers)])


@exercise
def check_sorted_answers(answer: Callable) -> str:
    """``answer(title, question, answers) -> text``; the answers are pairs of score and text."""
    for title, question, answers in (
        ("Why?", "It hums.", [(1, "only")]),
        ("Why?", "It hums.", [(1, "low"), (9, "high"), (4, "middle")]),
        ("Why?", "It hums.", [(-3, "bad"), (0, "fair"), (12, "best"), (2, "good")]),
        ("Why?", "It hums.", [(5, "zebra"), (5, "aardvark"), (7, "first")]),
        ("Why?", "It hums.", [(5, "aardvark"), (5, "zebra"), (7, "first")]),
    ):
        order = sorted(answers, key=lambda pair: -pair[0])
        by_name = sorted(answers, key=lambda pair: (-pair[0], pair[1]))
        first_leads = "of two answers with the same score the one that was given first leads"
        scores = "\n\n".join(f"A ({score}): {text}" for score, text in order)
        wrong = {
            "the lowest score comes first; turn the order round": _thread(order[::-1]),
            f"{first_leads}, not the last in the alphabet": _thread(sorted(answers, reverse=True)),
            f"{first_leads}, not the first in the alphabet": _thread(by_name),
            "the answers do not stand by score": _thread(answers),
            "an answer begins with 'A: '; its score is not told": f"{_thread([])}\n\n{scores}",
            "the text begins with 'Q: ' and the title": _thread(order, begin=""),
        }
        diagnose(answer, (title, question, answers), _thread(order), wrong)
    return "question first, then the answers, the best on top"
