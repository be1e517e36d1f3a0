"""WARC and WET files written record by record, as the crawl ships them, whole and damaged."""

import gzip
from collections import Counter

import pytest
from warc_records import record, response

from minillama.corpus.commoncrawl import MAX_PAGE_BYTES, warc_pages

TEXT = "Llamas live in the high Andes, where they carry loads and are shorn once a year."
PAGE = f"<html><body><nav><a href='/'>Home</a></nav><main><p>{TEXT}</p></main></body></html>"


def pages(*records: bytes, zipped: bool = True) -> tuple[list[tuple[str, str]], Counter]:
    skipped: Counter[str] = Counter()
    content = b"".join(gzip.compress(r) if zipped else r for r in records)
    return list(warc_pages(content, skipped)), skipped


@pytest.mark.parametrize("zipped", [True, False])
def test_pages_of_a_crawl(zipped):
    found, skipped = pages(
        record("warcinfo", b"software: a crawler"), record("request", b"GET / HTTP/1.1\r\n\r\n"),
        response(PAGE.encode(), "http://a.example/1"), zipped=zipped,
    )  # fmt: skip
    assert found == [("http://a.example/1", TEXT)] and not skipped


def test_what_is_no_page_is_counted():
    found, skipped = pages(
        response(b"gone", status="404 Not Found"), response(b"%PDF", kind="application/pdf"),
        response(PAGE.encode(), "http://a.example/2"),
        response(b"<p>" + b"x" * (MAX_PAGE_BYTES + 1)), record("response", b"no http at all"),
        response(PAGE.encode(), "http://a.example/3"),
    )  # fmt: skip
    assert [address for address, _ in found] == ["http://a.example/2", "http://a.example/3"]
    assert skipped == {"no success": 2, "no HTML": 1, "too large": 1}


def test_wet_records_are_text_already():
    body = "Erste Zeile: größer.\r\n\r\n\r\n\r\nZweite Zeile.".encode()
    found, _ = pages(record("conversion", body, "http://b.example/", "text/plain"))
    assert found == [("http://b.example/", "Erste Zeile: größer.\n\nZweite Zeile.")]


def test_encodings_are_those_of_the_header_or_found():
    latin = PAGE.replace("high", "hôchst").encode("latin-1")
    stated, _ = pages(response(latin, kind="text/html; charset=iso-8859-1"))
    found, _ = pages(response(PAGE.replace("high", "hôchst").encode("utf-8")))
    assert stated[0][1] == found[0][1] == TEXT.replace("high", "hôchst")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_file_that_breaks_off_gives_the_pages_before(share):
    whole = [gzip.compress(response(PAGE.encode(), f"http://a.example/{i}")) for i in range(20)]
    content = b"".join(whole)
    skipped: Counter[str] = Counter()
    cut = int(share * len(content))
    found = list(warc_pages(content[:cut], skipped))
    ends = [sum(map(len, whole[: i + 1])) for i in range(20)]
    assert len(found) >= sum(end <= cut for end in ends)
    assert all(text == TEXT for _, text in found) and len(found) < 20


def test_noise_is_no_crash():
    skipped: Counter[str] = Counter()
    for content in (b"", b"\0" * 1_000, b"WARC/1.0\r\n", bytes(range(256)) * 8, b"\x1f\x8b\x08bad"):
        assert not list(warc_pages(content, skipped))
    deep = gzip.compress(response(b"<p>" * 200_000))
    assert list(warc_pages(deep, skipped)) == [("http://a.example/", "")]
