"""Data sets of the hub, read from folders in its layouts; nothing here reaches for a network."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from tiny import prose

from minillama.corpus.token_files import SPLITS, open_corpus, verify_corpus
from minillama.errors import ConfigError, DataError
from minillama.scale import hub
from minillama.scale.hub import build_hub, parse_count

TEXTS = [prose(i, 120) for i in range(60)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "sources.toml").write_text("source = []\n")
    return tmp_path


def build(dataset, **changes):
    settings = {"tokens": "1M", "vocab_size": 320, "held_out": 10, "sources": "sources.toml"}
    return build_hub(str(dataset), **settings | changes)


def json_lines(path, texts, column="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps({column: text, "id": i}) + "\n" for i, text in enumerate(texts))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content)


def stored(folder):
    corpus = open_corpus(folder)
    tokenizer, texts = corpus.tokenizer(), {}
    for split, files in corpus.files.items():
        found = []
        for file in files.values():
            for i in range(file.n_documents):
                found.append(tokenizer.decode(file.document(i).tolist()))
        texts[split] = found
    return texts


def parquet(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


@pytest.mark.parametrize(
    "write, name",
    [
        (json_lines, "train.jsonl"),
        (json_lines, "data/train-00000-of-00001.jsonl.gz"),
        (parquet, "data/train-00000-of-00001.parquet"),
    ],
)
def test_every_layout_gives_the_texts(here, write, name):
    write(here / "tales" / name, TEXTS)
    assert "Table 1" in build("tales")
    texts = stored(here / "data/corpus/tales")
    assert sorted(sum(texts.values(), [])) == sorted(TEXTS)
    assert all(texts[split] for split in SPLITS)
    assert "as they were built" in verify_corpus(here / "data/corpus/tales")


def test_a_configuration_is_a_subfolder_and_a_column_may_be_named(here):
    json_lines(here / "tales/old/train.jsonl", TEXTS[:30], "story")
    json_lines(here / "tales/new/train.jsonl", TEXTS[30:], "story")
    build("tales", config="new", column="story")
    assert sorted(sum(stored(here / "data/corpus/tales").values(), [])) == sorted(TEXTS[30:])


def test_duplicates_and_rows_without_text_are_counted(here):
    json_lines(here / "tales/train.jsonl", [*TEXTS, TEXTS[3].upper(), "", "  "])
    build("tales")
    manifest = json.loads((here / "data/corpus/tales/manifest.json").read_text())
    dropped = manifest["slices"]["tales"]["dropped"]
    assert dropped == {"exact duplicate": 1, "without a text": 2}


def test_it_stops_at_its_tokens_and_goes_on_with_more(here, monkeypatch):
    monkeypatch.setattr(hub, "PART_TOKENS", 2_000)
    json_lines(here / "tales/train.jsonl", TEXTS)
    build("tales", tokens="3000")
    first = sum(stored(here / "data/corpus/tales").values(), [])
    assert 0 < len(first) < len(TEXTS)
    build("tales", tokens="1M")
    assert sorted(sum(stored(here / "data/corpus/tales").values(), [])) == sorted(TEXTS)


def test_an_interrupted_stream_goes_on_to_the_same_corpus(here, monkeypatch):
    monkeypatch.setattr(hub, "PART_TOKENS", 2_000)
    json_lines(here / "tales/train.jsonl", TEXTS)
    build("tales", corpus=here / "whole")
    write_part, calls = hub.write_part, []

    def fail_third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write_part(*args)

    monkeypatch.setattr(hub, "write_part", fail_third)
    with pytest.raises(KeyboardInterrupt):
        build("tales", corpus=here / "broken")
    with pytest.raises(DataError):
        open_corpus(here / "broken")
    monkeypatch.setattr(hub, "write_part", write_part)
    build("tales", corpus=here / "broken")
    assert open_corpus(here / "broken").fingerprint == open_corpus(here / "whole").fingerprint


def test_slices_of_table_1_from_several_data_sets_make_one_corpus(here):
    json_lines(here / "a/train.jsonl", TEXTS[:30])
    json_lines(here / "b/train.jsonl", TEXTS[30:])
    build("a", slice="c4", corpus=here / "both")
    build("b", slice="books", corpus=here / "both")
    assert set(open_corpus(here / "both").weights) == {"c4", "books"}


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"column": "body"}, ConfigError, "has no column 'body'"),
        ({"split": "nowhere"}, DataError, "cannot be read"),
        ({"config": "nowhere"}, DataError, "cannot be read|has no document"),
        ({"tokens": "many"}, ConfigError, "is no number"),
        ({"slice": "two words"}, ConfigError, "slice = 'two words'"),
    ],
)
def test_bad_settings_are_one_line_and_make_no_corpus(here, changes, error, message):
    json_lines(here / "tales/train.jsonl", TEXTS[:20])
    with pytest.raises(error, match=message) as caught:
        build("tales", **changes)
    assert "\n" not in str(caught.value)
    assert not list(here.rglob("manifest.json"))


def test_a_hub_that_does_not_answer_is_one_line(here):
    with pytest.raises(DataError, match="cannot be read.*it goes on") as caught:
        build("someone/tales", corpus=here / "tales")
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_line(here):
    path = here / "tales/train.jsonl.gz"
    json_lines(path, TEXTS)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="cannot be read"):
        build("tales")


@pytest.mark.parametrize(
    "text, number", [("1B", 10**9), ("2.5m", 2_500_000), ("300k", 300_000), ("5_000", 5_000)]
)
def test_counts(text, number):
    assert parse_count(text) == number
