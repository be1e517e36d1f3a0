"""Checks for the exercises of notebook 01c (GitHub, Wikipedia, books, ArXiv, StackExchange)."""

from collections.abc import Callable

from minillama.corpus.deduplicate import candidate_probability
from minillama.teach.checking import exercise, expect


def _is_text(given: object, call: str) -> None:
    expect(given is not None, f"{call} is None; replace `return None` by your answer")
    expect(isinstance(given, str), f"{call} should be a text but is a {type(given).__name__}")


@exercise
def check_nested_templates(answer: Callable) -> str:
    """``answer(wikitext) -> the text outside all templates``."""
    cases = {
        "plain words": "plain words",
        "before {{stub}}after": "before after",
        "{{a}} and {{b}}": " and ",
        "{{a|{{b}}|c}}end": "end",
        "{{a|{{b|{{c}}}}{{d}}}}x{{e}}y": "xy",
        "one {brace} stays{{a\n|b}}.": "one {brace} stays.",
    }
    for text, right in cases.items():
        call, given = f"without_templates({text!r})", answer(text)
        _is_text(given, call)
        expect(given == right or given != text, f"{call}: the template is still there")
        expect(
            given == right or "and" not in text or "and" in given,
            f"{call}: the words between two templates are gone: you cut up to the last end",
        )
        expect(
            given == right or "}}" not in given,
            f"{call} is {given!r}: the inner template's end was taken for the outer one's; count",
        )
        expect(
            "{brace}" not in text or "{brace}" in given,
            f"{call} is {given!r}: a single brace opens no template",
        )
        expect(given == right, f"{call} is {given!r} and should be {right!r}")
    return "templates inside templates are gone, to any depth"


@exercise
def check_choose_bands(answer: Callable) -> str:
    """``answer(permutations, overlap, wanted) -> (bands, rows)``, with the most rows that do."""
    cases = [(128, 0.9, 0.999), (128, 0.5, 0.9), (128, 0.2, 0.95), (12, 0.8, 0.9), (256, 0.8, 0.99)]
    for numbers, overlap, wanted in cases:
        call = f"choose_bands({numbers}, {overlap}, {wanted})"
        given = answer(numbers, overlap, wanted)
        expect(given is not None, f"{call} is None; replace `return None` by your answer")
        pair = isinstance(given, tuple | list) and len(given) == 2
        expect(pair and all(isinstance(n, int) for n in given), f"{call}: return (bands, rows)")
        bands, rows = given
        expect(
            bands * rows == numbers,
            f"{call}: {bands} bands of {rows} rows take {bands * rows} numbers of {numbers}",
        )
        most = max(
            rows for rows in range(1, numbers + 1)
            if numbers % rows == 0
            and candidate_probability(overlap, numbers // rows, rows) >= wanted
        )  # fmt: skip
        found = candidate_probability(overlap, bands, rows)
        swapped = "; bands come first" if bands == most else ""
        expect(
            rows <= most,
            f"{call}: {bands} bands of {rows} rows find it with probability {found:.4f}{swapped}",
        )
        expect(
            rows == most,
            f"{call}: {bands} bands of {rows} rows find it, but longer bands would, too, and "
            "let fewer strangers through",
        )
    return "enough bands to miss nothing, bands long enough to compare little"


@exercise
def check_expand_macro(answer: Callable) -> str:
    r"""``answer(source, name, body) -> source`` with ``\name{…}`` written out."""
    norm, bold, twice = r"|#1|", r"\mathbf{#1}", "#1+#1"
    cases = [
        (r"\norm{x}", r"\norm", norm, "|x|"),
        (r"a \norm{x} b \norm{y}", r"\norm", norm, "a |x| b |y|"),
        (r"\v{x} and \vec{x}", r"\v", bold, r"\mathbf{x} and \vec{x}"),
        (r"\norm{\frac{a}{b}}", r"\norm", norm, r"|\frac{a}{b}|"),
        (r"\norm{x + \norm{y}}", r"\norm", norm, "|x + |y||"),
        (r"\two{ab}", r"\two", twice, "ab+ab"),
        (r"no macro {here}", r"\norm", norm, "no macro {here}"),
    ]
    for source, name, body, right in cases:
        call, given = f"expand_macro('{source}', '{name}', '{body}')", answer(source, name, body)
        _is_text(given, call)
        told = f"{call} is '{given}'"
        expect(given == right or "#1" not in given, f"{told}: put the argument in the place of #1")
        expect(
            r"\vec" not in source or r"\vec" in given,
            rf"{told}: \vec is another command: after the name no letter may follow",
        )
        expect(
            given == right or r"\frac" not in source,
            f"{told} and should be '{right}': an argument goes to the brace that closes its own",
        )
        expect(
            given == right or name not in given,
            rf"{told}: {name} is still there; it may also stand inside its own argument",
        )
        expect(
            given == right or body != twice,
            f"{told} and should be '{right}': #1 may stand there more than once",
        )
        expect(given == right, f"{told} and should be '{right}'")
    return "names, braces and nested uses are respected"


@exercise
def check_sorted_answers(answer: Callable) -> str:
    """``answer(title, question, answers) -> text``; the answers are pairs of score and text."""
    cases = [
        [(1, "only")],
        [(1, "low"), (9, "high"), (4, "middle")],
        [(-3, "bad"), (0, "fair"), (12, "best"), (2, "good")],
        [(5, "zebra"), (5, "aardvark"), (7, "first")],
        [(5, "aardvark"), (5, "zebra"), (7, "first")],
    ]
    for answers in cases:
        call, copy = f"format_thread('Why?', 'It hums.', {answers})", list(answers)
        given = answer("Why?", "It hums.", answers)
        _is_text(given, call)
        expect(answers == copy, f"{call}: the caller's list was changed; sort a copy")
        order = sorted(answers, key=lambda pair: -pair[0])
        expect(given.startswith("Q: Why?"), f"{call}: the text begins with 'Q: ' and the title")
        places = [given.find(f"A: {text}") for _, text in order]
        expect(min(places) >= 0, f"{call}: an answer begins with 'A: '; its score is not told")
        expect(
            places != sorted(places, reverse=True) or len(places) == 1,
            f"{call}: the lowest score comes first; turn the order round",
        )
        expect(
            places == sorted(places) or len({score for score, _ in answers}) == len(answers),
            f"{call}: of two answers with the same score the one that was given first leads",
        )
        expect(places == sorted(places), f"{call}: the answers do not stand by score")
        right = "\n\n".join(["Q: Why?", "It hums.", *(f"A: {text}" for _, text in order)])
        expect(given == right, f"{call} is {given!r} and should be {right!r}")
    return "question first, then the answers, the best on top"
