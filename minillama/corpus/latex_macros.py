r"""User-written LaTeX macros replaced by what they stand for.

A macro processor for the definitions that papers make: ``\newcommand`` and its kin, ``\def``,
``\let``, ``\DeclareMathOperator`` and ``\newenvironment``, with arguments, optional defaults and
macros inside macros. It is no TeX: conditionals, counters and packages are left as they are. A
macro that calls itself is not expanded again inside its own text, and the whole may not grow beyond
``MAX_GROWTH`` times its length, so that no source can hang it.
"""

import re
from dataclasses import dataclass

from minillama.corpus.scan import Ahead

CONTROL = re.compile(r"\\(?:[A-Za-z@]+\*?|.)", re.S)
NAME = re.compile(r"\\(?:[A-Za-z@]+|.)", re.S)
PREFIXED = re.compile(r"\s*\\(long|global|[gex]?def)\b")
LITERAL = re.compile(
    r"\\begin\{(verbatim\*?|lstlisting|minted|Verbatim|alltt)\}"
    r"|\\(?:verb|lstinline)\*?([^A-Za-z0-9\s*{])"
)
"""How text begins that is printed as it stands."""
LONGEST_NAME, LONGEST_PARAMETERS, LONGEST_ARGUMENT = 100, 1_000, 10_000
"""Of a definition, and of an argument that no braces hold."""
COMMANDS = {r"\newcommand", r"\renewcommand", r"\providecommand", r"\DeclareRobustCommand"}
ENVIRONMENTS = {r"\newenvironment", r"\renewenvironment"}
PRIMITIVES = {r"\def", r"\gdef", r"\edef", r"\xdef"}
PREFIXES = {r"\long", r"\global", r"\protected", r"\outer"}
MAX_GROWTH, MIN_LIMIT = 20, 100_000
COST = 10
"""What the use of a macro costs besides what it writes, in characters."""
MAX_DEPTH = 60


@dataclass(frozen=True)
class Macro:
    """What a control sequence stands for."""

    body: str
    arguments: int = 0
    default: str | None = None
    """Of the first argument, if that is optional and stands in brackets."""
    pattern: tuple[str, ...] = ()
    r"""For ``\def\x(#1,#2)``: the text before, between and after the arguments."""


class Malformed(Exception):
    """A brace is missing: what follows is left as it is."""


def expand_macros(source: str) -> str:
    """The source without its definitions, and with every use of them written out.

    A source whose expansion would grow or take work beyond all measure is returned with the rest
    unexpanded.

    Raises:
        RecursionError: its arguments are nested too deeply.
    """
    return _Expander(max(MIN_LIMIT, MAX_GROWTH * len(source))).expand(source)


