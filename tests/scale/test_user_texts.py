"""Texts of the user's own: what is read, what is left out and why; a folder is mirrored."""

import csv
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from minillama.corpus import text_files
from minillama.corpus.statistics import StepStats
from minillama.errors import ConfigError, DataError
from minillama.scale.user_texts import (
    OWN_FOLDER,
    add_texts,
    list_texts,
    own_documents,
    remove_texts,
)

ROWS = ["Grüße, “Lama”", "two\nlines; of, text\tthere"]


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(data):
    """What a build reads: place -> text."""
    stats = StepStats("read")
    return {d.path: d.text for d in own_documents(data / OWN_FOLDER, stats)}


def left_out(data, name):
    lines = list_texts(name, data).split("\n")
    return {Path(line.split(": ")[0]).name: line.split(": ", 1)[1] for line in lines}


def table(kind):
    """A table of two rows of text, as a file's content."""
    if kind == "jsonl":
        rows = [{"id": 1, "body": ROWS[0]}, {"id": 2, "body": None}, {"id": 3, "body": ROWS[1]}]
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "parquet":
        out = io.BytesIO()
        columns = {"id": [1, 2, 3], "body": [ROWS[0], None, ROWS[1]]}
        pyarrow.parquet.write_table(pyarrow.table(columns), out, row_group_size=1)
        return out.getvalue()
    out = io.StringIO()
    rows = [["id", "body"], [1, ROWS[0]], [2, ""], [3, ROWS[1]]]
    csv.writer(out, delimiter=kind).writerows(rows)
    return out.getvalue().encode()


def test_every_kind_of_file(tmp_path):
    folder = tmp_path / "my texts"
    windows = "Grüße,\r\nMiller\r\n"
    for name, content in {
        "bom.txt": "\ufeff" + windows, "plain.md": windows, "UPPER.TXT": windows,
        "little.txt": b"\xff\xfe" + windows.encode("utf-16-le"),
        "big.txt": b"\xfe\xff" + windows.encode("utf-16-be"),
        "deep/er/packed.txt.GZ": gzip.compress(windows.encode()),
    }.items():  # fmt: skip
        write(folder, name, content)
    assert add_texts((folder,), data=tmp_path).startswith("added 6 files as 'my texts'")
    assert set(texts(tmp_path).values()) == {"Grüße,\nMiller"}
    assert "my texts/deep/er/packed.txt.GZ" in texts(tmp_path) and len(texts(tmp_path)) == 6


