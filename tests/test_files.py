"""Files are whole or absent, and JSON that cannot be read is named."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minillama import files
from minillama.errors import DataError
from minillama.files import alone_in, atomic_path, read_json, remove, sha256, write_json, write_text


def test_text_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "a file"
    write_text(target, "żółw\n")
    assert target.read_bytes() == "żółw\n".encode()
    assert os.listdir(target.parent) == ["a file"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as aside:
        aside.write_text("ne")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_ctrl_c_leaves_the_old_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "folder") as aside:
        aside.mkdir()
        (aside / "part").write_text("x")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_at_once(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "folder") as aside:
        (aside / "below").mkdir(parents=True)
        (aside / "below" / "part").write_text("x")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "below" / "part").read_text() == "x"


def test_a_full_disk_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.json"
    write_json(target, {"old": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(target, {"new": 2})
    assert read_json(target) == {"old": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"name": "ß", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "ß" in (tmp_path / "x.json").read_text(encoding="utf-8")  # readable, not escaped


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"{'a': 1}"])
def test_malformed_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")


def test_remove_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept", target_is_directory=True)
    remove(tmp_path / "tree")
    remove(tmp_path / "never there")
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_sha256(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_follows_from_the_umask(mask, mode, tmp_path):
    """safetensors of itself lets nobody else read, on whatever server."""
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "weights") as tmp:
            tmp.mkdir()
            save_file({"w": torch.zeros(2)}, tmp / "model.safetensors")
        assert os.umask(mask) == mask  # left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "weights/model.safetensors").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_can_be_used(number, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "lockf", refuse)
    with alone_in(tmp_path / "corpus"):
        pass


def test_a_system_without_fcntl_can_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with alone_in(tmp_path / "corpus"):
        pass
