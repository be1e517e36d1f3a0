"""C4's rules for a page of web text (Raffel et al., 2020, Section 2.2), each of which can be off.

Section 2.1 on C4: its quality filter "mostly relies on heuristics such as presence of punctuation
marks or the number of words and sentences in a webpage".
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from minillama.corpus.hash_set import HashSet, hash64

CITATION = re.compile(r"\[(?:\d+|edit|citation needed)\]", re.I)
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(\s+)(?=[\"'“‘(\[]*[A-Z0-9])")
TERMINAL = (".", "!", "?", '"', "”")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
          "use cookies")  # fmt: skip
SPAN = 3
"""Sentences in a span that may occur only once in the corpus."""


@dataclass(frozen=True)
class C4Rules:
    """Which rules are applied; the defaults are C4's."""

    terminal_punctuation: bool = True
    """Keep only lines that end in a full stop, an exclamation, question or quotation mark."""
    min_words: int = 5
    """Keep only lines of so many words; 0: all."""
    javascript: bool = True
    """Drop lines that speak of Javascript: they ask for it to be switched on."""
    policies: bool = True
    """Drop lines about cookies, privacy policies and terms of use."""
    citations: bool = True
    """Remove Wikipedia's marks such as [1], [edit] and [citation needed]."""
    lorem_ipsum: bool = True
    """Drop pages with the dummy text of printers."""
    curly_brackets: bool = True
    """Drop pages with a curly bracket: they are code."""
    min_sentences: int = 3
    """Drop pages of fewer sentences; 0: none."""
    bad_words: frozenset[str] = frozenset()
    """Drop pages with any of these words, in lower case. C4's list is not ours to ship."""


def sentences(text: str) -> list[str]:
    """A text cut after full stops, exclamation marks and question marks, and at line ends."""
    return [part for line in text.split("\n") for part in _sentences_of(line)]


def _sentences_of(line: str) -> list[str]:
    ends = [match.span(1) for match in SENTENCE_END.finditer(line)]
    starts, stops = [0, *(end for _, end in ends)], [*(begin for begin, _ in ends), len(line)]
    parts = (line[i:j].strip() for i, j in zip(starts, stops, strict=True))
    return [part for part in parts if part]


def line_rules(rules: C4Rules) -> dict[str, Callable[[str], bool]]:
    """The rules for lines that are on, by the reason for which a line goes."""
    named = {
        "no terminal punctuation": rules.terminal_punctuation
        and (lambda line: not line.endswith(TERMINAL) or line.endswith("...")),
        "too few words": rules.min_words and (lambda line: len(line.split()) < rules.min_words),
        "javascript": rules.javascript and (lambda line: "javascript" in line.lower()),
        "policies": rules.policies and (lambda line: any(p in line.lower() for p in POLICY)),
    }
    return {reason: rule for reason, rule in named.items() if rule}


def page_rules(rules: C4Rules) -> dict[str, Callable[[str], bool]]:
    """The rules for whole pages that are on, by the reason for which a page goes."""
    bad = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(rules.bad_words))) + r")\b")
    named = {
        "lorem ipsum": rules.lorem_ipsum and (lambda text: "lorem ipsum" in text.lower()),
        "curly brackets": rules.curly_brackets and (lambda text: "{" in text),
        "bad words": rules.bad_words and (lambda text: bool(bad.search(text.lower()))),
        "too few sentences": rules.min_sentences
        and (lambda text: len(sentences(text)) < rules.min_sentences),
    }
    return {reason: rule for reason, rule in named.items() if rule}


def clean_page(text: str, rules: C4Rules, lines_dropped: Counter[str]) -> tuple[str, str | None]:
    """A page's good lines, or the reason why the page is dropped.

    Args:
        text: the page.
        rules: which rules are on.
        lines_dropped: counts, by reason; it grows.

    Returns:
        The text and None, or what was left of it and the reason.
    """
    if rules.citations:
        text = CITATION.sub("", text)
    kept, of_lines = [], line_rules(rules)
    for line in (line.strip() for line in text.split("\n")):
        reason = next((reason for reason, rule in of_lines.items() if rule(line)), None)
        if reason is None:
            kept.append(line)
        elif line:
            lines_dropped[reason] += 1
    text = "\n".join(kept).strip()
    return text, next((reason for reason, rule in page_rules(rules).items() if rule(text)), None)


def drop_repeated_spans(text: str, seen: HashSet) -> tuple[str, int]:
    """A text without the spans of three sentences that were met before, and how many those were.

    C4 "discarded all but one of any three-sentence span occurring more than once": a sentence goes
    if any span that it is in was met before, so that of a repeated passage of three sentences or
    more only its first copy stays.
    """
    whole = text.split("\n")
    lines = [_sentences_of(line) for line in whole]
    flat = [part for line in lines for part in line]
    if len(flat) < SPAN:
        return text, 0
    plain = [re.sub(r"\W+", " ", part.casefold()).strip() for part in flat]
    spans = [hash64(" ".join(plain[i : i + SPAN])) for i in range(len(flat) - SPAN + 1)]
    new = seen.first_time(spans)
    stays = iter(
        all(new[max(0, i - SPAN + 1) : min(i, len(new) - 1) + 1]) for i in range(len(flat))
    )
    kept = []
    for line, parts in zip(whole, lines, strict=True):
        left = [part for part in parts if next(stays)]
        if len(left) == len(parts):
            kept.append(line)  # with its own spaces: code is indented
        elif left:
            kept.append(" ".join(left))
    return "\n".join(kept).strip("\n"), new.count(False)
