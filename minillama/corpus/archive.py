"""Read files out of downloaded archives without unpacking them.

Every archive is pinned by its SHA-256, so a damaged or hostile one can only be one that the user's
own sources.toml names. Nothing is written to disk. Names that leave the archive and large files are
refused all the same, and links and devices are passed over.
"""

import fnmatch
import lzma
import os
import posixpath
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from minillama.errors import DataError

MAX_MEMBER_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = 2**30
UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    ValueError, RuntimeError,  # zipfile: a damaged name; a made-up compression or password
)  # fmt: skip
INSTALLED = {"site-packages", "dist-packages", "__pycache__"}
"""What lies in the folder of the standard library and is not it."""
Member = tuple[str, int, Callable[[], bytes]]
"""Name, size and a function that reads the content."""


def safe_name(name: str) -> bool:
    """Whether a member's name stays inside the archive."""
    parts = name.replace("\\", "/").split("/")
    return not (posixpath.isabs(name) or ".." in parts or ":" in parts[0])


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether any shell pattern fits the name (``*`` also crosses folders)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_members(
    archive: Path,
    members: Sequence[str],
    exclude: Sequence[str] = (),
    skipped: Counter[str] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the regular files whose names match, in name order.

    Args:
        archive: a wheel, a zip file, a tar file or a folder.
        members: shell patterns.
        exclude: patterns of those among them that are not read.
        skipped: counts, by reason, of what cannot be read; it grows, and the rest is read. Without
            it, the first such thing is an error.

    Raises:
        DataError: without ``skipped``: the archive is damaged, names a path outside itself, or
            holds a file that is larger than 64 MiB or, with the others, 1 GiB.
    """
    total = 0
    try:
        with ExitStack() as opened:
            for name, size, read in sorted(_list_members(archive, opened), key=lambda m: m[0]):
                if not matches(name, members) or matches(name, exclude):
                    continue
                try:
                    check_member(name, size, total + size)
                    content = read()
                except UNREADABLE as error:
                    if skipped is None:
                        raise
                    refused = isinstance(error, RefusedError)
                    skipped[error.reason if refused else "damaged in the archive"] += 1
                else:
                    total += size
                    yield name, content
    except UNREADABLE as error:
        if skipped is None:
            hint = "delete it and run `minillama data fetch`"
            raise DataError(f"{archive} cannot be read: {error}", hint) from error
        skipped["an archive that cannot be read"] += 1


class RefusedError(ValueError):
    """A member that is not read."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is {reason}")
        self.reason = reason


def check_member(name: str, size: int, total: int) -> None:
    """Raise ``RefusedError`` for a name that leaves the archive, or too many bytes."""
    if not safe_name(name):
        raise RefusedError(name, "an unsafe path")
    if size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES:
        raise RefusedError(name, "too large a file")


def _list_members(archive: Path, opened: ExitStack) -> Iterator[Member]:
    """The regular files of an archive, which stays open as long as ``opened`` does."""
    if archive.is_dir():
        for root, folders, names in os.walk(archive):
            folders[:] = set(folders) - INSTALLED
            paths = [Path(root, name) for name in names]
            for path in (path for path in paths if path.is_file() and not path.is_symlink()):
                name = path.relative_to(archive).as_posix()
                yield name, path.stat().st_size, path.read_bytes
    elif archive.suffix in (".whl", ".zip"):
        zipped = opened.enter_context(zipfile.ZipFile(archive))
        for info in zipped.infolist():
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            if not (info.is_dir() or is_link):
                yield info.filename, info.file_size, partial(zipped.read, info)
    else:
        tar = opened.enter_context(tarfile.open(archive, "r:*"))  # noqa: SIM115
        for info in tar:
            if info.isreg():
                yield info.name, info.size, tar.extractfile(info).read
