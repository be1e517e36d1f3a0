"""The CommonCrawl slice: from the crawl's pages to their main text, and no line twice.

The crawl ships as WARC files, in which a page is a ``response`` record that holds HTML, and as WET
files, with ``conversion`` records of plain text. Section 2.1: CCNet "deduplicates the data at the
line level"; it also identifies languages (``language``) and filters by quality (``quality``).
"""

import io
import re
from collections import Counter
from collections.abc import Iterator
from typing import IO

import numpy as np
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree

from minillama.corpus.deduplicate import HashSet, hash64
from minillama.corpus.document import Members, Texts, tidy
from minillama.corpus.pipeline import RepeatedParts

TAG = re.compile(r"<(/?)([a-z][a-z0-9]*)", re.I)
NEVER_CLOSED = {
    "a", "area", "base", "br", "col", "dd", "dt", "embed", "hr", "img", "input", "li", "link",
    "meta", "option", "p", "param", "source", "tbody", "td", "tfoot", "th", "thead", "tr", "track",
    "wbr",
}  # fmt: skip
MAX_DEPTH = 1_000
"""Elements inside each other; browsers stop at 512, and extraction takes time by the square."""
MAX_PAGE_BYTES = 16 * 2**20
HTML_TYPES = ("text/html", "application/xhtml+xml")


class TooDeep(ValueError):
    """A page with more elements inside each other than any page has."""


class NoPage(ValueError):
    """A record that gives no text, and why."""


def check_depth(html: str) -> None:
    """Raise ``TooDeep`` for a page that would take hours."""
    if html.count("<") <= MAX_DEPTH or _depth_at_most(html) <= MAX_DEPTH:
        return
    opened: Counter[str] = Counter()
    for closing, name in TAG.findall(html):
        name = name.lower()
        if name not in NEVER_CLOSED and (not closing or opened[name]):
            opened[name] += -1 if closing else 1
            opened["all"] += -1 if closing else 1
        if opened["all"] > MAX_DEPTH:
            raise TooDeep(f"over {MAX_DEPTH} elements inside each other")


def _depth_at_most(html: str) -> int:
    """How deep the elements are if none of them ends by itself."""
    signs = np.frombuffer(html.encode(errors="replace") + b" ", dtype=np.uint8)
    after = signs[np.flatnonzero(signs[:-1] == ord("<")) + 1]
    opens = (after | 32) >= ord("a")
    closes = after == ord("/")
    depths = np.cumsum(opens.astype(np.int64) - closes)
    lowest = np.minimum.accumulate(np.minimum(depths, 0))
    return int((depths - lowest).max())


def extract_text(html: str, main_content: bool) -> str:
    """The text of a page, or of its main part: paragraphs, list marks and code keep their lines.

    Raises:
        TooDeep: its elements are nested beyond all measure.
    """
    check_depth(html)
    return extract_plain_text(
        HTMLTree.parse(html), main_content=main_content, preserve_formatting=True,
        list_bullets=True, alt_texts=False, links=False, form_fields=False, noscript=False,
    )  # fmt: skip


def html_to_text(html: str) -> str:
    """The main text of a page: navigation, header, footer and scripts left out."""
    return tidy(re.sub(r"[¶\u200b]", "", extract_text(html, main_content=True)))


def html(members: Members) -> Texts:
    """One document a page."""
    for path, content in members:
        yield path, html_to_text(bytes_to_str(content, detect_encoding(content)))


def crawled_pages(stream: IO[bytes], skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """The address and the text of each page of a WARC or WET file, compressed or not.

    A damaged or overlong record is counted in ``skipped``, and the next one is read.
    """
    wanted = WarcRecordType.response | WarcRecordType.conversion
    try:
        for record in ArchiveIterator(stream, record_types=wanted, parse_http=True):
            try:
                text = _page_text(record)
            except NoPage as error:
                skipped[str(error)] += 1
            else:
                yield record.headers.get("WARC-Target-URI", ""), text
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        skipped[f"the file breaks off ({type(error).__name__})"] += 1


def _page_text(record: WarcRecord) -> str:
    is_html = record.record_type == WarcRecordType.response
    if is_html:
        if record.http_headers is None:
            raise NoPage("no HTTP")
        if record.http_headers.status_code != 200:
            raise NoPage("no success")
        if (record.http_content_type or "").lower() not in HTML_TYPES:
            raise NoPage("no HTML")
    if record.content_length > MAX_PAGE_BYTES:
        raise NoPage("too large")
    body = record.reader.read(MAX_PAGE_BYTES)
    if len(body) < record.content_length:
        raise NoPage("cut short")
    if not is_html:
        return tidy(body.decode("utf-8", errors="replace"))
    try:
        return html_to_text(_decode_page(body, record.http_charset))
    except TooDeep:
        raise NoPage("too deeply nested") from None


def _decode_page(body: bytes, stated: str | None) -> str:
    """What decodes as UTF-8 is UTF-8; else the encoding that the server states, or a guess."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return bytes_to_str(body, stated or detect_encoding(body))


def warc_pages(content: bytes, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """``crawled_pages`` of a file in memory."""
    return crawled_pages(io.BytesIO(content), skipped)


def plain_line(line: str) -> str:
    """A line as it is compared: without case, punctuation and spaces, every digit read as 0."""
    return re.sub(r"\W+", "", re.sub(r"\d", "0", line.casefold()))


def drop_repeated_lines(text: str, seen: HashSet) -> tuple[str, int]:
    """A page without the lines that were met before, and how many those were.

    As in CCNet (Wenzek et al., 2019, Section 3.1) no line is in two pages: not in one trained on
    and another held out either.
    """
    lines = text.split("\n")
    plain = [plain_line(line) for line in lines]
    is_new = iter(seen.first_time([hash64(bare) for bare in plain if bare]))
    kept = []
    for line, bare in zip(lines, plain, strict=True):
        if not bare or next(is_new):
            kept.append(line)
    return tidy("\n".join(kept)), len(lines) - len(kept)


REPEATED_LINES = RepeatedParts("line-level deduplication", drop_repeated_lines, "repeated lines")
"""CCNet's deduplication: lines met before go, on this page or any earlier one."""
