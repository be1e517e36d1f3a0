r"""User-written LaTeX macros replaced by what they stand for.

``\newcommand`` and its kin, ``\def``, ``\DeclareMathOperator`` and ``\newenvironment``, with
arguments, an optional default and macros inside macros. It is no TeX: conditionals, ``\let`` and
parameters between delimiters, as in ``\def\x(#1,#2)``, stay as they are. A macro is not expanded
inside its own text, and all macros together write no more than ``MAX_GROWTH`` times the source, so
that no source can hang it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

CONTROL = re.compile(r"\\(?:[A-Za-z@]+\*?|.)", re.S)
NAME = re.compile(r"\s*(\{\s*)?(\\(?:[A-Za-z@]+|.))(?(1)\s*\})", re.S)
r"""What is defined, as ``\name`` or ``{\name}``."""
PARAMETERS = re.compile(r"\s*+((?:#\d)*+)\s*+(?=\{)")
PARAMETER = re.compile(r"#(\d)")
ENVIRONMENT = re.compile(r"\{[^{}]*\}")
TOKEN = re.compile(r"\\(?:[A-Za-z@]+|.)|[^}\s]", re.S)
BLANKS = re.compile(r"[ \t]*\n?[ \t]*")
AFTER_WORD = re.compile(r"(?<=[A-Za-z@])(?:[ \t]+|\{\})|")
"""What TeX skips behind a control word without arguments."""
ENDS_IN_WORD = re.compile(r"\\[A-Za-z@]+\Z")
SIGN = re.compile(r"\\.|[{}\[\]]", re.S)
LITERAL = re.compile(
    r"\\begin\{(?:verbatim\*?|lstlisting|minted|Verbatim|alltt)\}"
    r"|\\(?:verb|lstinline)\*?(?P<mark>[^A-Za-z0-9\s*{])[^\n]{0,1000}?(?P=mark)"
)
r"""How text begins that is printed as it stands, or the whole of it after ``\verb``."""
DEFINITIONS = {
    r"\newcommand", r"\renewcommand", r"\providecommand", r"\def", r"\DeclareMathOperator",
    r"\newenvironment", r"\renewenvironment",
}  # fmt: skip
MAX_GROWTH, MIN_LIMIT = 20, 100_000


@dataclass(frozen=True)
class Macro:
    """What a control sequence stands for."""

    body: str
    arguments: int = 0
    default: str | None = None
    """Of the first argument, if that is optional and stands in brackets."""


class Malformed(Exception):
    """Something is missing, or too much is written: the control sequence stays as it is."""


def expand_macros(source: str) -> str:
    """The source without its definitions, and with every use of them written out.

    A source that would grow beyond all measure is returned with the rest unexpanded.

    Raises:
        RecursionError: its macros or arguments are nested too deeply.
    """
    return _Expander(max(MIN_LIMIT, MAX_GROWTH * len(source))).expand(source)


def end_of(opening: re.Match[str], text: str, never: set[str]) -> int | None:
    r"""Behind the ``\end{...}`` or ``\fi`` of a ``\begin{...}`` or ``\iffalse``, or ``\verb|...|``.

    None if there is none; ``never`` remembers what is closed no more.
    """
    if not opening[0].startswith((r"\begin{", r"\iffalse")):
        return opening.end()
    closing = re.escape(opening[0].replace(r"\begin", r"\end"))
    pattern = re.compile(r"\\fi\b" if opening[0] == r"\iffalse" else closing)
    found = None if closing in never else pattern.search(text, opening.end())
    if found:
        return found.end()
    never.add(closing)
    return None


def literal_spans(text: str) -> Iterator[tuple[int, int]]:
    r"""Where text is printed as it stands: ``verbatim`` and its kin, and ``\verb|...|``."""
    at, never = 0, set()
    while opening := LITERAL.search(text, at):
        end = end_of(opening, text, never)
        if end:
            yield opening.start(), end
        at = end or opening.end()


class Cursor:
    """A place in a text, which moves over names and arguments. All raise ``Malformed``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    @cached_property
    def closed(self) -> dict[int, int]:
        """The place of each brace and bracket -> the place where it is closed."""
        closed: dict[int, int] = {}
        still_open: list[int] = []
        for sign in SIGN.finditer(self.text):
            inside = self.text[still_open[-1]] if still_open else ""
            if sign[0] in ("{", "["):
                still_open.append(sign.start())
            elif sign[0] == "]" and inside == "[":
                closed[still_open.pop()] = sign.start()
            elif sign[0] == "}":
                while still_open and self.text[still_open[-1]] == "[":  # closed nowhere
                    still_open.pop()
                if still_open:
                    closed[still_open.pop()] = sign.start()
        return closed

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """What matches here; the cursor goes behind it."""
        found = pattern.match(self.text, self.at)
        if found is None:
            raise Malformed
        self.at = found.end()
        return found

    def group(self, opening: str = "{") -> str:
        """What stands between the next braces."""
        self.take(BLANKS)
        end = self.closed.get(self.at)
        if end is None or self.text[self.at] != opening:
            raise Malformed
        inside = self.text[self.at + 1 : end]
        self.at = end + 1
        return inside

    def bracket(self) -> str | None:
        """An optional argument in brackets; None if there is none."""
        before = self.at
        self.take(BLANKS)
        if self.text.startswith("[", self.at):
            return self.group("[")
        self.at = before
        return None

    def macro(self) -> Macro:
        """A definition as LaTeX has it: ``[2][default]{body}``."""
        count = (self.bracket() or "").strip()
        default, body = self.bracket(), self.group()
        return Macro(body, int(count) if re.fullmatch("[0-9]", count) else 0, default)

    def arguments(self, macro: Macro) -> list[str]:
        """The arguments of a use."""
        if not macro.arguments:
            self.take(AFTER_WORD)
            return []
        arguments = []
        if macro.default is not None:
            given = self.bracket()
            arguments.append(macro.default if given is None else given)
        while len(arguments) < macro.arguments:
            self.take(BLANKS)
            in_braces = self.text.startswith("{", self.at)
            arguments.append(self.group() if in_braces else self.take(TOKEN)[0])
        return arguments


