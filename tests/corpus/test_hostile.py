"""Texts and archives made to hang, to fill the memory or to take others down with them."""

import bz2
import errno
import io
import re
import signal
import sqlite3
import tarfile
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest
from tiny import make_corpus, prose, write_sources

from minillama.corpus import arxiv, latex_macros, recipes, stackexchange, wikipedia
from minillama.corpus.arxiv import clean_latex, latex, remove_comments
from minillama.corpus.c4 import rst, strip_rst, unwrap
from minillama.corpus.commoncrawl import TooDeep, check_depth, html_to_text
from minillama.corpus.document import read_documents
from minillama.corpus.github import without_header
from minillama.corpus.recipes import READERS
from minillama.corpus.scan import cut_between
from minillama.corpus.stackexchange import post_text
from minillama.corpus.token_files import open_corpus
from minillama.corpus.wikipedia import Tangled, clean_wikitext
from minillama.errors import DataError

N = 60_000


@pytest.fixture(autouse=True)
def hangs_are_failures():
    """Each of these took hours, or as long as anybody would wait."""

    def stop(*_):
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def filled(part):
    return (part * (N // len(part) + 1))[:N]


LATEX = [
    r"\begin{comment}", r"\iffalse ", r"\begin{verbatim}", r"\verb|x| ", r"%\verb|x| ", r"\def\x",
    r"\newcommand{\x}{", r"\section[", r"\printbibliography[", r"\long ",
]  # fmt: skip


@pytest.mark.parametrize("part", LATEX)
def test_openings_that_are_never_closed_do_not_hang_latex(part):
    assert clean_latex(r"\section{One} " + filled(part)).startswith(r"\section{One}")


@pytest.mark.parametrize("use", [r"\x[", r"\x{", r"\z("])
def test_uses_that_are_never_closed_do_not_hang_latex(use):
    defined = r"\newcommand{\x}[2][a]{b}\def\z(#1){b}\section{One} "
    assert clean_latex(defined + filled(use)) == r"\section{One} " + filled(use).strip()


def test_a_macro_cannot_write_more_than_there_is_memory():
    body, argument = "#1" * N, "a" * N  # together 3.6 GB
    tracemalloc.start()
    text = latex_macros.expand_macros(rf"\newcommand{{\x}}[1]{{{body}}}\x{{{argument}}}")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert text == rf"\x{{{argument}}}"


def test_nested_arguments_that_double_do_not_hang():
    text = latex_macros.expand_macros(r"\newcommand{\x}[1]{#1#1}" + r"\x{" * 60 + "a" + "}" * 60)
    assert 60 < len(text) <= latex_macros.MIN_LIMIT


def test_verbatim_text_is_found_as_by_a_regular_expression():
    literal = re.compile(
        r"\\begin\{(verbatim|lstlisting)\}.*?\\end\{\1\}"
        r"|\\(?:verb|lstinline)\*?([^A-Za-z0-9\s*{])(?:(?!\2)[^\n])*\2", re.S,
    )  # fmt: skip
    atoms = [r"\verb|", r"\verb*!", "|", "!", "\n", r"\begin{verbatim}", r"\end{verbatim}",
             r"\begin{lstlisting}", r"\end{lstlisting}", "a"]  # fmt: skip
    for seed in range(2_000):
        text = "".join(atoms[(seed * 7919 + i * i * 104_729 + i * seed) % 10] for i in range(9))
        found = list(latex_macros.literal_spans(text))
        assert found == [match.span() for match in literal.finditer(text)], text


def test_what_is_cut_is_what_a_regular_expression_would_cut():
    text = "<!--a--> b <!-- <!-- c --> --> <!--> d --> <!-- e"
    assert cut_between(text, ("<!--", "-->")) == re.sub("<!--.*?-->", "", text, flags=re.S)
    assert remove_comments(r"a\iffalse \begin{comment} \fi b\end{comment}") == (
        r"a b\end{comment}"
    )  # fmt: skip


WIKITEXT = ["<!--", "<gallery", "<ref ", "( ", "= a ", " ", "'''''a''"]


@pytest.mark.parametrize("part", WIKITEXT)
def test_wikitext_does_not_hang(part):
    try:
        clean_wikitext("a" + filled(part) + "b")
    except Tangled as told:
        assert "not closed" in str(told)


def test_a_line_of_equals_signs_does_not_hang():
    assert clean_wikitext("=" * N + "x") == "=" * N + "x"
    assert clean_wikitext("a\n== b ==\n=== ===\nc =") == "a\nb\n\nc ="


@pytest.mark.parametrize("part", ["{{a|", "[[a|", "{|\n", "<b>", '<div a="', "[http://a ", "{{{a|"])
def test_markup_that_the_parser_cannot_take_is_refused(part):
    with pytest.raises(Tangled, match="not closed"):
        clean_wikitext(filled(part))


def test_as_much_markup_as_one_likes_is_fine_if_it_is_closed():
    text = "{{a|b}} [[c]] [http://d e] <b>f</b> <br> <ref name=g /> " * 300
    assert clean_wikitext(text).count("f") == 300
    with pytest.raises(Tangled, match="characters"):
        clean_wikitext("a" * (wikipedia.MAX_ARTICLE + 1))


RST = ["\n", " \n", ".. _a\n", ":a", ":", "`a <", "w" * 55 + "\n"]


@pytest.mark.parametrize("part", RST)
def test_restructured_text_does_not_hang(part):
    unwrap(strip_rst("x" + filled(part) + "y"))
    strip_rst(":a:`" + filled(part).replace("`", "") + "`")


def test_blanks_do_not_hang_it_either():
    for text in ("`a" + " " * N + "x", ":a:`" + " " * N + "x`", ":a:`" + "<" * N + "x`"):
        strip_rst(text)
    assert strip_rst(":a:`b <c>` and `d  <e>`_, :f:g:`h`, x:i:`j`") == "b and d, h, xj"
    assert without_header("#" + "copyright" * N).startswith("#copyright")


def test_pages_in_pages_in_pages_are_refused():
    for text in (html_to_text, post_text):
        for part in ("<div>", "<ul><li>", "<main><article>", "<b>", "<DIV>"):
            with pytest.raises(TooDeep):
                text(part * 5_000)
    assert len(html_to_text("<p>Some words of a paragraph.\n<p>" * 3_000).split("\n")) > 1_000
    check_depth("<p>a<br><img src=b><a name=c>" * 2_000 + "<div>d</div>" * 2_000)


ALIASES = b"a: &a [l, l, l, l, l, l, l, l, l]\n" + b"".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n".encode() for a, b in pairwise("abcdefghi")
)


def test_lines_that_stand_for_any_number_of_lines_are_refused():
    skipped = Counter()
    members = [("a.yml", ALIASES + b"conversations: [[*i, *i]]"), ("b.yml", b"[" * 5_000),
               ("c.yml", b"conversations:\n- - What?\n  - That.\n")]  # fmt: skip
    assert dict(READERS["conversations"](members, skipped)) == {"c.yml": "Q: What?\nA: That."}
    assert skipped == {"malformed (YAMLError)": 2}


def dump(*pages):
    inside = "".join(f"<page><title>{t}</title><ns>0</ns><text>{w}</text></page>" for t, w in pages)
    return bz2.compress(f"<mediawiki>{inside}</mediawiki>".encode())


def test_one_bad_article_or_paper_or_post_costs_no_other(monkeypatch):
    skipped = Counter()
    pages = dump(("One", prose(1)), ("Bad", "{{a|" * 200), ("Two", prose(2)))
    found = dict(READERS["wikipedia"]([("w.bz2", pages)], skipped))
    assert list(found) == ["w.bz2#One", "w.bz2#Two"] and skipped == {"malformed (Tangled)": 1}
    skipped = Counter()
    monkeypatch.setattr(arxiv, "MAX_PAPER", 1_000)
    papers = {"a.tex": "A", "b.tex": "B" * 1_000, "c.tex": "C"}
    members = [(name, rf"\documentclass{{a}}\section{{{text}}}") for name, text in papers.items()]
    found = dict(latex([(name, text.encode()) for name, text in members], skipped))
    assert list(found) == ["a.tex", "c.tex"]
    assert skipped == {"malformed (ValueError)": 1}
    skipped = Counter()
    rows = "".join(
        f'<row Id="{i}" PostTypeId="1" Title="T" Body="{body}"/>'
        f'<row Id="{i + 1}" PostTypeId="2" ParentId="{i}" Body="b"/>'
        for i, body in ((1, "a"), (3, "&lt;b&gt;" * 3_000), (5, "a"), (10**30, "a"))
    )
    found = dict(READERS["posts"]([("s/Posts.xml", f"<posts>{rows}</posts>".encode())], skipped))
    assert list(found) == ["s/Posts.xml#1", "s/Posts.xml#5"]
    assert skipped == {"malformed (TooDeep)": 1, "posts without a number": 2}


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "full"), DataError("x")])
def test_what_is_wrong_with_the_machine_is_no_bad_file(error):
    def read(members):
        raise error
        yield

    with pytest.raises(type(error)):
        list(recipes.by_file(read)([("a", b"")], Counter()))


def test_a_full_disk_under_the_database_is_told(monkeypatch):
    def connect(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(stackexchange.sqlite3, "connect", connect)
    with pytest.raises(DataError, match=r"disk is full\. Make room"):
        list(READERS["posts"]([("a/Posts.xml", b"<posts/>")], Counter()))


def test_file_names_that_are_no_text_are_no_crash(tmp_path):
    corpus = make_corpus(tmp_path, built=False)
    path = tmp_path / "downloads" / "tales-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for i in range(5):
            info = tarfile.TarInfo(f"t/{i}\udcff.txt")
            info.size = len(prose(i).encode())
            file.addfile(info, io.BytesIO(prose(i).encode()))
    write_sources(tmp_path / "sources.toml", [(path, "books", "gutenberg")])
    corpus.build()
    paths = {d["path"] for d in read_documents(corpus.folder / "text" / "books.train.jsonl")}
    assert (
        paths <= {f"t/{i}?.txt" for i in range(5)} and len(paths) == 5
    )  # and one each to validate and test
    assert open_corpus(corpus.folder).slices == ["books"]


def test_the_readers_still_read():
    assert list(rst([("a", b".. _x:\n\nWords.")])) == [("a", "Words.")]
