"""The build: no text twice, nothing held out is trained on, nothing redone."""

import json
import os
import shutil

import numpy as np
import pytest
from tiny import ROOT, make_corpus, prose, python, sdist, wheel, write_sources

from minillama.corpus.document import Document, read_documents
from minillama.corpus.pipeline import ShortTexts
from minillama.corpus.recipes import recipe_versions
from minillama.corpus.statistics import table1
from minillama.corpus.token_files import SPLITS, open_corpus
from minillama.corpus.trace import trace
from minillama.corpus.vocabulary import sample
from minillama.errors import ConfigError, DataError
from minillama.files import read_json, sha256
from minillama.scale.build_corpus import describe
from minillama.scale.user_texts import remove_texts
from minillama.train.validation import score


def documents(texts, slice_name="books"):
    return [Document(text, slice_name, "tales==1.0", f"{i}.txt") for i, text in enumerate(texts)]


# the built corpus


def texts_of(corpus, name, part):
    return [d["text"] for d in read_documents(corpus.folder / f"text/{name}.{part}.jsonl")]


def test_no_held_out_text_is_trained_on(tmp_path):
    """Not even with other spacing, in another slice, or among the user's own texts."""
    corpus = make_corpus(tmp_path, built=False)
    downloads = corpus.data / "downloads"
    tales = {f"t/{i:02}.txt": prose(i) for i in range(30)}
    packages = [
        (sdist(downloads / "tales-1.0.tar.gz", tales), "books", "gutenberg"),
        (wheel(downloads / "again-1.0-py3-none-any.whl",
               {name: text.replace(" ", "\n").upper() for name, text in tales.items()}
               | {f"g/{i}.rst": prose(300 + i) for i in range(10)}), "stackexchange", "rst"),
    ]  # fmt: skip
    write_sources(corpus.data / "sources.toml", packages)
    corpus.add({f"{i}.txt": "  " + prose(i if i < 6 else 400 + i) for i in range(12)})
    corpus.build()
    names = ["stackexchange", "books", "mytexts"]
    keys = {part: [Document(t, "", "", "").key for n in names for t in texts_of(corpus, n, part)]
            for part in SPLITS}  # fmt: skip
    every = sum(keys.values(), [])
    assert len(every) == len(set(every)) == 46 + 4  # no key is in two parts; four are ends of texts
    dropped = {name: told["dropped"] for name, told in
               read_json(corpus.folder / "manifest.json")["slices"].items()}  # fmt: skip
    assert dropped["stackexchange"] == {"exact duplicate": 30}
    assert dropped["mytexts"] == {"exact duplicate": 6}


def page(*paragraphs):
    body = "".join(f"<p>{text}</p>" for text in paragraphs)
    return f"<html><body><div role='main'>{body}</div></body></html>"


def test_no_line_of_a_web_page_is_held_out_and_trained_on(tmp_path):
    corpus = make_corpus(tmp_path, built=False)
    common = prose(1_000)
    pages = {f"p/{i:02}.html": page(prose(500 + i), common, prose(600 + i)) for i in range(40)}
    site = sdist(corpus.data / "downloads" / "site-1.0.tar.gz", pages)
    write_sources(corpus.data / "sources.toml", [(site, "commoncrawl", "html")])
    corpus.build()
    lines = {}
    for part in ("train", "valid"):
        text = "\n".join(texts_of(corpus, "commoncrawl", part))
        lines[part] = [line for line in text.split("\n") if line]
    assert lines["valid"] and not set(lines["train"]) & set(lines["valid"])
    assert (lines["train"] + lines["valid"]).count(common) == 1
    entry = read_json(corpus.folder / "manifest.json")["slices"]["commoncrawl"]
    assert entry["dropped"] == {} and entry["removed"] == {"repeated lines": 39}


