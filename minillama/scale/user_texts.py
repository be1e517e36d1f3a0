"""Texts of the user's own: added to data/my-texts, listed, and removed.

Each call of `minillama data add` makes one source: NAME.jsonl, its documents, and NAME.json, where
they are from and what was left out. The same call again replaces both: a mirror of the files.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tyro.conf import Positional

from minillama.corpus.document import Document, no_surrogates, to_json
from minillama.corpus.mixture import OWN_SLICE
from minillama.corpus.pipeline import load_documents
from minillama.corpus.statistics import StepStats
from minillama.corpus.text_files import KINDS, UnreadableError, kind_of, read_text_file
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import atomic_path, read_json, remove, write_json
from minillama.tables import text_table

OWN_FOLDER = "my-texts"
NOT_ENTERED = ("node_modules", "site-packages", "__pycache__")
"""Folders that tools fill."""
SHOWN = 20
"""Files left out that are named at once; `minillama data list NAME` names all."""


def own_sources(folder: Path) -> list[Path]:
    """The files of documents in data/my-texts.

    Raises:
        DataError: another file is there, which would not be read.
    """
    paths = sorted(folder.glob("[!.]*"))
    for path in paths:
        if path.suffix not in (".jsonl", ".json"):
            hint = "move it to a folder of yours, and run `minillama data add` on that"
            raise DataError(f"{path} was not written by `minillama data add`", hint)
    return [path for path in paths if path.suffix == ".jsonl"]


def own_documents(folder: Path, stats: StepStats) -> Iterator[Document]:
    """The documents of all sources in data/my-texts."""
    for path in own_sources(folder):
        for document in load_documents(path):
            stats.enter(document.size)
            stats.leave(document.size)
            yield document


def add_texts(
    paths: Positional[tuple[Path, ...]],
    name: str = "",
    column: str = "text",
    data: Path = Path("data"),
) -> str:
    """Add files, or all of a folder, to the corpus's sources; again: mirror what changed.

    Args:
        paths: .txt, .md, .jsonl, .csv and .parquet files, gzipped or not, and folders of them.
        name: of the source; by default that of the file, or of the folder that has all.
        column: the column of tables that holds the text.
        data: the data folder.

    Raises:
        ConfigError: no path, or a name that is none or has other files.
        DataError: a path is missing, or there is no text that can be read.
    """
    name = name or _default_name(paths)
    origin = [no_surrogates(str(path.resolve())) for path in paths]
    documents, report = _files_of(name, data)
    if report.exists() and read_json(report)["origin"] != origin:
        what = f"'{name}' is the name of {', '.join(read_json(report)['origin'])}"
        raise ConfigError(what, f"add --name, or first `minillama data remove {name}`")

    # Write the documents of all files that can be read.
    left_out: dict[str, str] = {}
    count = Counter()
    with atomic_path(documents) as tmp, open(tmp, "w", encoding="utf-8") as out:
        for root, path in find_files_to_add(paths, data, left_out):
            place = no_surrogates(f"{name}/{path.relative_to(root).as_posix()}")
            try:
                count.update(_write_file(out, path, place, column))
            except UnreadableError as error:
                left_out[str(path)] = error.reason
        if not count["files"]:
            reasons = ", ".join(dict.fromkeys(left_out.values())) or "no file"
            what = f"{' '.join(map(str, paths))}: no text that can be read ({reasons})"
            raise DataError(what, f"name files or folders of {' '.join(KINDS)}")

    # Say what was done.
    named = {no_surrogates(path): reason for path, reason in left_out.items()}
    write_json(report, {"origin": origin, **count, "left_out": named})
    for line in _name_files(named, SHOWN):
        print(f"left out {line}", file=sys.stderr)
    if len(named) > SHOWN:
        rest = f"{len(named) - SHOWN} more: `minillama data list {name}` names them"
        print(f"left out {rest}", file=sys.stderr)
    return (
        f"added {count['files']} files as '{name}', {count['bytes'] / 1e6:.2f} MB; `minillama data "
        f"build --name mine` makes a corpus with them in it, as the slice {OWN_SLICE}"
    )


def list_texts(name: Positional[str] = "", data: Path = Path("data")) -> str:
    """List the texts that were added; with a name: the files of it that were left out, and why.

    Args:
        name: of a source.
        data: the data folder.

    Raises:
        DataError: there is no such source.
    """
    if name:
        _, report = _find_source(name, data)
        return "\n".join(_name_files(read_json(report)["left_out"])) or "nothing was left out"
    rows = []
    for path in own_sources(data / OWN_FOLDER):
        report = read_json(_files_of(path.stem, data)[1])
        reasons = Counter(report["left_out"].values())
        left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        size = f"{report['bytes'] / 1e6:.2f}"
        rows.append((path.stem, report["files"], report["documents"], size, left_out or "-"))
    if not rows:
        return "no texts of yours; `minillama data add FOLDER` adds some"
    return text_table(("name", "files", "documents", "MB", "left out"), rows)


def remove_texts(name: Positional[str], data: Path = Path("data")) -> str:
    """Remove texts that were added; the files that they were read from stay.

    Args:
        name: of the source, as `minillama data list` shows it.
        data: the data folder.

    Raises:
        DataError: there is no such source.
    """
    for path in _find_source(name, data):
        remove(path)
    return f"removed '{name}'; the next `minillama data build` is without it"


def find_files_to_add(
    paths: tuple[Path, ...], data: Path, left_out: dict[str, str]
) -> Iterator[tuple[Path, Path]]:
    """The files to read, each with the folder that it was found below.

    Args:
        paths: files and folders.
        data: the data folder, in which nothing that minillama wrote is taken.
        left_out: takes the reason for every file and folder that is not.

    Raises:
        DataError: a path is missing, or minillama's own.
    """
    own = [(data / name).resolve() for name in (OWN_FOLDER, "corpus", "downloads")]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist", "name files, or a folder of them")
        if any(path.resolve().is_relative_to(folder) for folder in own):
            raise DataError(f"{path} is minillama's own", "name files, or a folder, of yours")
        root = path if path.is_dir() else path.parent
        for file in _walk_folder(path, own, left_out) if path.is_dir() else [path]:
            if not file.is_file():
                left_out[str(file)] = "a broken link, or no file"
            elif not kind_of(file):
                left_out[str(file)] = f"not one of {' '.join(KINDS)}"
            else:
                yield root, file


def _walk_folder(folder: Path, own: list[Path], left_out: dict[str, str]) -> Iterator[Path]:
    """The files below a folder, in order."""

    def refuse(error: OSError) -> None:
        left_out[str(error.filename)] = (error.strerror or "unreadable").lower()

    for root, folders, names in os.walk(folder, onerror=refuse):
        entered = []
        for name in sorted(folders):
            reason = _why_not_entered(Path(root, name), own)
            if reason:
                left_out[os.path.join(root, name)] = reason
            else:
                entered.append(name)
        folders[:] = entered
        for name in sorted(names):
            if name.startswith("."):
                left_out[os.path.join(root, name)] = "hidden"
            else:
                yield Path(root, name)


def _why_not_entered(folder: Path, own: list[Path]) -> str:
    if folder.is_symlink():
        return "a link to a folder"
    if folder.name.startswith("."):
        return "a hidden folder"
    is_environment = os.path.exists(folder / "pyvenv.cfg")  # also False if it is forbidden
    if is_environment or folder.name in NOT_ENTERED or folder.name.endswith(".egg-info"):
        return "a folder that tools fill"
    return "minillama's own" if folder.resolve() in own else ""


def _write_file(out: TextIO, path: Path, place: str, column: str) -> dict[str, int]:
    """Write the documents of a file, all or none; returns how much there is."""
    begin = out.tell()
    documents = size = 0
    try:
        for row, text in read_text_file(path, column):
            document = Document(text, OWN_SLICE, "your own texts", place + row)
            out.write(to_json(document))
            documents += 1
            size += document.size
    except UnreadableError:
        out.seek(begin)
        out.truncate()
        raise
    return {"files": 1, "documents": documents, "bytes": size}


def _default_name(paths: tuple[Path, ...]) -> str:
    """The name of a file without its endings, or of the folder that has all paths."""
    if not paths:
        raise ConfigError("no files were named", "write `minillama data add FOLDER`")
    if len(paths) == 1:
        path = paths[0].resolve()
        return no_surrogates(path.name.split(".")[0] if path.is_file() else path.name) or "texts"
    return no_surrogates(Path(os.path.commonpath([p.resolve().parent for p in paths])).name)


def _files_of(name: str, data: Path) -> tuple[Path, Path]:
    """Documents and report of a source. Raises ``ConfigError`` if the name is none."""
    if not name or name.startswith(".") or Path(name).name != name:
        raise ConfigError(f"name = '{name}' is no file name", "use letters and digits")
    folder = data / OWN_FOLDER
    return folder / f"{name}.jsonl", folder / f"{name}.json"


def _find_source(name: str, data: Path) -> tuple[Path, Path]:
    found = _files_of(name, data)
    if not found[0].exists():
        names = [path.stem for path in own_sources(data / OWN_FOLDER)]
        hint = nearest(name, names) if names else "nothing was added yet"
        raise DataError(f"there are no texts named '{name}'", hint)
    return found


def _name_files(left_out: dict[str, str], limit: int | None = None) -> list[str]:
    return [f"{path}: {reason}" for path, reason in left_out.items()][:limit]
