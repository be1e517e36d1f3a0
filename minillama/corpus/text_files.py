"""Files of the user's own, texts and tables, gzipped or not: read as streams, whatever their size.

Text is UTF-8, with or without its byte order mark, or UTF-16 with it, as Windows editors write. A
text file is one document, and so is each row of a table; longer ones are cut between paragraphs,
so that memory is bounded.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, TextIO

from minillama.corpus.document import no_surrogates, tidy
from minillama.errors import DataError

MAX_CHARACTERS = 2**20
"""Of one document."""
MAX_LINE = 2**26
"""Characters of the longest line or field of a table."""
BATCH_ROWS = 256
EMPTY = "empty"
BINARY = "binary, or UTF-16 without its mark"
GZIP = ".gz"
Rows = Iterator[dict[str, Any]]


class UnreadableError(DataError):
    """A file of the user's that cannot be read, and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read ({reason})", "mend it, or leave it out")
        self.reason = reason


def kind_of(path: Path) -> str:
    """The ending that tells how a file is read, in lower case and without .gz; "" for others."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] == [GZIP]:
        endings.pop()
    return endings[-1] if endings and endings[-1] in KINDS else ""


def read_text_file(path: Path, column: str = "text") -> Iterator[tuple[str, str]]:
    """The documents of a text file or table, tidied, each with its row's number ("" for a text).

    Args:
        path: a file with one of the endings of ``KINDS``, gzipped or not; others are read as text.
        column: the column of a table that holds the text.

    Raises:
        UnreadableError: damaged, of another encoding, binary, without the column, or forbidden.
    """
    found = False
    try:
        for place, text in _read_documents(path, column):
            for piece in cut_text([text] if isinstance(text, str) else text):
                tidied = tidy(no_surrogates(piece))
                if tidied:
                    found = True
                    yield place, tidied
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, zlib.error) as error:
        raise UnreadableError(path, _reason(error)) from None
    if not found:
        raise UnreadableError(path, EMPTY)


def _reason(error: Exception) -> str:
    """Why a file could not be read, in words."""
    reasons = {
        UnicodeDecodeError: "neither UTF-8 nor UTF-16 with its mark, or not throughout",
        gzip.BadGzipFile: "no gzip file, or a damaged one",
        zlib.error: "a damaged gzip file",
        EOFError: "a gzip file that is cut short",
        PermissionError: "no permission",
    }
    known = [words for kind, words in reasons.items() if isinstance(error, kind)]
    first_line = str(error).strip().split("\n")[0]
    return known[0] if known else first_line or type(error).__name__


def cut_text(blocks: Iterable[str]) -> Iterator[str]:
    """Documents of at most ``MAX_CHARACTERS`` of a text that comes in blocks."""
    rest = ""
    for block in blocks:
        rest += block
        while len(rest) > MAX_CHARACTERS:
            cut = find_cut(rest, MAX_CHARACTERS // 2, MAX_CHARACTERS)
            yield rest[:cut]
            rest = rest[cut:]
    yield rest


def find_cut(text: str, begin: int, end: int) -> int:
    """Where to cut a text between two places: behind the last paragraph there, line or word."""
    for border in ("\n\n", "\n", " "):
        at = text.rfind(border, begin, end)
        if at >= 0:
            return at + len(border)
    return end


@contextmanager
def _open_binary(path: Path) -> Iterator[IO[bytes]]:
    opener = gzip.open if path.suffix.lower() == GZIP else open
    with opener(path, "rb") as file:
        yield file


@contextmanager
def _open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    with _open_binary(path) as file:
        head = file.peek(512)
        is_utf16 = head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        if not is_utf16 and b"\0" in head:
            raise ValueError(BINARY)
        encoding = "utf-16" if is_utf16 else "utf-8-sig"
        yield io.TextIOWrapper(file, encoding, newline=newline)


def _read_documents(path: Path, column: str) -> Iterator[tuple[str, str | Iterator[str]]]:
    """(row, text) of a table; ("", blocks of the text) of a text file."""
    kind = kind_of(path)
    if kind not in TABLES:
        yield "", _read_blocks(path)
        return
    for number, row in enumerate(TABLES[kind](path, column), start=1):
        if isinstance(row.get(column), str):
            yield f"#{number}", row[column]


def _read_blocks(path: Path) -> Iterator[str]:
    with _open_text(path) as file:
        while block := file.read(MAX_CHARACTERS):
            if "\0" in block:
                raise ValueError(BINARY)
            yield block


def _check_column(column: str, names: Iterable[str]) -> None:
    names = list(names)
    if column not in names:
        raise ValueError(f"no column '{column}', but {', '.join(map(str, names))}")


def _read_json_lines(path: Path, column: str) -> Rows:
    with _open_text(path) as file:
        lines = iter(lambda: file.readline(MAX_LINE), "")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"line {number} is not JSON") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no JSON object")
            if number == 1:
                _check_column(column, row)
            yield row


def _read_csv(path: Path, column: str) -> Rows:
    """The rows of a table whose fields are parted by commas, semicolons or tabulators."""
    csv.field_size_limit(MAX_LINE)
    with _open_text(path, newline="") as file:
        header = file.readline(MAX_LINE)
        delimiter = max(",;\t", key=header.count)
        table = csv.DictReader(chain([header], file), delimiter=delimiter, strict=True)
        _check_column(column, table.fieldnames or ())
        yield from table


def _read_parquet(path: Path, column: str) -> Rows:
    import pyarrow.parquet

    with _open_binary(path) as file:
        table = pyarrow.parquet.ParquetFile(file, buffer_size=2**20)
        _check_column(column, table.schema_arrow.names)
        for batch in table.iter_batches(BATCH_ROWS, columns=[column]):
            yield from batch.to_pylist()


TABLES = {".jsonl": _read_json_lines, ".csv": _read_csv, ".parquet": _read_parquet}
KINDS = (".txt", ".md", *TABLES)
