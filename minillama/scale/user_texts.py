"""A source of the user's own: a folder of .txt files."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tyro.conf import Positional

from minillama.corpus.document import Document, read_text_file
from minillama.corpus.mixture import OWN_SLICE
from minillama.corpus.statistics import StepStats
from minillama.errors import DataError
from minillama.files import atomic_path

OWN_FOLDER = "my-texts"


def own_documents(folder: Path, stats: StepStats) -> Iterator[Document]:
    """One document for every readable .txt file below ``folder``; ``stats`` counts the others."""
    for path in sorted(folder.rglob("*.txt")):
        stats.enter(path.stat().st_size if path.is_file() else 0)
        text, reason = read_text_file(path)
        if reason:
            stats.drop(reason)
            continue
        name = path.relative_to(folder).as_posix()
        document = Document(text, OWN_SLICE, "your own texts", name)
        stats.leave(document.size)
        yield document


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
        _, reason = read_text_file(path)
        if reason:
            print(f"skipped {path}: {reason}", file=sys.stderr)
            continue
        with atomic_path(data / OWN_FOLDER / path.relative_to(folder)) as tmp:
            shutil.copyfile(path, tmp)
        added += 1
    if not added:
        raise DataError(f"{folder} holds no readable .txt file", "texts must be UTF-8")
    return (
        f"added {added} texts; `minillama data build --name mine` makes a corpus with them in it, "
        f"as the slice {OWN_SLICE}"
    )
