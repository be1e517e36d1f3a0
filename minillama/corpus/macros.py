r"""User-written LaTeX macros replaced by what they stand for.

A macro processor for the definitions that papers make: ``\newcommand`` and its kin, ``\def``,
``\let``, ``\DeclareMathOperator`` and ``\newenvironment``, with arguments, optional defaults and
macros inside macros. It is no TeX: conditionals, counters and packages are left as they are. A
macro that calls itself is not expanded again inside its own text, and the whole may not grow beyond
``MAX_GROWTH`` times its length, so that no source can hang it.
"""

import re
from dataclasses import dataclass

CONTROL = re.compile(r"\\(?:[A-Za-z@]+\*?|.)", re.S)
NAME = re.compile(r"\\(?:[A-Za-z@]+|.)", re.S)
LITERAL = re.compile(
    r"\\begin\{(verbatim\*?|lstlisting|minted|Verbatim|alltt)\}.*?\\end\{\1\}"
    r"|\\(?:verb|lstinline)\*?([^A-Za-z0-9\s*{])(?:(?!\2)[^\n])*\2",
    re.S,
)
"""Text that is printed as it stands."""
COMMANDS = {r"\newcommand", r"\renewcommand", r"\providecommand", r"\DeclareRobustCommand"}
ENVIRONMENTS = {r"\newenvironment", r"\renewenvironment"}
PRIMITIVES = {r"\def", r"\gdef", r"\edef", r"\xdef"}
PREFIXES = {r"\long", r"\global", r"\protected", r"\outer"}
MAX_GROWTH, MIN_LIMIT = 20, 100_000
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

    A source whose expansion would grow beyond all measure is returned with the rest unexpanded.
    """
    return _Expander(max(MIN_LIMIT, MAX_GROWTH * len(source))).expand(source)


class _Expander:
    def __init__(self, limit: int) -> None:
        self.macros: dict[str, Macro] = {}
        self.environments: dict[str, tuple[Macro, str]] = {}
        self.budget = limit

    def expand(self, text: str, active: frozenset[str] = frozenset()) -> str:
        """``text`` written out; the macros in ``active`` are being expanded and stay."""
        parts: list[str] = []
        at = 0
        while (slash := text.find("\\", at)) >= 0:
            parts.append(text[at:slash])
            if literal := LITERAL.match(text, slash):
                parts.append(literal[0])
                at = literal.end()
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
            if following.isalpha() and re.search(r"\\[A-Za-z@]+\Z", written) and written != name[0]:
                parts.append(" ")  # \alpha and b, not \alphab
        return "".join([*parts, text[at:]])

    def _one(self, text: str, found: re.Match[str], active: frozenset[str]) -> tuple[str, int]:
        """What the control sequence at ``found`` becomes, and where the text goes on."""
        name, at = found[0].rstrip("*"), found.end()
        if name in PREFIXES and re.match(r"\s*\\(long|global|[gex]?def)\b", text[at:]):
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
        arguments, at = _arguments(macro, text, at)
        if len(active) >= MAX_DEPTH or self.budget <= 0:
            raise Malformed
        values = [self.expand(argument, active) for argument in arguments]
        written = re.sub(r"#(\d)", lambda m: _argument(values, int(m[1])), macro.body)
        self.budget -= len(written) + 1
        return self.expand(written, active | {name}), at

    def _block(self, text: str, name: str, at: int, active: frozenset[str]) -> tuple[str, int]:
        r"""``\begin{name}`` or ``\end{name}`` of an environment of the user's."""
        kind, after = _group(text, at)
        mark = f"environment {kind}"
        if kind not in self.environments or mark in active:
            raise Malformed
        begin, end = self.environments[kind]
        if name == r"\begin":
            return self._use(begin, mark, text, after, active)
        return self.expand(end, active | {mark}), after

    def _command(self, text: str, at: int, keep: bool) -> int:
        name, at = _name(text, at)
        count, at = _bracket(text, at)
        default, at = _bracket(text, at)
        body, at = _group(text, at)
        if not (keep and name in self.macros):
            self.macros[name] = Macro(body, _number(count), default)
        return at

    def _environment(self, text: str, at: int) -> int:
        name, at = _group(text, at)
        count, at = _bracket(text, at)
        default, at = _bracket(text, at)
        begin, at = _group(text, at)
        end, at = _group(text, at)
        self.environments[name] = Macro(begin, _number(count), default), end
        return at

    def _primitive(self, text: str, at: int) -> int:
        name, at = _name(text, at)
        brace = text.find("{", at)
        parameters = text[at:brace]
        if brace < 0 or "\n\n" in parameters or "\\" in parameters:
            raise Malformed
        body, at = _group(text, brace)
        pattern = tuple(re.split(r"#\d", parameters.strip()))
        plain = not any(pattern)
        self.macros[name] = Macro(body, len(pattern) - 1, None, () if plain else pattern)
        return at

    def _let(self, text: str, at: int) -> int:
        name, at = _name(text, at)
        same = re.compile(r"\s*=?\s*").match(text, at)
        target = NAME.match(text, same.end())
        if target is None:
            raise Malformed
        if target[0] != name:
            self.macros[name] = self.macros.get(target[0], Macro(target[0]))
        return target.end()

    def _operator(self, text: str, at: int, starred: bool) -> int:
        name, at = _name(text, at)
        body, at = _group(text, at)
        self.macros[name] = Macro(rf"\operatorname{'*' if starred else ''}{{{body}}}")
        return at


