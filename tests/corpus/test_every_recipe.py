"""datatrove's output is the built-in build's for every recipe; RedPajama's licenses and repairs."""

import bz2
import json
import os
import signal

import pytest
from tiny import MIT, code, prose, sdist, wheel, write_sources

pytest.importorskip("datatrove")
pytest.importorskip("datasets")

from minillama.corpus.pipeline import StepContext
from minillama.corpus.recipes import RECIPES
from minillama.corpus.sources import load_sources
from minillama.corpus.statistics import StepStats
from minillama.errors import ConfigError, DataError
from minillama.paper import TABLE1
from minillama.scale import build_corpus, datatrove_steps, redpajama
from minillama.scale.clean import BuildDir, tasks_of
from minillama.scale.datatrove import Engine, run_datatrove
from minillama.scale.redpajama import build_full, find_files, read_redpajama
from minillama.tokenizer import train_tokenizer

PAPER = (
    r"\documentclass{a}\newcommand{\x}{willow}\begin{document}\section{One} \x %s \end{document}"
)


def page(seed):
    """A web page with the site's own line, which others share."""
    return f"<html><body><main><p>{prose(seed)}</p><p>All our mills.</p></main></body></html>"


def post(number, seed):
    return (
        f'<row Id="{number}" PostTypeId="1" Title="Why?" Body="{prose(seed)}"/>'
        f'<row Id="{number + 1}" PostTypeId="2" ParentId="{number}" Body="{prose(seed)}"/>'
    )


