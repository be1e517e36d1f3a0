"""From what a model wrote to its answer, and from answers to a score (Section 3 and Appendix A).

Closed-book answers are cut and normalized as in Appendix A. Mathematical answers follow Minerva
(Lewkowycz et al., 2022): the answer is looked for in the text, its notation is made uniform, and
maj1@k takes the answer that most of k samples agree on. pass@k is Chen et al. (2021), equation 1.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence


def cut_answer(text: str) -> str:
    """The answer in a continuation: its first line, without the dot or comma at the very end.

    Only the final one goes, so that "J.R.R. Tolkien" stays whole.
    """
    line = text.strip(" \t").split("\n", 1)[0].strip()
    return line[:-1].rstrip() if line.endswith((".", ",")) else line


def normalize(answer: str) -> str:
    """Lower case, without punctuation, articles and double blanks."""
    kept = "".join(c for c in answer.lower() if c not in string.punctuation)
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def exact_match(answer: str, accepted: Iterable[str]) -> bool:
    """Whether the answer equals any of the accepted ones after ``normalize``.

    Some accepted answers ("The The", "A") have nothing left then; an empty answer is still wrong.
    """

    def comparable(text: str) -> str:
        return normalize(text) or text.strip().lower()

    return comparable(answer) in {comparable(each) for each in accepted}


def last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}``, inner braces included; None if there is none."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :].lstrip()
    if not rest.startswith("{"):
        return rest.split("$")[0].split("\n")[0].strip() or None  # as in "\boxed 5$"
    depth = 0
    for i, c in enumerate(rest):
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return rest[1:i]
    return None  # never closed


NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")


def last_number(text: str) -> str | None:
    """The last number in a text, without thousands separators and needless zeros."""
    found = NUMBER.findall(text)
    return _plain(found[-1]) if found else None


def gsm8k_answer(text: str) -> str | None:
    """The number behind the last "answer is" or "####", or else the last number of all."""
    marked = re.split(r"answer is|####", text, flags=re.IGNORECASE)[1:]
    if marked:
        behind = re.sub(r"^[\s:$]*-[\s$]*", "-", marked[-1])  # as in "- 10" and "-$10"
        if first := NUMBER.search(behind):
            return _plain(first.group())
    return last_number(text)


def math_answer(text: str) -> str | None:
    r"""In Minerva's closing sentence, the last ``\boxed{}``, or what "answer is" says.

    Failing all of these, the last number.
    """
    closing = re.findall(
        r"final answer is\s*(.+?)\. I hope it is correct", text, flags=re.IGNORECASE
    )
    stated = re.findall(
        r"answer is:?\s*(.+?)(?:\.\s|\.?$)", text, flags=re.IGNORECASE | re.MULTILINE
    )
    found = closing[-1] if closing else last_boxed(text)
    if found is None:
        found = stated[-1] if stated else last_number(text)
    return None if found is None else normalize_math(last_boxed(found) or found)


def _plain(number: str) -> str:
    """As in 1,200.50 -> 1200.5, .5 -> 0.5 and 007 -> 7."""
    whole, _, decimals = number.replace(",", "").partition(".")
    plain = whole.lstrip("-0") or "0"
    decimals = decimals.rstrip("0")
    if decimals:
        plain += f".{decimals}"
    if whole.startswith("-") and plain != "0":
        plain = f"-{plain}"
    return plain


DECORATION = (
    r"\\(?:left|right|bigl?|bigr|displaystyle|mathrm|mathbf|textbf|text|mbox|operatorname|[!,;: ])"
    r"(?![a-zA-Z])"
)
UNITS = (
    r"(?<=[\d}])\s*(?:degrees?|dollars?|cents?|units?|square|cubic|sq|inch(?:es)?|feet|foot|miles?|"
    r"meters?|centimeters?|cm|km|hours?|minutes?|seconds?|days?|percent|points?|ways?)\b"
    r"(?:\s*\^\{?[23]\}?)?"
)
REWRITES = (
    (r"\^\{?\\circ\}?|\\degree", ""),
    (r"\\[dt]frac", r"\\frac"),
    (r"\\(?:text|mbox)\{([^{}]*)\}", r" \1"),
    (UNITS, ""),
    (DECORATION, ""),
    (r"(?:\s(?:and|or)\s)", ","),
    (r"(\\frac|\\sqrt)\s+", r"\1"),
    (r"\s+", ""),
    (r"^[a-zA-Z](?:\\in|=)", ""),  # x = 5
    (r"\\sqrt([^{\[])", r"\\sqrt{\1}"),
    (r"\\frac([^{])", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\})([^{])", r"\1{\2}"),
    (r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}"),
    (r"^\\frac\{-([^{}]+)\}", r"-\\frac{\1}"),
)
"""What makes the notation of a value uniform, in this order."""


def normalize_math(answer: str) -> str:
    r"""One notation for one value, as far as strings can go.

    Taken away: ``$``, blanks, sizes and fonts, units, degree and percent signs, "x=" before the
    value, a final dot. Made uniform: ``\dfrac``, ``\tfrac`` and ``a/b`` to ``\frac{a}{b}``,
    ``\frac12`` and ``\sqrt2`` with braces, numbers without separators. So 1/2 is not 0.5 here, as
    in the original comparison.
    """
    text = answer.strip().strip("$")
    for mark in ("\\$", "$", "\\%", "%", "\\(", "\\)"):
        text = text.replace(mark, "")
    text = text.rstrip(".").replace("{,}", ",")
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text)
    return _plain(text) if NUMBER.fullmatch(text) else text


def majority(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, the first seen among equals; samples without one do not vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes, key=votes.__getitem__) if votes else None


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that k of n samples, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k), written as a product of ratios so that no large number occurs.
    """
    if n - correct < k:
        return 1.0
    none = 1.0
    for i in range(n - correct + 1, n + 1):
        none *= 1 - k / i
    return 1 - none


def zero_hit_bound(n: int, confidence: float = 0.95) -> float:
    """The largest true rate at which 0 hits in n trials still happen with 1 - confidence.

    (1 - p)^n = 0.05 gives p of about 3 / n: for 3,610 questions 0.083%.
    """
    return 1 - (1 - confidence) ** (1 / n)
