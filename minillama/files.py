"""Files that are either whole or absent: write to a temporary name, flush to disk, rename."""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minillama.errors import DataError

try:
    import fcntl
except ImportError:  # Windows: two builds at once are then not noticed
    fcntl = None

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer (some of NFS and Lustre)."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there if the block succeeds.

    A crash leaves the old file as it was. Works for files and for folders that do not exist yet.
    Who may read a file follows from the umask, whatever the library that wrote it chose.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield tmp
        for file in sorted(tmp.rglob("*")) if tmp.is_dir() else [tmp]:
            if file.is_file():
                file.chmod(0o666 & ~_umask())
                _flush_to_disk(file)
        os.replace(tmp, path)
        _flush_to_disk(path.parent)
    except BaseException:
        remove(tmp)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a folder of files; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path, work: str = "build", flag: str = "--name") -> Iterator[None]:
    """Keep other builds out of a folder; the system lifts the lock of a process that died.

    ``work`` is what is done there, and ``flag`` chooses another folder: for the message.
    Raises ``DataError`` if another is at work there.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            if fcntl:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no worker inherits it
        except (BlockingIOError, PermissionError):
            what = f"another {work} is at work in {folder}"
            raise DataError(what, f"wait for its end, or choose another {flag}") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON. Raises ``DataError`` naming the file if it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "check the path") from None
    except (ValueError, RecursionError) as error:  # also too many digits, or brackets
        what = f"{path} is not valid JSON ({error})"
        raise DataError(what, "delete it and make it again") from None


def sha256(path: str | Path) -> str:
    """The SHA-256 digest of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