def _argument(values: list[str], number: int) -> str:
    return values[number - 1] if 0 < number <= len(values) else f"#{number}"


def _number(count: str | None) -> int:
    return int(count) if count and count.strip() in set("0123456789") else 0


def _blanks(text: str, at: int) -> int:
    """Past blanks and at most one line end, as LaTeX skips them before an argument."""
    return re.compile(r"[ \t]*\n?[ \t]*").match(text, at).end()


def _name(text: str, at: int) -> tuple[str, int]:
    r"""The control sequence that is being defined, as ``\name`` or ``{\name}``."""
    at = _blanks(text, at)
    if text.startswith("{", at):
        inside, at = _group(text, at)
        found = NAME.fullmatch(inside.strip())
        if found is None:
            raise Malformed
        return found[0], at
    found = NAME.match(text, at)
    if found is None:
        raise Malformed
    return found[0], found.end()


def _group(text: str, at: int) -> tuple[str, int]:
    """What stands between the braces that open at ``at``, and where they close."""
    at = _blanks(text, at)
    if not text.startswith("{", at):
        raise Malformed
    end = _close(text, at, "{", "}")
    return text[at + 1 : end - 1], end


def _bracket(text: str, at: int) -> tuple[str | None, int]:
    """An optional argument in brackets; None if there is none."""
    after = _blanks(text, at)
    if not text.startswith("[", after):
        return None, at
    end = _close(text, after, "[", "]")
    return text[after + 1 : end - 1], end


def _close(text: str, at: int, opening: str, closing: str) -> int:
    """Behind the sign that closes the one at ``at``; braces inside must match."""
    depth, braces = 0, 0
    for sign in re.compile(r"\\.|[{}\[\]]", re.S).finditer(text, at):
        if sign[0] == opening and (opening == "{" or not braces):
            depth += 1
        elif sign[0] == closing and (opening == "{" or not braces):
            depth -= 1
            if not depth:
                return sign.end()
        elif opening == "[" and sign[0] in "{}":
            braces += 1 if sign[0] == "{" else -1
    raise Malformed


def _arguments(macro: Macro, text: str, at: int) -> tuple[list[str], int]:
    """The arguments of a use, and where it ends."""
    if macro.pattern:
        return _delimited(macro.pattern, text, at)
    if not macro.arguments:
        if re.match(r"[A-Za-z@]", text[at - 1 : at]):  # TeX skips the blank after a word
            skipped = re.compile(r"[ \t]+|\{\}").match(text, at)
            at = skipped.end() if skipped else at
        return [], at
    arguments = []
    if macro.default is not None:
        given, at = _bracket(text, at)
        arguments.append(macro.default if given is None else given)
    while len(arguments) < macro.arguments:
        at = _blanks(text, at)
        if text.startswith("{", at):
            argument, at = _group(text, at)
        else:  # a single token
            token = re.compile(r"\\(?:[A-Za-z@]+|.)|[^}\s]", re.S).match(text, at)
            if token is None:
                raise Malformed
            argument, at = token[0], token.end()
        arguments.append(argument)
    return arguments, at


def _delimited(pattern: tuple[str, ...], text: str, at: int) -> tuple[list[str], int]:
    first, *others = pattern
    at = at if text.startswith(first, at) else _blanks(text, at)
    if not text.startswith(first, at):
        raise Malformed
    at += len(first)
    arguments = []
    for delimiter in others:
        if not delimiter:
            rest, at = _arguments(Macro("", 1), text, at)
            arguments += rest
            continue
        end = text.find(delimiter, at)
        if end < 0 or "\n\n" in text[at:end]:
            raise Malformed
        argument = text[at:end]
        if argument.startswith("{") and argument.endswith("}"):
            argument = argument[1:-1]
        arguments.append(argument)
        at = end + len(delimiter)
    return arguments, at
