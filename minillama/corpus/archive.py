"""Read files out of downloaded archives without unpacking them.

Nothing is written to disk, so no path in an archive can escape; names that try are refused all the
same, links and devices are passed over, and sizes are bounded against archive bombs.
"""

import fnmatch
import lzma
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from minillama.errors import DataError

MAX_MEMBER_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = 2**30
UNREADABLE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    ValueError, RuntimeError,  # zipfile: a damaged name; a made-up compression or password
)  # fmt: skip


def safe_name(name: str) -> bool:
    """Whether a member's name stays inside the archive."""
    parts = name.replace("\\", "/").split("/")
    return not (posixpath.isabs(name) or ".." in parts or ":" in parts[0])


def matches(name: str, patterns: list[str]) -> bool:
    """Whether any shell pattern fits the name (``*`` also crosses folders)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_members(
    archive: Path, members: list[str], exclude: list[str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the regular files whose names match, in name order.

    Raises:
        DataError: the archive is damaged, names a path outside itself, or holds a file that is
            larger than 64 MiB or, with the others, 1 GiB.
    """
    try:
        listing = _zip_listing if archive.suffix in (".whl", ".zip") else _tar_listing
        with _open(archive) as opened:
            total = 0
            for name, size, read in sorted(listing(opened), key=lambda entry: entry[0]):
                if not matches(name, members) or matches(name, exclude or []):
                    continue
                total += size
                if not safe_name(name):
                    raise DataError(f"{archive} holds the unsafe path {name!r}", "do not use it")
                if size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES:
                    raise DataError(f"{archive}: {name} is too large ({size} bytes)", "omit it")
                yield name, read()
    except UNREADABLE as error:
        raise DataError(
            f"{archive} cannot be read: {error}", "delete it and run `minillama data fetch`"
        ) from error


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if archive.suffix in (".whl", ".zip"):
        return zipfile.ZipFile(archive)
    return tarfile.open(archive, "r:*")


def _zip_listing(archive: zipfile.ZipFile) -> Iterator[tuple]:
    for info in archive.infolist():
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if not (info.is_dir() or is_link):
            yield info.filename, info.file_size, lambda info=info: archive.read(info)


def _tar_listing(archive: tarfile.TarFile) -> Iterator[tuple]:
    for info in archive.getmembers():
        if info.isreg():
            yield info.name, info.size, lambda info=info: archive.extractfile(info).read()
