"""A document: a text, and where it came from. Also the small tools that all readers share."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from minillama.errors import DataError
from minillama.files import atomic_path

Members = Iterable[tuple[str, bytes]]
"""Files of a package: (name, content)."""
Texts = Iterator[tuple[str, str]]
"""What a reader makes of them: (place, text)."""


@dataclass(frozen=True)
class Document:
    """One text of the corpus with its provenance."""

    text: str
    slice: str
    """The row of Table 1: commoncrawl, c4, github, wikipedia, books, arxiv, stackexchange."""
    source: str
    """Package and version, as in ``django==5.2.19``."""
    path: str
    """The file inside the package, and what of it."""

    @cached_property
    def size(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text.encode())

    @cached_property
    def key(self) -> str:
        """A digest of the text that ignores case, spacing and Unicode form: equal keys are
        duplicates."""
        plain = unicodedata.normalize("NFKC", self.text).casefold()
        return hashlib.sha256(" ".join(plain.split()).encode()).hexdigest()

    def with_text(self, text: str) -> "Document":
        """The document with another text."""
        return self if text == self.text else replace(self, text=text)


class Dropped(NamedTuple):
    """What a step returns in a document's place when it leaves the document out."""

    reason: str


def tidy(text: str) -> str:
    """Unix line ends, no trailing blanks, and at most one empty line between paragraphs."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    stripped = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", stripped).strip()


def decode_text(content: bytes) -> str:
    """UTF-8, or what is not, as Latin-1, which reads any bytes."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def no_surrogates(text: str) -> str:
    """Half characters, which file names and some formats have, become question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def read_documents(path: Path) -> Iterable[dict[str, str]]:
    """The documents of a ``text/<slice>.<split>.jsonl``, one at a time."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "run `minillama data build`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is malformed ({error})",
            "delete the corpus folder and run `minillama data build`",
        ) from None


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """One JSON object a line, atomically."""
    with atomic_path(path) as tmp, open(tmp, "w", encoding="utf-8") as file:
        for document in documents:
            file.write(to_json(document))


def to_json(document: Document) -> str:
    """A document's line in a file of documents."""
    record = asdict(document) | {"id": document.key[:16]}
    return json.dumps(record, ensure_ascii=False) + "\n"