def files_of(part):
    """For each slice its reader and the files of one package; package 1 repeats some of 0."""
    seeds = range(5 * part - part, 5 * part + 5)
    articles = "".join(
        f"<page><title>T{i}</title><ns>0</ns><text>{prose(i)}</text></page>" for i in seeds
    )
    posts = "".join(post(10 * i + 1, i) for i in seeds)
    return {
        "commoncrawl": ("html", {f"{i}.html": page(i) for i in seeds}),
        "c4": ("rst", {f"{i}.rst": prose(i) for i in seeds}),
        "github": ("python", {f"{i}.py": code(i) for i in seeds} | {"LICENSE": MIT}),
        "wikipedia": ("wikipedia", {"d.bz2": bz2.compress(f"<m>{articles}</m>".encode())}),
        "books": ("gutenberg", {f"{i}.txt": prose(i, 400) for i in seeds}),
        "arxiv": ("latex", {f"{i}.tex": PAPER % prose(i) for i in seeds}),
        "stackexchange": ("posts", {"s/Posts.xml": f"<posts>{posts}</posts>"}),
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two packages of every slice, and what the built-in build makes of them."""
    root = tmp_path_factory.mktemp("all")
    (root / "downloads").mkdir()
    packages = []
    for part in (0, 1):
        for name, (reader, files) in files_of(part).items():
            make, ending = (wheel, "-py3-none-any.whl") if part else (sdist, ".tar.gz")
            path = make(root / "downloads" / f"{name}{part}-1.0{ending}", files)
            packages.append((path, name, reader))
    sources = write_sources(root / "sources.toml", packages)
    context = StepContext(sources, root / "downloads", scratch=root / "work")
    build_dir = BuildDir(root / "work", context)
    tasks = tasks_of(load_sources(sources), "nano", None)
    build_corpus.build_text(root / "corpus", build_dir, tasks, 1.0, 1)
    return root


def lines(*paths):
    return sorted(line for path in paths for line in path.read_text().splitlines())


@pytest.mark.parametrize("name", [name for name in RECIPES if name in TABLE1])
def test_datatrove_gives_the_documents_of_the_build(name, places, tmp_path):
    expected = lines(places / "work" / "clean" / f"{name}.jsonl")
    wikipedia = places / "work" / "clean" / "wikipedia.jsonl"
    run_datatrove(name, tmp_path, Engine(tasks=2, workers=1), wikipedia=wikipedia,
              sources=places / "sources.toml", downloads=places / "downloads")  # fmt: skip
    found = lines(*(tmp_path / "clean").iterdir())
    assert found == expected and len(found) >= 5


def test_a_killed_worker_of_datatrove_is_one_line(places, tmp_path, monkeypatch):
    def read(members, skipped):
        for path, content in members:
            if path == "0.rst":
                killed()
            yield path, content.decode()

    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.rst").write_text(prose(i))
    real = datatrove_steps.READERS["rst"]
    monkeypatch.setitem(datatrove_steps.READERS, "rst", read)
    where = {"folder": folder, "reader": "rst", "sources": places / "sources.toml"}
    with pytest.raises(DataError, match="a process was killed in .*un again"):
        run_datatrove("c4", tmp_path / "out", Engine(tasks=4, workers=2), **where)
    assert not (tmp_path / "out" / "clean").exists()
    monkeypatch.setitem(datatrove_steps.READERS, "rst", real)
    run_datatrove("c4", tmp_path / "out", Engine(tasks=4, workers=2), **where)
    assert len(list((tmp_path / "out" / "clean").iterdir())) == 4


def test_settings_of_datatrove_that_are_wrong(places, tmp_path):
    given = {"sources": places / "sources.toml", "downloads": places / "downloads"}
    with pytest.raises(ConfigError, match="no recipe 'nanoo'. Did you mean 'nano'"):
        run_datatrove("books", tmp_path / "out", recipe="nanoo", **given)
    with pytest.raises(DataError, match="gone does not exist"):
        run_datatrove("commoncrawl", tmp_path / "out", wikipedia=tmp_path / "gone", **given)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer((prose(i) for i in range(20)), path, 320)
    return path


def write_lines(path, metas):
    path.parent.mkdir(parents=True, exist_ok=True)
    told = ({"text": prose(i), "meta": meta} for i, meta in enumerate(metas))
    path.write_text("".join(json.dumps(line) + "\n" for line in told))


def test_only_the_papers_licenses(tokenizer, tmp_path):
    licenses = ["mit", "apache-2.0", "bsd-3-clause", "bsd-2-clause", "gpl-3.0", "mpl-2.0", None]
    write_lines(tmp_path / "r/github/filtered_1.sampled.jsonl", [{"license": n} for n in licenses])
    build_full(tmp_path / "r", tokenizer, tmp_path / "c", workers=1)
    told = json.loads((tmp_path / "c" / "manifest.json").read_text())["slices"]["github"]
    assert told["dropped"] == {"another license": 2} and told["documents_in"] == 7


def test_zstandard_files_that_are_cut_are_told(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "common_crawl/2019-30/en_head_0000.json.gz.dedup.classifier.jsonl.zst"
    path.parent.mkdir(parents=True)
    line = json.dumps({"text": prose(1)}).encode() + b"\n"
    whole = b"".join(zstandard.compress(line * 40) for _ in range(3))
    for size, count in ((len(whole), 0), (len(whole) - 5, 1), (len(whole) // 3 + 2, 1), (0, 1)):
        path.write_bytes(whole[:size])
        row = StepStats("read")
        found = len(list(read_redpajama(find_files(tmp_path)[0], row)))
        assert row.dropped.get("the file breaks off (EOFError)", 0) == count
        assert (found == 120) == (count == 0)


def test_a_file_that_is_fetched_again_is_read_again(tokenizer, tmp_path):
    path, corpus = tmp_path / "r/c4/c4-train.00000-of-01024.jsonl", tmp_path / "c"
    for count in (3, 5):
        write_lines(path, [{}] * count)
        build_full(tmp_path / "r", tokenizer, corpus, workers=1)
        told = json.loads((corpus / "manifest.json").read_text())["slices"]["c4"]
        assert told["documents_in"] == count


def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_of_the_full_build_is_one_line(tokenizer, tmp_path, monkeypatch):
    write_lines(tmp_path / "r/arxiv/arxiv_1.jsonl", [{}] * 3)
    monkeypatch.setattr(redpajama, "build_part", killed)
    with pytest.raises(DataError, match=r"killed in the stage 'tokenize'\. Run again"):
        build_full(tmp_path / "r", tokenizer, tmp_path / "c", workers=2)
    assert not (tmp_path / "c" / "manifest.json").exists()


def test_slices_and_numbers_that_are_not_there(tokenizer, tmp_path):
    write_lines(tmp_path / "r/arxiv/arxiv_1.jsonl", [{}] * 3)
    with pytest.raises(DataError, match="no files of c4, books"):
        build_full(tmp_path / "r", tokenizer, tmp_path / "c", slices=("c4", "arxiv", "books"))
    for wrong in ({"budget": 0}, {"held_out": 1}):
        with pytest.raises(ConfigError, match="must be above 0"):
            build_full(tmp_path / "r", tokenizer, tmp_path / "c", **wrong)
    assert not (tmp_path / "c").exists()