@pytest.mark.parametrize("kind", ["jsonl", "parquet", ",", ";", "\t"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("utf16", [False, True])
def test_tables(tmp_path, kind, packed, utf16):
    content = table(kind)
    if utf16:
        if kind == "parquet":
            pytest.skip("it is no text")
        content = content.decode().encode("utf-16")
    name = f"t.{kind if len(kind) > 1 else 'CSV'}" + ".gz" * packed
    path = write(tmp_path, name, gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match="no column 'text', but id, body"):
        add_texts((path,), data=tmp_path / "data")
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("t.json"))
    add_texts((path,), column="body", data=tmp_path / "data")
    assert texts(tmp_path / "data") == {f"t/{name}#1": ROWS[0], f"t/{name}#3": ROWS[1]}


BAD = {
    "latin.txt": ("Grüße".encode("latin-1"), "neither UTF-8"),
    "mixed.txt": (b"a line\n" * 300_000 + b"caf\xe9\n", "neither UTF-8"),
    "half.txt": (b"\xff\xfea", "neither UTF-8"),
    "utf16 without mark.txt": ("text".encode("utf-16-le"), "binary"),
    "program.txt": (b"\x7fELF\0\0", "binary"),
    "empty.txt": (b"", "empty"),
    "blank.md": (b" \n\t\r\n", "empty"),
    "cut.txt.gz": (gzip.compress(b"text " * 10_000 + os.urandom(9_999).hex().encode())[:-99],
                   "a gzip file that is cut short"),
    "none.txt.gz": (b"just text", "no gzip file"),
    "damaged.txt.gz": (gzip.compress(b"text")[:10] + b"\xff" * 30, "a damaged gzip file"),
    "cut.jsonl": (b'{"text": "good"}\n{"text": "ba', "line 2 is not JSON"),
    "list.jsonl": (b"[1]\n", "line 1 is no JSON object"),
    "quote.csv": (b'text\ngood\n"never ends\n', "unexpected end of data"),
    "none.parquet": (b"PAR1 it is not", "Parquet"),
    "no column.csv": (b"a;b\n1;2\n", "no column 'text', but a, b"),
    "picture.png": (b"\x89PNG", "not one of .txt"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_left_out_is_named_with_its_reason(tmp_path, capsys, name):
    content, reason = BAD[name]
    folder = tmp_path / "texts"
    bad, data = write(folder, name, content), tmp_path / "data"
    with pytest.raises(DataError, match=r"texts: no text that can be read \(.*" + reason):
        add_texts((folder,), data=data)
    assert not list(data.rglob("*.jsonl*"))
    write(folder, "good.txt", "Good.")
    assert add_texts((folder,), data=data).startswith("added 1 files")
    assert f"left out {bad}: " in capsys.readouterr().err
    assert reason in left_out(data, "texts")[name]
    assert texts(data) == {"texts/good.txt": "Good."}  # and nothing of the bad one's beginning


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_file_is_read_in_bounded_memory(tmp_path):
    """Not a byte for each of its bytes; it is cut between paragraphs, and nothing is lost."""
    program = (
        "import sys; from pathlib import Path\n"
        "from minillama.scale.user_texts import add_texts\n"
        "add_texts((Path(sys.argv[1]),), data=Path(sys.argv[2]))\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    peaks = []
    for size in (8, 40):
        paragraph = "A paragraph of the long text.\n" * 30 + "\n"
        path = write(tmp_path, f"{size}.txt", paragraph * (size * 10**6 // len(paragraph)))
        command = [sys.executable, "-c", program, path, tmp_path / f"data{size}"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    assert peaks[1] - peaks[0] < 12_000  # kB, for 32 MB more
    read = [d.text for d in own_documents(tmp_path / "data40" / OWN_FOLDER, StepStats(""))]
    assert len(read) > 30
    assert "\n\n".join(read) == path.read_text().strip()


def test_long_texts_and_rows_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_CHARACTERS", 20)
    path = write(tmp_path, "a.jsonl", json.dumps({"text": "one two three four five six seven"}))
    assert [text for _, text in text_files.read_text_file(path)] == [
        "one two three four", "five six seven",
    ]  # fmt: skip
    plain = write(tmp_path, "a.txt", "x" * 50)
    assert [len(text) for _, text in text_files.read_text_file(plain)] == [20, 20, 10]


def test_what_tools_and_minillama_write_is_not_taken(tmp_path, monkeypatch):
    for name in (
        "a.txt", "b/c.txt", ".venv/x.txt", "env/pyvenv.cfg", "env/x.txt", ".hidden.txt",
        "b/.ipynb_checkpoints/c.txt", "node_modules/x.md", "p.egg-info/SOURCES.txt",
        "data/corpus/nano/text/c4.jsonl", "data/downloads/x.txt", "data/README.md",
    ):  # fmt: skip
        write(tmp_path, name, '{"text": "Text."}')
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        assert add_texts((Path("."),)).startswith(f"added 3 files as '{tmp_path.name}'")
        names = [path.split("/", 1)[1] for path in texts(Path("data"))]
        assert names == ["a.txt", "b/c.txt", "data/README.md"]
    for own in ("data/my-texts", "data/corpus/nano"):
        with pytest.raises(DataError, match="minillama's own"):
            add_texts((Path(own),))


def test_links_and_what_is_no_file(tmp_path):
    folder, data = tmp_path / "texts", tmp_path / "data"
    write(tmp_path, "outside/far.txt", "Far away.")
    folder.mkdir()
    (folder / "broken.txt").symlink_to(tmp_path / "nowhere")
    (folder / "round").symlink_to(folder)
    (folder / "linked.txt").symlink_to(tmp_path / "outside" / "far.txt")
    os.mkfifo(folder / "pipe.txt")
    add_texts((folder,), data=data)
    assert texts(data) == {"texts/linked.txt": "Far away."}
    reasons = left_out(data, "texts")
    assert reasons["broken.txt"] == reasons["pipe.txt"] == "a broken link, or no file"
    assert reasons["round"] == "a link to a folder"


def test_no_permission():
    """As a user who is not root, whom nothing is forbidden."""
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o777)
        write(place, "texts/closed/a.txt", "A.").parent.chmod(0)
        write(place, "texts/b.txt", "B.").chmod(0)
        write(place, "texts/c.txt", "C.")
        user = os.geteuid()
        os.seteuid(user or 65_534)
        try:
            add_texts((place / "texts",), data=place / "data")
            assert left_out(place / "data", "texts") == {
                "closed": "permission denied", "b.txt": "no permission",
            }  # fmt: skip
            with pytest.raises(DataError, match="permission denied"):
                add_texts((place / "texts" / "closed",), data=place / "data")
        finally:
            os.seteuid(user)
    finally:
        (place / "texts" / "closed").chmod(0o700)
        shutil.rmtree(place)


def test_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder, os.fsdecode(b"na\xefve.txt"), "Text.")
    write(folder, os.fsdecode(b"\xff.png"), "Text.")
    for _ in range(2):
        add_texts((folder,), data=tmp_path / "data")
        assert texts(tmp_path / "data") == {"caf?/na?ve.txt": "Text."}
    assert "caf?" in list_texts(data=tmp_path / "data")


def test_adding_again_mirrors_the_folder(tmp_path):
    folder, data = tmp_path / "texts", tmp_path / "data"
    write(folder, "a.txt", "First.")
    write(folder, "b.txt", "Other.")
    add_texts((folder,), data=data)
    write(folder, "a.txt", "Second.")
    (folder / "b.txt").unlink()
    add_texts((folder,), data=data)
    assert texts(data) == {"texts/a.txt": "Second."}
    (folder / "a.txt").unlink()
    with pytest.raises(DataError, match="no file"):
        add_texts((folder,), data=data)
    assert texts(data) == {"texts/a.txt": "Second."}  # nothing is lost by a mistake


def test_names_list_and_remove(tmp_path):
    data = tmp_path / "data"
    one, two = write(tmp_path, "x/texts/a.b.txt", "One."), write(tmp_path, "y/texts/b.md", "Two.")
    add_texts((one.parent,), data=data)
    with pytest.raises(ConfigError, match="'texts' is the name of .*x/texts.* --name"):
        add_texts((two.parent,), data=data)
    add_texts((two.parent,), name="more", data=data)
    add_texts((one,), data=data)
    add_texts((one, two), data=data)
    names = [line.split()[:3] for line in list_texts(data=data).split("\n")[1:]]
    assert names == [["a", "1", "1"], ["more", "1", "1"], [tmp_path.name, "2", "2"],
                     ["texts", "1", "1"]]  # fmt: skip
    remove_texts("more", data)
    remove_texts(tmp_path.name, data)
    assert set(texts(data).values()) == {"One."} and two.exists()
    assert list_texts("a", data) == "nothing was left out"
    with pytest.raises(DataError, match="Did you mean 'texts'"):
        remove_texts("text", data)
    for name in ("../a", ".a", "a/b"):
        with pytest.raises(ConfigError, match="no file name"):
            add_texts((one,), name=name, data=data)


def test_many_files_left_out_are_counted(tmp_path, capsys):
    for i in range(30):
        write(tmp_path / "texts", f"{i:02}.png", "")
    write(tmp_path / "texts", "a.txt", "A.")
    add_texts((tmp_path / "texts",), data=tmp_path)
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 21 and "10 more: `minillama data list texts`" in lines[-1]
    assert len(left_out(tmp_path, "texts")) == 30


def test_nothing_and_nowhere(tmp_path):
    with pytest.raises(ConfigError, match="no files were named"):
        add_texts((), data=tmp_path)
    with pytest.raises(DataError, match="gone does not exist"):
        add_texts((tmp_path / "gone",), data=tmp_path)
    write(tmp_path, f"{OWN_FOLDER}/a.txt", "Put there by hand.")
    with pytest.raises(DataError, match="a.txt was not written by `minillama data add`"):
        texts(tmp_path)