class Literals:
    """Where text is printed as it stands: inside ``verbatim`` and its kin, and ``\\verb|...|``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._openings = Ahead(LITERAL, text)
        self._line_ends = Ahead(re.compile(r"\n|\Z"), text)
        self._closings: dict[str, Ahead] = {}
        self._next: tuple[int, int] | None = (-1, -1)

    def __call__(self, at: int) -> tuple[int, int] | None:
        """Begin and end of the first that begins at ``at`` or later, which must never decrease."""
        while self._next and self._next[0] < at:
            opening = self._openings(at)
            if opening is None:
                self._next = None
            elif end := self._end(opening):
                self._next = opening.start(), end
            else:
                at = opening.start() + 1
        return self._next

    def _end(self, opening: re.Match[str]) -> int | None:
        """Where it ends; None if it is not closed, and so is none."""
        if kind := opening[1]:
            if kind not in self._closings:
                closing = re.compile(re.escape(rf"\end{{{kind}}}"))
                self._closings[kind] = Ahead(closing, self._text)
            found = self._closings[kind](opening.end())
            return found.end() if found else None
        line_end = self._line_ends(opening.end()).start()
        return self._text.find(opening[2], opening.end(), line_end) + 1 or None


class _Expander:
    def __init__(self, limit: int) -> None:
        self.macros: dict[str, Macro] = {}
        self.environments: dict[str, tuple[Macro, str]] = {}
        self.budget = limit

    def expand(self, text: str, active: frozenset[str] = frozenset()) -> str:
        """``text`` written out; the macros in ``active`` are being expanded and stay."""
        parts: list[str] = []
        at, literals = 0, Literals(text)
        while (slash := text.find("\\", at)) >= 0:
            parts.append(text[at:slash])
            literal = literals(slash)
            if literal and literal[0] == slash:
                at = literal[1]
                parts.append(text[slash:at])
                continue
            name = CONTROL.match(text, slash)
            if name is None:  # a backslash at the very end
                at = slash
                break
            try:
                written, at = self._one(text, name, active)
            except Malformed:
                written, at = name[0], name.end()
            parts.append(written)
            following = text[at : at + 1]
            ending = written[-LONGEST_NAME:]
            if following.isalpha() and re.search(r"\\[A-Za-z@]+\Z", ending) and written != name[0]:
                parts.append(" ")  # \alpha and b, not \alphab
        return "".join([*parts, text[at:]])

    def _one(self, text: str, found: re.Match[str], active: frozenset[str]) -> tuple[str, int]:
        """What the control sequence at ``found`` becomes, and where the text goes on."""
        name, at = found[0].rstrip("*"), found.end()
        if name in PREFIXES and PREFIXED.match(text, at):
            return "", at
        if name in COMMANDS:
            return "", self._command(text, at, keep=name == r"\providecommand")
        if name in ENVIRONMENTS:
            return "", self._environment(text, at)
        if name in PRIMITIVES:
            return "", self._primitive(text, at)
        if name == r"\let":
            return "", self._let(text, at)
        if name == r"\DeclareMathOperator":
            return "", self._operator(text, at, starred=found[0].endswith("*"))
        if name in (r"\begin", r"\end") and self.environments:
            return self._block(text, name, at, active)
        if name not in self.macros or name in active:
            return found[0], at
        return self._use(self.macros[name], name, text, at - found[0].endswith("*"), active)

    def _use(
        self, macro: Macro, name: str, text: str, at: int, active: frozenset[str]
    ) -> tuple[str, int]:
        arguments, at = self._arguments(macro, text, at)
        if len(active) >= MAX_DEPTH or self.budget <= 0:
            raise Malformed
        values = [self.expand(argument, active) for argument in arguments]
        used = [_argument(values, int(number)) for number in re.findall(r"#(\d)", macro.body)]
        self._pay(len(macro.body) + sum(map(len, used)))  # before it is made
        written = re.sub(r"#(\d)", lambda m: _argument(values, int(m[1])), macro.body)
        return self.expand(written, active | {name}), at

    def _pay(self, size: int) -> None:
        """Take what is to be written from the budget. Raises ``Malformed`` if that is too much."""
        if size > self.budget:
            self.budget = 0
            raise Malformed
        self.budget -= size + COST

    def _block(self, text: str, name: str, at: int, active: frozenset[str]) -> tuple[str, int]:
        r"""``\begin{name}`` or ``\end{name}`` of an environment of the user's."""
        kind, after = self._group(text, at)
        mark = f"environment {kind}"
        if kind not in self.environments or mark in active:
            raise Malformed
        begin, end = self.environments[kind]
        if name == r"\begin":
            return self._use(begin, mark, text, after, active)
        return self.expand(end, active | {mark}), after

    def _command(self, text: str, at: int, keep: bool) -> int:
        name, at = self._name(text, at)
        count, at = self._bracket(text, at)
        default, at = self._bracket(text, at)
        body, at = self._group(text, at)
        if not (keep and name in self.macros):
            self.macros[name] = Macro(body, _number(count), default)
        return at

    def _environment(self, text: str, at: int) -> int:
        name, at = self._group(text, at)
        count, at = self._bracket(text, at)
        default, at = self._bracket(text, at)
        begin, at = self._group(text, at)
        end, at = self._group(text, at)
        self.environments[name] = Macro(begin, _number(count), default), end
        return at

    def _primitive(self, text: str, at: int) -> int:
        name, at = self._name(text, at)
        brace = text.find("{", at, at + LONGEST_PARAMETERS)
        parameters = text[at:brace]
        if brace < 0 or "\n\n" in parameters or "\\" in parameters:
            raise Malformed
        body, at = self._group(text, brace)
        pattern = tuple(re.split(r"#\d", parameters.strip()))
        plain = not any(pattern)
        self.macros[name] = Macro(body, len(pattern) - 1, None, () if plain else pattern)
        return at

    def _let(self, text: str, at: int) -> int:
        name, at = self._name(text, at)
        same = re.compile(r"\s*=?\s*").match(text, at)
        target = NAME.match(text, same.end())
        if target is None:
            raise Malformed
        if target[0] != name:
            self.macros[name] = self.macros.get(target[0], Macro(target[0]))
        return target.end()

    def _operator(self, text: str, at: int, starred: bool) -> int:
        name, at = self._name(text, at)
        body, at = self._group(text, at)
        self.macros[name] = Macro(rf"\operatorname{'*' if starred else ''}{{{body}}}")
        return at

    def _name(self, text: str, at: int) -> tuple[str, int]:
        r"""The control sequence that is being defined, as ``\name`` or ``{\name}``."""
        at = _blanks(text, at)
        if text.startswith("{", at):
            inside, at = self._group(text, at)
            found = NAME.fullmatch(inside.strip())
            if found is None:
                raise Malformed
            return found[0], at
        found = NAME.match(text, at)
        if found is None:
            raise Malformed
        return found[0], found.end()

    def _group(self, text: str, at: int) -> tuple[str, int]:
        """What stands between the braces that open at ``at``, and where they close."""
        at = _blanks(text, at)
        if not text.startswith("{", at):
            raise Malformed
        end = self._close(text, at, "{", "}")
        return text[at + 1 : end - 1], end

    def _bracket(self, text: str, at: int) -> tuple[str | None, int]:
        """An optional argument in brackets; None if there is none."""
        after = _blanks(text, at)
        if not text.startswith("[", after):
            return None, at
        end = self._close(text, after, "[", "]")
        return text[after + 1 : end - 1], end

    def _close(self, text: str, at: int, opening: str, closing: str) -> int:
        """Behind the sign that closes the one at ``at``; braces inside must match."""
        if self.budget <= 0:
            raise Malformed
        depth, braces = 0, 0
        for sign in re.compile(r"\\.|[{}\[\]]", re.S).finditer(text, at):
            if sign[0] == opening and (opening == "{" or not braces):
                depth += 1
            elif sign[0] == closing and (opening == "{" or not braces):
                depth -= 1
                if not depth:
                    self.budget -= sign.end() - at
                    return sign.end()
            elif opening == "[" and sign[0] in "{}":
                braces += 1 if sign[0] == "{" else -1
        self.budget -= len(text) - at
        raise Malformed

    def _arguments(self, macro: Macro, text: str, at: int) -> tuple[list[str], int]:
        """The arguments of a use, and where it ends."""
        if macro.pattern:
            return self._delimited(macro.pattern, text, at)
        if not macro.arguments:
            if re.match(r"[A-Za-z@]", text[at - 1 : at]):  # TeX skips the blank after a word
                skipped = re.compile(r"[ \t]+|\{\}").match(text, at)
                at = skipped.end() if skipped else at
            return [], at
        arguments = []
        if macro.default is not None:
            given, at = self._bracket(text, at)
            arguments.append(macro.default if given is None else given)
        while len(arguments) < macro.arguments:
            at = _blanks(text, at)
            if text.startswith("{", at):
                argument, at = self._group(text, at)
            else:  # a single token
                token = re.compile(r"\\(?:[A-Za-z@]+|.)|[^}\s]", re.S).match(text, at)
                if token is None:
                    raise Malformed
                argument, at = token[0], token.end()
            arguments.append(argument)
        return arguments, at

    def _delimited(self, pattern: tuple[str, ...], text: str, at: int) -> tuple[list[str], int]:
        first, *others = pattern
        at = at if text.startswith(first, at) else _blanks(text, at)
        if not text.startswith(first, at):
            raise Malformed
        at += len(first)
        arguments = []
        for delimiter in others:
            if not delimiter:
                rest, at = self._arguments(Macro("", 1), text, at)
                arguments += rest
                continue
            paragraph = text.find("\n\n", at, at + LONGEST_ARGUMENT)
            limit = at + LONGEST_ARGUMENT if paragraph < 0 else paragraph
            end = text.find(delimiter, at, limit)
            if end < 0:
                raise Malformed
            argument = text[at:end]
            if argument.startswith("{") and argument.endswith("}"):
                argument = argument[1:-1]
            arguments.append(argument)
            at = end + len(delimiter)
        return arguments, at


def _argument(values: list[str], number: int) -> str:
    return values[number - 1] if 0 < number <= len(values) else f"#{number}"


def _number(count: str | None) -> int:
    return int(count) if count and count.strip() in set("0123456789") else 0


def _blanks(text: str, at: int) -> int:
    """Past blanks and at most one line end, as LaTeX skips them before an argument."""
    return re.compile(r"[ \t]*\n?[ \t]*").match(text, at).end()
