"""Read files out of downloaded archives without unpacking them.

Nothing is written to disk, so no path in an archive can escape; names that try are refused all the
same, links and devices are passed over, and sizes are bounded against archive bombs.
"""

import fnmatch
import lzma
import os
import posixpath
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from minillama.errors import DataError

MAX_MEMBER_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = 2**30
MAX_UNPACKED_BYTES = 2**32
MAX_MEMBERS = 200_000
MAX_HEADER_BYTES = 2**20
"""Of a tar file's own records, such as long names: they are read into memory."""
BLOCK = 2**16
UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    ValueError, RuntimeError,  # zipfile: a damaged name; a made-up compression or password
)  # fmt: skip


INSTALLED = {"site-packages", "dist-packages", "__pycache__"}
"""What lies in the folder of the standard library and is not it."""


class Folder(NamedTuple):
    """A folder of files that is read like an archive."""

    path: Path


Opened = zipfile.ZipFile | tarfile.TarFile | Folder


def safe_name(name: str) -> bool:
    """Whether a member's name stays inside the archive."""
    parts = name.replace("\\", "/").split("/")
    return not (posixpath.isabs(name) or ".." in parts or ":" in parts[0])


def matches(name: str, patterns: list[str]) -> bool:
    """Whether any shell pattern fits the name (``*`` also crosses folders)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_members(
    archive: Path,
    members: list[str],
    exclude: list[str] | None = None,
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
    try:
        with _open(archive) as opened:
            total = 0
            for name, size, read in _entries(opened, skipped):
                if not matches(name, members) or matches(name, exclude or []):
                    continue
                try:
                    _check(archive, name, size, total + size)
                    content = read()
                except _Refused as error:
                    if skipped is None:
                        raise DataError(str(error), "do not use it") from None
                    skipped[error.reason] += 1
                except UNREADABLE:
                    if skipped is None:
                        raise
                    skipped["damaged in the archive"] += 1
                else:
                    total += size
                    yield name, content
    except UNREADABLE as error:
        if skipped is None:
            what = f"{archive} cannot be read: {error}"
            raise DataError(what, "delete it and run `minillama data fetch`") from error
        skipped["an archive that cannot be read"] += 1


class _Refused(Exception):
    """A member that is not read."""

    def __init__(self, told: str, reason: str) -> None:
        super().__init__(told)
        self.reason = reason


def _check(archive: Path, name: str, size: int, total: int) -> None:
    if not safe_name(name):
        raise _Refused(f"{archive} holds the unsafe path {name!r}", "an unsafe path")
    if size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES:
        raise _Refused(f"{archive}: {name} is too large ({size} bytes)", "too large a file")


def _entries(opened: Opened, skipped: Counter[str] | None) -> list:
    """The members in name order; with ``skipped``, those before the place of any damage."""
    found, total = [], 0
    entries = LISTINGS[type(opened)](opened)
    while True:
        try:
            entry = next(entries, None)
        except UNREADABLE:
            if skipped is None:
                raise
            skipped["the archive breaks off"] += 1
            break
        if entry is None:
            break
        found.append(entry)
        total += entry[1]
        too_large = total > MAX_UNPACKED_BYTES or len(found) > MAX_MEMBERS
        if skipped is not None and too_large:  # to list a tar is to unpack it
            skipped["the archive is too large: its rest"] += 1
            break
    return sorted(found, key=lambda entry: entry[0])


def _open(archive: Path) -> AbstractContextManager[Opened]:
    if archive.is_dir():
        return nullcontext(Folder(archive))
    if archive.suffix in (".whl", ".zip"):
        return zipfile.ZipFile(archive)
    return tarfile.open(archive, "r:*", tarinfo=_Record)


class _Record(tarfile.TarInfo):
    """A tar file's record, unless it is one of the file's own that would fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """See ``TarInfo``."""
        record = super().frombuf(buf, encoding, errors)
        if record.type in RECORDS and record.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a record of {record.size} bytes")
        return record


RECORDS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Of the others, a block of a few bytes may unpack to any number."""


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, by blocks: it may be longer than it says, and all but the beginning is not read."""
    if info.compress_type not in COMPRESSIONS:
        raise zipfile.BadZipFile(f"{info.filename} is compressed by {info.compress_type}")
    with archive.open(info) as file:
        return b"".join(iter(lambda: file.read(BLOCK), b""))


def _zip_listing(archive: zipfile.ZipFile) -> Iterator[tuple]:
    for info in archive.infolist():
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if not (info.is_dir() or is_link):
            yield info.filename, info.file_size, lambda info=info: _unzip(archive, info)


def _tar_listing(archive: tarfile.TarFile) -> Iterator[tuple]:
    while info := archive.next():
        if info.isreg():
            yield info.name, info.size, lambda info=info: archive.extractfile(info).read()


def _folder_listing(folder: Folder) -> Iterator[tuple]:
    for root, folders, files in os.walk(folder.path):
        folders[:] = sorted(set(folders) - INSTALLED)
        for path in (Path(root, name) for name in files):
            if path.is_file() and not path.is_symlink():
                name = path.relative_to(folder.path).as_posix()
                yield name, path.stat().st_size, path.read_bytes


LISTINGS = {
    zipfile.ZipFile: _zip_listing, tarfile.TarFile: _tar_listing, Folder: _folder_listing,
}  # fmt: skip
