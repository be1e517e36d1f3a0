"""Archives are read without unpacking, and hostile or damaged ones are refused by name."""

import io
import random
import tarfile
import zipfile
from collections import Counter

import pytest
from tiny import sdist, wheel

from minillama.corpus import archive
from minillama.corpus.archive import read_members, safe_name
from minillama.corpus.sources import Source
from minillama.errors import DataError

EVERYTHING = ["*"]


def with_entry(path, name, kind, linkname="", content=b""):
    """A tar with one entry of any kind, and one honest file."""
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, linkname, len(content)
        tar.addfile(info, io.BytesIO(content))
        honest = tarfile.TarInfo("honest.txt")
        honest.size = 2
        tar.addfile(honest, io.BytesIO(b"ok"))
    return path


@pytest.mark.parametrize("make, name", [(sdist, "a.tar.gz"), (wheel, "a.whl")])
def test_reads_matching_members_in_name_order(tmp_path, make, name):
    path = make(tmp_path / name, {"p/b.txt": "B", "p/a.txt": "A", "p/c.bin": "C", "p/x.txt": "X"})
    assert list(read_members(path, ["*.txt"], ["*/x.*"])) == [("p/a.txt", b"A"), ("p/b.txt", b"B")]


@pytest.mark.parametrize(
    "name", ["../out.txt", "p/../../out.txt", "/etc/out.txt", "C:/out.txt", "..\\out.txt"]
)
@pytest.mark.parametrize("make, file", [(sdist, "bad.tar.gz"), (wheel, "bad.whl")])
def test_path_escapes_are_refused(tmp_path, make, file, name):
    path = make(tmp_path / file, {name: "boo"})
    assert not safe_name(name)
    with pytest.raises(DataError, match=r"bad\.(tar\.gz|whl) .*unsafe path"):
        list(read_members(path, EVERYTHING))
    assert sorted(p.name for p in tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["a..b.txt", "p/..c/d.txt", "p/ä b.txt"])
def test_names_that_only_look_odd_are_read(tmp_path, name):
    assert list(read_members(sdist(tmp_path / "a.tar.gz", {name: "x"}), EVERYTHING)) == [
        (name, b"x")
    ]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_passed_over(tmp_path, kind):
    path = with_entry(tmp_path / "a.tar.gz", "evil.txt", kind, linkname="/etc/passwd")
    assert list(read_members(path, EVERYTHING)) == [("honest.txt", b"ok")]


def test_links_in_a_zip_are_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as opened:
        link = zipfile.ZipInfo("evil.txt")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
        opened.writestr("honest.txt", "ok")
    assert list(read_members(tmp_path / "a.whl", EVERYTHING)) == [("honest.txt", b"ok")]


@pytest.mark.parametrize("make, name", [(sdist, "bomb.tar.gz"), (wheel, "bomb.whl")])
def test_a_bomb_is_refused_before_it_is_read(tmp_path, make, name):
    path = make(tmp_path / name, {"zeros.txt": bytes(archive.MAX_MEMBER_BYTES + 1)})
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match=f"{name} .*zeros.txt' is too large"):
        list(read_members(path, EVERYTHING))


def test_many_small_members_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 25)
    path = wheel(tmp_path / "a.whl", {f"{i}.txt": "x" * 10 for i in range(3)})
    read = read_members(path, EVERYTHING)
    assert len([next(read), next(read)]) == 2
    with pytest.raises(DataError, match="a.whl .*2.txt' is too large"):
        next(read)


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    path = wheel(tmp_path / "a.whl", {"a.txt": bytes(100_000)})
    content = path.read_bytes()
    true = (100_000).to_bytes(4, "little")
    assert content.count(true) == 2  # local header and directory
    path.write_bytes(content.replace(true, (50).to_bytes(4, "little")))
    with pytest.raises(DataError, match="a.whl cannot be read"):
        list(read_members(path, EVERYTHING))


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.98])
@pytest.mark.parametrize("make, name", [(sdist, "short.tar.gz"), (wheel, "short.whl")])
def test_truncated_archives_are_named(tmp_path, make, name, keep):
    rng = random.Random(0)
    path = make(tmp_path / name, {f"{i}.txt": rng.randbytes(3_000) for i in range(5)})
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        list(read_members(path, EVERYTHING))


@pytest.mark.parametrize("make, name", [(sdist, "flipped.tar.gz"), (wheel, "flipped.whl")])
def test_flipped_bits_never_end_in_another_error(tmp_path, make, name):
    """A flip is found here or, at the latest, by the package's pinned checksum."""
    rng = random.Random(2)
    whole = make(tmp_path / name, {f"{i}.txt": rng.randbytes(200) for i in range(3)}).read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        try:
            list(read_members(tmp_path / name, EVERYTHING))
        except DataError as error:
            refused += 1
            assert name in str(error)
    assert refused > 15


def test_a_download_with_another_checksum_is_named(tmp_path):
    sdist(tmp_path / "tales-1.0.tar.gz", {"a.txt": "x"})
    source = Source("tales", "1.0", "sdist", "0" * 64, "none")
    with pytest.raises(DataError, match=r"tales-1.0.tar.gz is not the pinned file"):
        source.find(tmp_path)
    with pytest.raises(DataError, match=r"tales==2.0 is not in .*minillama data fetch"):
        Source("tales", "2.0", "sdist", "0" * 64, "none").find(tmp_path)


# what cannot be read is counted, and the rest is read


def test_unsafe_and_huge_members_are_skipped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 100)
    files = {"p/a.txt": "A", "../out.txt": "boo", "p/big.txt": "x" * 101, "p/z.txt": "Z"}
    skipped = Counter()
    path = sdist(tmp_path / "a.tar.gz", files)
    read = read_members(path, EVERYTHING, skipped=skipped)
    assert list(read) == [("p/a.txt", b"A"), ("p/z.txt", b"Z")]
    assert skipped == {"an unsafe path": 1, "too large a file": 1}


def test_no_archive_at_all_is_counted(tmp_path):
    skipped = Counter()
    for name in ("a.tar.gz", "a.whl"):
        (tmp_path / name).write_bytes(b"no archive")
        assert list(read_members(tmp_path / name, EVERYTHING, skipped=skipped)) == []
    assert skipped == {"an archive that cannot be read": 2}


def test_a_folder_is_read_like_an_archive(tmp_path):
    for name in ("b.py", "a/c.py", "site-packages/d.py", "a/__pycache__/e.py", "f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "g.py").symlink_to(tmp_path / "b.py")
    assert list(read_members(tmp_path, ["*.py"])) == [("a/c.py", b"a/c.py"), ("b.py", b"b.py")]
