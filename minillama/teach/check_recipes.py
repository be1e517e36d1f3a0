"""Checks for the exercises of notebook 01c (GitHub, Wikipedia, books, ArXiv, StackExchange)."""

from collections.abc import Callable

from minillama.corpus.deduplicate import candidate_probability
from minillama.teach.checking import diagnose, exercise, expect, number, several


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
        given, call = answer(text), f"without_templates({text!r})"
        if isinstance(given, str) and given != right:
            cut = "and" not in text or "and" in given
            expect(
                cut, f"{call}: the words between two templates are gone: you cut to the last end"
            )
            expect(
                "}}" not in given or given == text,
                f"{call} is {given!r}: the inner template's end was taken for the outer one's",
            )
            brace = f"{call} is {given!r}: a single brace opens no template"
            expect("{brace}" not in text or "{brace}" in given, brace)
        diagnose(call, given, right, {"the template is still there": text})
    return "templates inside templates are gone, to any depth"


@exercise
def check_choose_bands(answer: Callable) -> str:
    """``answer(permutations, overlap, wanted) -> (bands, rows)``, with the most rows that do."""
    cases = [(128, 0.9, 0.999), (128, 0.5, 0.9), (128, 0.2, 0.95), (12, 0.8, 0.9), (256, 0.8, 0.99)]
    for numbers, overlap, wanted in cases:
        given, call = (
            answer(numbers, overlap, wanted),
            f"choose_bands({numbers}, {overlap}, {wanted})",
        )
        expect(given is not None, f"{call} is None; replace `return None` by your answer")
        bands, rows = (number(n) for n in several(given, 2, "(bands, rows)"))
        whole = isinstance(bands, int) and isinstance(rows, int)
        expect(whole, f"{call}: return (bands, rows), whole numbers")
        chosen = f"{bands} bands of {rows} rows"
        taken = f"{chosen} take {bands * rows} numbers of {numbers}"
        expect(bands * rows == numbers, f"{call}: {taken}")
        divisors = [n for n in range(1, numbers + 1) if numbers % n == 0]
        found = {n: candidate_probability(overlap, numbers // n, n) for n in divisors}
        most = max(n for n, probability in found.items() if probability >= wanted)
        swapped = "; bands come first" if bands == most else ""
        misses = f"{chosen} find it with probability {found[rows]:.4f}{swapped}"
        expect(rows <= most, f"{call}: {misses}")
        longer = "find it, but longer bands would, too, and let fewer strangers through"
        expect(rows == most, f"{call}: {chosen} {longer}")
    return "enough bands to miss nothing, bands long enough to compare little"


@exercise
def check_expand_macro(answer: Callable) -> str:
    r"""``answer(source, name, body) -> source`` with ``\name{…}`` written out."""
    norm, bold, twice = r"|#1|", r"\mathbf{#1}", "#1+#1"
    closing = "an argument goes to the brace that closes its own"
    other = r"\vec is another command: after the name no letter may follow"
    cases = [
        (r"\norm{x}", r"\norm", norm, "|x|", "the argument stands between the braces"),
        (r"a \norm{x} b \norm{y}", r"\norm", norm, "a |x| b |y|", "it may stand there twice"),
        (r"\v{x} and \vec{x}", r"\v", bold, r"\mathbf{x} and \vec{x}", other),
        (r"\norm{\frac{a}{b}}", r"\norm", norm, r"|\frac{a}{b}|", closing),
        (
            r"\norm{x + \norm{y}}",
            r"\norm",
            norm,
            "|x + |y||",
            r"it may stand inside its own argument",
        ),
        (r"\two{ab}", r"\two", twice, "ab+ab", "#1 may stand there more than once"),
        (r"no macro {here}", r"\norm", norm, "no macro {here}", "there is nothing to expand"),
    ]
    for source, name, body, right, hint in cases:
        given, call = answer(source, name, body), f"expand_macro('{source}', '{name}', '{body}')"
        if isinstance(given, str) and given != right:
            expect("#1" not in given, f"{call} is '{given}': put the argument in the place of #1")
            expect(False, f"{call} is '{given}' and should be '{right}': {hint}")
        diagnose(call, given, right)
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
        call, handed = f"format_thread('Why?', 'It hums.', {answers})", list(answers)
        given = answer("Why?", "It hums.", handed)
        order = sorted(answers, key=lambda pair: -pair[0])
        right = "\n\n".join(["Q: Why?", "It hums.", *(f"A: {text}" for _, text in order)])
        expect(handed == answers, f"{call}: the caller's list was changed; sort a copy")
        if isinstance(given, str) and given != right:
            expect(given.startswith("Q: Why?"), f"{call}: the text begins with 'Q: ' and the title")
            places = [given.find(f"A: {text}") for _, text in order]
            expect(min(places) >= 0, f"{call}: an answer begins with 'A: '; its score is not told")
            rising, falling = sorted(places), sorted(places, reverse=True)
            turned = len(places) > 1 and places == falling
            expect(not turned, f"{call}: the lowest score comes first; turn the order round")
            tie = places != rising and len({score for score, _ in answers}) < len(answers)
            first = "of two answers with the same score the one that was given first leads"
            expect(not tie, f"{call}: {first}")
            expect(places == rising, f"{call}: the answers do not stand by score")
        diagnose(call, given, right)
    return "question first, then the answers, the best on top"
