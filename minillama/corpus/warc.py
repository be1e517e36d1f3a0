"""The crawl as it ships: WARC files of whole pages, and WET files of their text.

Common Crawl's formats, read by ``fastwarc``: records one after the other, each compressed by itself
with gzip. A page is a ``response`` record that holds HTML; a WET file has ``conversion`` records of
plain text. A damaged or overlong record is counted and passed over, and the next one is read.
"""

import io
from collections import Counter
from collections.abc import Iterator
from typing import IO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from minillama.corpus.commoncrawl import TooDeep, html_to_text
from minillama.corpus.document import tidy

MAX_PAGE_BYTES = 16 * 2**20
HTML_TYPES = ("text/html", "application/xhtml+xml")


def crawled_pages(stream: IO[bytes], skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """The address and the text of each page of a WARC or WET file.

    Args:
        stream: the file, compressed or not.
        skipped: counts of records that gave no page, by reason; it grows.
    """
    wanted = WarcRecordType.response | WarcRecordType.conversion
    try:
        for record in ArchiveIterator(stream, record_types=wanted, parse_http=True):
            reason, text = _text(record)
            if reason:
                skipped[reason] += 1
            else:
                yield record.headers.get("WARC-Target-URI", ""), text
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        skipped[f"the file breaks off ({type(error).__name__})"] += 1


def _text(record: WarcRecord) -> tuple[str | None, str]:
    """Why a record is no page, or its text."""
    is_page = record.record_type == WarcRecordType.response
    if is_page and record.http_headers is None:
        return "no HTTP", ""
    if is_page and record.http_headers.status_code != 200:
        return "no success", ""
    kind = (record.http_content_type or "").lower() if is_page else ""
    if is_page and kind not in HTML_TYPES:
        return "no HTML", ""
    if record.content_length > MAX_PAGE_BYTES:
        return "too large", ""
    body = record.reader.read(MAX_PAGE_BYTES)
    if len(body) < record.content_length:
        return "cut short", ""
    if not is_page:
        return None, tidy(body.decode("utf-8", errors="replace"))
    try:
        return None, html_to_text(_decode(body, record.http_charset))
    except TooDeep:
        return "too deeply nested", ""


def _decode(body: bytes, stated: str | None) -> str:
    """What decodes as UTF-8 is UTF-8; else the encoding that the server states, or a guess."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return bytes_to_str(body, stated or detect_encoding(body))


def warc_pages(content: bytes, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """``crawled_pages`` of a file in memory."""
    yield from crawled_pages(io.BytesIO(content), skipped)
