"""A source of the user's own: a folder of .txt files."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tyro.conf import Positional

from minillama.corpus.archive import MAX_MEMBER_BYTES
from minillama.corpus.document import Document, tidy
from minillama.corpus.mixture import OWN_SLICE
from minillama.corpus.statistics import StepStats
from minillama.errors import DataError
from minillama.files import atomic_path

OWN_FOLDER = "my-texts"


def readable(path: Path) -> tuple[str | None, str]:
    """The text of a file, or None and the reason why it is no text."""
    if not path.is_file():
        return None, "a folder or a broken link"
    if path.stat().st_size > MAX_MEMBER_BYTES:
        return None, "too large a file"
    content = path.read_bytes()
    if b"\0" in content:
        return None, "binary"
    try:
        text = tidy(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, "not UTF-8"
    return (text, "") if text else (None, "empty")


def own_documents(folder: Path, row: StepStats | None = None) -> Iterator[Document]:
    """One document for every readable .txt file below ``folder``; ``row`` counts the others."""
    row = row or StepStats("read")
    for path in sorted(folder.rglob("*.txt")):
        row.enter(path.stat().st_size if path.is_file() else 0)
        text, reason = readable(path)
        if text:
            document = Document(
                text, OWN_SLICE, "your own texts", path.relative_to(folder).as_posix()
            )
            row.leave(document.size)
            yield document
        else:
            row.drop(reason)


def add_texts(folder: Positional[Path], data: Path = Path("data")) -> str:
    """Copy the .txt files of a folder into the corpus's sources (data/my-texts).

    Args:
        folder: looked through with all its subfolders.
        data: the data folder.

    Raises:
        DataError: the folder is missing, or holds no readable text.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", "name a folder of .txt files")
    added = 0
    for path in sorted(folder.rglob("*.txt")):
        text, reason = readable(path)
        if text is None:
            print(f"skipped {path}: {reason}", file=sys.stderr)
            continue
        target = data / OWN_FOLDER / path.relative_to(folder)
        with atomic_path(target) as aside:
            shutil.copyfile(path, aside)
        added += 1
    if not added:
        raise DataError(f"{folder} holds no readable .txt file", "texts must be UTF-8")
    return (
        f"added {added} texts; `minillama data build --name mine` makes a corpus with them in it, "
        f"as the slice {OWN_SLICE}"
    )
