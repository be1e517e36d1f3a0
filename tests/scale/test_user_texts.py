"""A folder of the user's own texts: what is no text is passed over, and said."""

import pytest

from minillama.corpus.statistics import StepStats
from minillama.errors import DataError
from minillama.scale.user_texts import OWN_FOLDER, add_texts, own_documents


def test_texts_are_copied_and_read(tmp_path):
    folder = tmp_path / "my texts"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_bytes("\ufeffGrüße,\r\nMiller\r\n".encode())
    (folder / "deep" / "er" / "b.txt").write_text("Second.")
    (folder / "c.md").write_text("Not a .txt file.")
    assert add_texts(folder, tmp_path / "data").startswith("added 2 texts")
    found = list(own_documents(tmp_path / "data" / OWN_FOLDER, StepStats("read")))
    assert [(d.path, d.text) for d in found] == [
        ("a.txt", "Grüße,\nMiller"),
        ("deep/er/b.txt", "Second."),
    ]
    assert {d.slice for d in found} == {"mytexts"}


@pytest.mark.parametrize(
    "content, reason",
    [
        ("Grüße".encode("latin-1"), "not UTF-8"),
        ("中文".encode("utf-16"), "not UTF-8"),
        (b"\x7fELF\0\0", "binary"),
        (b"text\0", "binary"),
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
    ],
)
def test_what_is_no_text_is_passed_over_and_named(tmp_path, capsys, content, reason):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "bad.txt").write_bytes(content)
    with pytest.raises(DataError, match="texts holds no readable .txt file"):
        add_texts(folder, tmp_path / "data")
    assert f"skipped {folder / 'bad.txt'}: {reason}" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    (folder / "good.txt").write_text("Good.")
    assert add_texts(folder, tmp_path / "data").startswith("added 1 texts")
    assert [p.name for p in (tmp_path / "data" / OWN_FOLDER).iterdir()] == ["good.txt"]
    assert [d.path for d in own_documents(folder, StepStats("read"))] == ["good.txt"]


def test_links_and_folders_named_like_texts(tmp_path, capsys):
    folder, outside = tmp_path / "texts", tmp_path / "outside"
    (folder / "folder.txt").mkdir(parents=True)
    outside.mkdir()
    (outside / "far.txt").write_text("Far away.")
    (folder / "broken.txt").symlink_to(tmp_path / "nowhere")
    (folder / "round").symlink_to(folder)
    (folder / "linked.txt").symlink_to(outside / "far.txt")
    assert add_texts(folder, tmp_path / "data").startswith("added 1 texts")
    told = capsys.readouterr().err
    assert "folder.txt: a folder or a broken link" in told
    assert "broken.txt: a folder or a broken link" in told
    copied = tmp_path / "data" / OWN_FOLDER / "linked.txt"
    assert copied.read_text() == "Far away." and not copied.is_symlink()


def test_empty_and_missing_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no readable .txt file"):
        add_texts(tmp_path / "empty", tmp_path / "data")
    for name in ("gone", "file.txt"):
        (tmp_path / "file.txt").write_text("Text.")
        with pytest.raises(DataError, match=f"{name} is not a folder"):
            add_texts(tmp_path / name, tmp_path / "data")


def test_added_again_after_an_edit(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for text in ("First.", "Second."):
        (folder / "a.txt").write_text(text)
        add_texts(folder, tmp_path / "data")
        assert [
            d.text for d in own_documents(tmp_path / "data" / OWN_FOLDER, StepStats("read"))
        ] == [text]