def state(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_second_build_does_nothing_and_says_the_same(tmp_path):
    corpus = make_corpus(tmp_path)
    before = state(corpus.folder)
    assert corpus.build() == describe(read_json(corpus.folder / "manifest.json"), 10_000)
    assert state(corpus.folder) == before


def test_two_builds_are_equal_byte_for_byte(tmp_path, tiny_corpus):
    again = make_corpus(tmp_path, built=False)
    again.build(workers=2)
    files = sorted(p.relative_to(again.folder) for p in again.folder.rglob("*") if p.is_file())
    assert len(files) == 3 * len(SPLITS) * 4 + 2
    for path in files:
        same = sha256(again.folder / path) == sha256(tiny_corpus.folder / path)
        # The manifest's fingerprint covers the archives, whose headers hold the time.
        assert same or path.name == "manifest.json", path


def test_changed_settings_texts_and_packages_build_again(tmp_path):
    corpus = make_corpus(tmp_path)
    seen = {read_json(corpus.folder / "manifest.json")["fingerprint"]}

    def fingerprint(**changes):
        corpus.build(**changes)
        open_corpus(corpus.folder)
        return read_json(corpus.folder / "manifest.json")["fingerprint"]

    assert fingerprint(budget=1, workers=1) in seen  # these do not change the corpus
    seen.add(fingerprint(vocab_size=325))
    seen.add(fingerprint(slice_mb=0.01))
    corpus.add({"a.txt": prose(9_000, 400)})
    seen.add(fingerprint())
    assert "mytexts" in open_corpus(corpus.folder).slices
    corpus.add({"a.txt": prose(9_001, 400)})
    seen.add(fingerprint())
    tales = {"t/a.txt": prose(1), "t/b.txt": prose(2)}
    new = sdist(corpus.data / "downloads" / "new-1.0.tar.gz", tales)
    remove_texts("mine", corpus.data)
    write_sources(corpus.data / "sources.toml", [(new, "books", "gutenberg")])
    seen.add(fingerprint())
    assert open_corpus(corpus.folder).slices == ["books"]  # nothing of the old build is left
    assert {p.name.split(".")[0] for p in (corpus.folder / "tokens").iterdir()} == {"books"}
    assert len(seen) == 6


def test_another_version_of_a_step_builds_again(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path)
    built = (corpus.folder / "manifest.json").stat().st_mtime_ns
    corpus.build()
    assert (corpus.folder / "manifest.json").stat().st_mtime_ns == built
    monkeypatch.setattr(ShortTexts, "version", 2)
    corpus.build()
    assert (corpus.folder / "manifest.json").stat().st_mtime_ns > built


def test_a_comment_in_the_code_builds_nothing_again(tmp_path):
    shutil.copytree(ROOT / "minillama", tmp_path / "minillama")
    code = "from minillama.corpus.recipes import recipe_versions; print(recipe_versions())"
    before = python("-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    for path in (tmp_path / "minillama" / "corpus").glob("*.py"):
        path.write_text(path.read_text() + "\n# A comment.\n")
    after = python("-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert before.returncode == 0 and before.stdout == after.stdout == f"{recipe_versions()}\n"


def test_documents_stand_in_the_order_of_their_keys_which_is_a_shuffle(tiny_corpus):
    for name in ("c4", "github", "books"):
        texts = texts_of(tiny_corpus, name, "train")
        keys = [Document(text, "", "", "").key for text in texts]
        records = list(read_documents(tiny_corpus.folder / f"text/{name}.train.jsonl"))
        paths = [record["path"] for record in records]
        assert keys == sorted(keys) and paths != sorted(paths)


def test_the_evaluation_package_is_never_read(tmp_path):
    corpus = make_corpus(tmp_path, built=False)
    path = wheel(corpus.data / "downloads" / "exam-1.0-py3-none-any.whl", {"q.txt": prose(77)})
    entry = f'''
[[source]]
name = "exam"
version = "1.0"
format = "wheel"
kind = "evaluation"
sha256 = "{sha256(path)}"
license = "ours"
'''
    with open(corpus.data / "sources.toml", "a") as file:
        file.write(entry)
    corpus.build()
    manifest = read_json(corpus.folder / "manifest.json")
    assert manifest["sources"] == ["tales==1.0", "tools==2.0", "guide==3.0"]
    question = prose(77)[:60]
    assert not any(question in p.read_text() for p in corpus.folder.glob("text/*.jsonl"))


def test_no_text_at_all(tmp_path):
    corpus = make_corpus(tmp_path, documents=1, built=False)
    empty = sdist(corpus.data / "downloads" / "nil-1.0.tar.gz", {"a.txt": "short", "b.txt": ""})
    write_sources(corpus.data / "sources.toml", [(empty, "books", "gutenberg")])
    with pytest.raises(DataError, match="the corpus would be empty"):
        corpus.build()
    (corpus.data / "sources.toml").write_text("source = []")
    with pytest.raises(DataError, match="the corpus would be empty"):
        corpus.build()
    assert not (corpus.folder / "manifest.json").exists()


def test_unknown_readers_slices_and_missing_packages(tmp_path):
    corpus = make_corpus(tmp_path, built=False)
    listing = corpus.data / "sources.toml"
    whole = listing.read_text()
    listing.write_text(whole.replace('"rst"', '"rts"'))
    with pytest.raises(DataError, match="unknown reader 'rts' for guide==3.0. Did you mean 'rst'?"):
        corpus.build()
    listing.write_text(whole.replace('"c4"', '"c5"'))
    with pytest.raises(ConfigError, match=r"unknown slices \['c5'\]"):
        corpus.build()
    listing.write_text(whole)
    (corpus.data / "downloads" / "guide-3.0.tar.gz").unlink()
    with pytest.raises(DataError, match="guide==3.0 is not in .*minillama data fetch"):
        corpus.build()


def test_the_tokenizer_sees_each_slice_by_its_share(tiny_corpus):
    weights = {"c4": 0.5, "github": 0.3, "books": 0.2}
    texts = list(sample(tiny_corpus.folder, weights, megabytes=0.02))
    owner = {}
    for name in weights:
        owner |= {text[:50]: name for text in texts_of(tiny_corpus, name, "train")}
    lengths = dict.fromkeys(weights, 0)
    for text in texts:
        lengths[owner[text[:50]]] += len(text)
    assert lengths == {"c4": 10_000, "github": 6_000, "books": 4_000}


def test_every_token_is_traced_to_its_file(tiny_corpus):
    corpus = open_corpus(tiny_corpus.folder)
    file = corpus.train["books"]
    records = list(read_documents(tiny_corpus.folder / "text" / "books.train.jsonl"))
    for offset in np.linspace(0, file.tokens - 1, 12).astype(int):
        told = trace(tiny_corpus.folder, "books", int(offset))
        record = records[file.find(int(offset))]
        source, path = told.split("\n")[0].split("  ")
        assert (source, path) == (record["source"], record["path"])
        number = int(path.split("/")[1].split(".")[0])
        assert source == "tales==1.0" and record["text"] == prose(number)
        near = told.split(": ", 1)[1]
        assert json.loads('"' + near.strip("'\"") + '"').strip() in record["text"]
    with pytest.raises(DataError, match="has no arxiv.train.*it has c4, github, books|It has"):
        trace(tiny_corpus.folder, "arxiv", 0)
    with pytest.raises(DataError, match="tokens, not"):
        trace(tiny_corpus.folder, "books", file.tokens)


def test_the_table_shows_the_paper_beside_the_corpus(tiny_corpus):
    table = table1(read_json(tiny_corpus.folder / "manifest.json"), 10_000)
    rows = {line.split()[0]: line for line in table.split("\n")[2:]}
    corpus = open_corpus(tiny_corpus.folder)
    tokens = corpus.train["books"].tokens
    share = 4.5 / 24
    assert f"{tokens:,}" in rows["books"] and f"{share:.1%}" in rows["books"]
    assert rows["books"].split()[-5:] == [
        f"{share * 10_000 / tokens:.2f}", "4.5%", "2.23", "85", "GB"
    ]  # fmt: skip
    assert "absent" in rows["arxiv"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("name", ""), ("name", ".."), ("name", "a/b"), ("name", "ABSOLUTE"), ("own_share", 1.1),
     ("slice_mb", 0), ("vocab_size", 200), ("workers", 0)],
)  # fmt: skip
def test_settings_out_of_range_touch_nothing(tmp_path, setting, value):
    corpus = make_corpus(tmp_path / "data")
    kept = tmp_path / "precious"
    kept.mkdir()
    before = {p: p.read_bytes() for p in corpus.folder.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=setting):
        corpus.build(**{setting: str(kept) if value == "ABSOLUTE" else value})
    assert kept.exists()
    assert {p: p.read_bytes() for p in corpus.folder.rglob("*") if p.is_file()} == before


def test_a_build_without_the_users_own_texts(tmp_path):
    corpus = make_corpus(tmp_path / "data")
    manifest = (corpus.folder / "manifest.json").read_bytes()
    corpus.add({f"{i}.txt": prose(900 + i) for i in range(4)})
    corpus.build(own_share=0)
    assert (corpus.folder / "manifest.json").read_bytes() == manifest  # nothing was done
    corpus.build(own_share=0.2)
    opened = open_corpus(corpus.folder)
    assert opened.weights["mytexts"] == pytest.approx(0.2)
    assert opened.manifest["slices"]["mytexts"]["documents_in"] == 4


def test_own_texts_are_taken_whole_whatever_the_limit_of_a_slice(tmp_path):
    corpus = make_corpus(tmp_path / "data")
    text = prose(5, words=4_000)
    corpus.add({"long.txt": text})
    corpus.build(slice_mb=0.01)
    entry = read_json(corpus.folder / "manifest.json")["slices"]["mytexts"]
    kept = sum(entry[split]["bytes"] for split in SPLITS)
    assert kept == len(text) - 2  # a space at each cut


def test_own_texts_do_not_vanish_in_silence(tmp_path):
    corpus = make_corpus(tmp_path / "data")
    corpus.add({"a.txt": prose(1).upper()})  # a book has it
    with pytest.raises(DataError, match="no text of yours could be kept.*exact duplicate"):
        corpus.build()


def test_the_tail_of_a_single_text_is_held_out_and_scored(tmp_path):
    """Trained on it alone: no package is fetched, and no mean is over nothing."""
    corpus = make_corpus(tmp_path / "data", built=False)
    shutil.rmtree(corpus.data / "downloads")
    text = "\n\n".join(prose(i) for i in range(200))
    corpus.add({"novel.txt": text})
    assert "checked against 0 examples" in corpus.build(own_share=1.0)
    [head], [tail], [end] = (texts_of(corpus, "mytexts", split) for split in SPLITS)
    assert f"{head}\n\n{tail}\n\n{end}" == text  # cut between paragraphs
    assert 0.03 * len(text) <= len(tail) < 0.06 * len(text)
    opened = open_corpus(corpus.folder)
    assert opened.weights == {"mytexts": 1.0} and opened.manifest["sources"] == []
    uniform = score(opened, lambda parts: -sum(len(p) - 1 for p in parts) * 5.0, 10**6, 16)
    assert uniform["loss"] == pytest.approx(5.0) and uniform["loss_by_slice"].keys() == {"mytexts"}
    with pytest.raises(DataError, match="is not in"):
        corpus.build(own_share=0.9)  # the packages are needed for the rest
    remove_texts("mine", corpus.data)
    with pytest.raises(DataError, match="no texts of yours"):
        corpus.build(own_share=1.0)


def test_every_slice_of_the_mixture_is_validated(tmp_path):
    corpus = make_corpus(tmp_path / "data")
    corpus.add({"a.txt": prose(900, 600), "b.txt": prose(901, 600)})
    corpus.build(own_share=0.9)
    manifest = read_json(corpus.folder / "manifest.json")
    assert all(entry["valid"]["tokens"] for entry in manifest["slices"].values())
    assert "nothing held out" not in describe(manifest, 1_000)
    manifest["slices"]["mytexts"]["valid"]["tokens"] = 0
    assert "mytexts (nothing held out)" in describe(manifest, 1_000)
