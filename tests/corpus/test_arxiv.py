"""LaTeX sources: comments, files, macros, and what is cut away."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillama.corpus.arxiv import clean_latex, join_files, latex, remove_comments
from minillama.corpus.latex_macros import MIN_LIMIT, expand_macros

PAPER = r"""\documentclass{article} % a class
\newcommand{\R}{\mathbb{R}}
\newcommand{\norm}[2][2]{\|#2\|_{#1}}
\newenvironment{claim}[1]{\textbf{Claim #1.} \begin{em}}{\end{em}}
\begin{document}
\title{A title}
\begin{abstract} Not this. \end{abstract}
% A remark
\section{Introduction}
A vector $x \in \R^n$ has norm $\norm{x}$, % or so
100\% of the time. \cite{somebody}
\begin{claim}{1} Also $\norm[1]{\norm{y}}$. \end{claim}
\verb|\R % stays|
\bibliographystyle{plain}
\begin{thebibliography}{9} \bibitem{somebody} A book. \end{thebibliography}
\appendix
\section{More} The end.
\end{document}
after the end
"""


def test_a_paper_from_its_first_section_without_comments_macros_and_bibliography():
    assert clean_latex(PAPER) == (
        "\\section{Introduction}\n"
        "A vector $x \\in \\mathbb{R}^n$ has norm $\\|x\\|_{2}$,\n"
        "100\\% of the time. \\cite{somebody}\n"
        "\\textbf{Claim 1.} \\begin{em} Also $\\|\\|y\\|_{2}\\|_{1}$. \\end{em}\n"
        "\\verb|\\R % stays|\n\n\\appendix\n\\section{More} The end."
    )


def test_a_source_without_a_section_gives_no_document():
    assert clean_latex(r"\documentclass{letter}\begin{document}Dear Sir\end{document}") is None


@pytest.mark.parametrize(
    "source, expanded",
    [
        (r"\newcommand\x{y}\x z", "yz"),  # TeX skips the blank after a word
        (r"\newcommand\x{y}\x{} z", "y z"),
        (r"\newcommand{\x}{\alpha}\x b", r"\alpha b"),
        (r"\newcommand*\x[1]{<#1>}\x a\x{bc}\x\y", r"<a><bc><\y>"),
        (r"\newcommand{\x}[2][d]{#1#2}\x{a}\x[e]{a}\x [e] {a}", "daeaea"),
        (r"\renewcommand{\x}{1}\x\renewcommand{\x}{2}\x", "12"),
        (r"\newcommand{\x}{1}\providecommand{\x}{2}\x", "1"),
        (r"\def\x#1#2{#2#1}\x ab\x{a}{b}", "baba"),
        (r"\DeclareMathOperator*\x{max}\x_a", r"\operatorname*{max}_a"),
        (r"\DeclareMathOperator{\x}{arg\,max}$\x_a$", r"$\operatorname{arg\,max}_a$"),
        (r"\def\x{\y\y}\def\y{z}\x", "zz"),
        (r"\def\x{\def\y{z}}\x\y", "z"),
        (r"\newcommand{\x}[1]{[#1]}\x{\x{a}}", "[[a]]"),
        (r"\newenvironment{e}{(}{)}\begin{e}a\end{e}\begin{f}b\end{f}", r"(a)\begin{f}b\end{f}"),
        (r"\newenvironment{e}[1][d]{#1:}{;}\begin{e}a\end{e}\begin{e}[c]a\end{e}", "d:a;c:a;"),
        (r"\unknown{a}\\\%", r"\unknown{a}\\\%"),
    ],
)
def test_definitions_are_written_out(source, expanded):
    assert expand_macros(source) == expanded


@pytest.mark.parametrize(
    "source",
    [
        r"\newcommand{\x}{never closed", r"\newcommand", r"\def\x", r"\let\x", "\\",
        r"\newenvironment{e}{only one}", r"\begin{", r"\def\x#1\y{}\x",
        r"\def\x(#1,#2){#2/#1}\x(a,b)", r"\let\x=\alpha\x",
    ],
)  # fmt: skip
def test_what_is_malformed_or_beyond_us_stays(source):
    assert expand_macros(source) == source
    assert expand_macros(r"\newcommand{\z}{1}\z" + source) == "1" + source


def test_a_use_without_its_argument_stays():
    assert expand_macros(r"\newcommand{\x}[1]{#1}\x") == r"\x"


def test_macros_that_call_themselves_or_each_other_come_to_an_end():
    assert expand_macros(r"\def\x{a\x}\x") == r"a\x"
    assert expand_macros(r"\def\x{\y}\def\y{\x}\x") == r"\x"


def test_a_macro_that_doubles_sixty_times_does_not_hang():
    names = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(60)]
    pairs = zip(names, names[1:], strict=False)
    source = "".join(rf"\newcommand{{\{a}}}{{\{b}\{b}}}" for a, b in pairs)
    began = time.perf_counter()
    assert len(expand_macros(source + rf"\newcommand{{\{names[-1]}}}{{zz}}\aa")) < 10 * MIN_LIMIT
    assert time.perf_counter() - began < 20  # not 2^60 steps


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="\\{}[]#%12 \nabxy|", max_size=80))
def test_no_source_breaks_it(source):
    defined = r"\newcommand{\a}[1][b]{#1\b}\def\b#1{\a{#1}}\newenvironment{x}{\b}{\a}"
    clean_latex(defined + r"\section{y}" + source)


def test_comments():
    assert remove_comments("a % b\n  % c\nd\\% e\\\\% f\n") == "a \nd\\% e\\\\\n"
    assert remove_comments("a\\begin{comment}b\\end{comment}c \\iffalse d\\fi e") == "ac  e"
    kept = "\\begin{verbatim}\n% a\n\\end{verbatim}"
    assert remove_comments(f"{kept}% b") == kept
    assert remove_comments("% \\verb|a\nb|") == "b|"


def test_files_are_joined_once_on_each_path_and_never_outside():
    files = {
        "p/main.tex": r"A \input{one} \include{two.tex} \input{../q/other} \input{gone}",
        "p/one.tex": r"1 \input{one} \input{two}", "p/two.tex": "2", "q/other.tex": "no",
    }  # fmt: skip
    assert join_files("p/main.tex", files).split() == ["A", "1", "2", "2"]


def test_a_tree_of_files_that_include_each_other_is_bounded():
    files = {f"p/{i}.tex": "".join(rf"\input{{{j}}}" for j in range(30)) + "x" for i in range(30)}
    assert len(join_files("p/0.tex", files)) < 10_000


def test_documents_are_papers_and_the_chapters_of_books():
    book = r"\documentclass{book}\begin{document}\chapter{One}\input{c}" + "\n\\chapter{Two} b"
    members = [
        ("a/paper.tex", PAPER.encode()), ("b/book.tex", book.encode()), ("b/c.tex", b"caf\xe9"),
        ("c/style.tex", rb"\newcommand{\x}{y}"),
    ]  # fmt: skip
    texts = dict(latex(members))
    assert list(texts) == ["a/paper.tex", "b/book.tex#One", "b/book.tex#Two"]
    assert texts["b/book.tex#One"] == "\\chapter{One}caf\u00e9"