class _Expander:
    def __init__(self, budget: int) -> None:
        self.macros: dict[str, Macro] = {}
        self.budget = budget
        """Characters that may still be written."""

    def expand(self, text: str, active: frozenset[str] = frozenset()) -> str:
        """``text`` written out; the macros in ``active`` are being expanded and stay."""
        cursor, literals = Cursor(text), dict(literal_spans(text))
        parts, done = [], 0
        while found := CONTROL.search(text, cursor.at):
            begin, cursor.at = found.span()
            if begin in literals:
                cursor.at = literals[begin]
                continue
            try:
                written = self._replacement(found[0], cursor, active)
            except Malformed:
                written = None
            if written is None:
                cursor.at = found.end()
                continue
            parts += [text[done:begin], written]
            done = cursor.at
            if text[done : done + 1].isalpha() and ENDS_IN_WORD.search(written):
                parts.append(" ")  # \alpha and b, not \alphab
        return "".join([*parts, text[done:]])

    def _replacement(self, control: str, cursor: Cursor, active: frozenset[str]) -> str | None:
        """What a control sequence becomes; None if it stays."""
        name = control.rstrip("*")
        if name in DEFINITIONS:
            self._define(name, cursor, starred=control.endswith("*"))
            return ""
        if control in (r"\begin", r"\end"):
            name = control + cursor.take(ENVIRONMENT)[0]
        elif control.endswith("*"):
            cursor.at -= 1
        if name not in self.macros or name in active:
            return None
        return self._use(self.macros[name], name, cursor, active)

    def _use(self, macro: Macro, name: str, cursor: Cursor, active: frozenset[str]) -> str:
        arguments = cursor.arguments(macro)
        if self.budget < 0:
            raise Malformed
        values = dict(enumerate((self.expand(given, active) for given in arguments), start=1))
        parts = PARAMETER.split(macro.body)
        parts[1::2] = [values.get(int(number), f"#{number}") for number in parts[1::2]]
        self.budget -= sum(map(len, parts))
        if self.budget < 0:
            raise Malformed
        return self.expand("".join(parts), active | {name})

    def _define(self, kind: str, cursor: Cursor, starred: bool) -> None:
        if kind in (r"\newenvironment", r"\renewenvironment"):
            name = cursor.take(ENVIRONMENT)[0]
            begin, end = cursor.macro(), Macro(cursor.group())
            self.macros |= {rf"\begin{name}": begin, rf"\end{name}": end}
            return
        name = cursor.take(NAME)[2]
        if kind == r"\def":
            count = len(cursor.take(PARAMETERS)[1]) // 2
            macro = Macro(cursor.group(), count)
        else:
            macro = cursor.macro()
        if kind == r"\DeclareMathOperator":
            operator = r"\operatorname*" if starred else r"\operatorname"
            macro = Macro(rf"{operator}{{{macro.body}}}")
        if kind != r"\providecommand" or name not in self.macros:
            self.macros[name] = macro
