"""Token files: what is written is read back, and every kind of damage is found and named."""

import json
import os
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minillama.corpus import token_files
from minillama.corpus.document import read_documents
from minillama.corpus.token_files import SPLITS, TokenFile, open_corpus, verify_corpus, write_tokens
from minillama.errors import DataError

RNG = np.random.default_rng(0)
DOCUMENTS = [RNG.integers(0, 300, int(n)).tolist() for n in (5, 1, 17, 2, 2, 40, 9)]


def write(tmp_path, vocab_size=320, documents=DOCUMENTS):
    return write_tokens(
        tmp_path / "b.train", ((ids, 3 * len(ids)) for ids in documents), vocab_size
    )


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(token_files, "SHARD_TOKENS", 20)


@pytest.mark.parametrize(
    "vocab_size, dtype", [(320, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (128_000, "<u4")]
)
def test_documents_come_back(tmp_path, small_shards, vocab_size, dtype):
    documents = [*DOCUMENTS, [vocab_size - 1, 0]]
    file = write(tmp_path, vocab_size, documents)
    assert file.dtype == np.dtype(dtype)
    assert [file.document(i).tolist() for i in range(file.n_documents)] == documents
    assert file.offsets.tolist() == np.cumsum([0, *map(len, documents)]).tolist()
    assert (file.n_documents, file.tokens) == (8, sum(map(len, documents)))
    assert file.n_bytes == 3 * file.tokens
    file.verify()


def test_the_bytes_on_disk_are_the_documents_in_order(tmp_path, small_shards):
    file = write(tmp_path)
    parts = sorted(tmp_path.glob("b.train.*.bin"))
    assert [p.name for p in parts] == [f"b.train.{i:05}.bin" for i in range(5)]
    stored = np.concatenate([np.frombuffer(p.read_bytes(), "<u2") for p in parts])
    assert stored.tolist() == sum(DOCUMENTS, [])
    assert isinstance(file.document(2).base, np.memmap)  # a view, not a copy
    assert max(p.stat().st_size for p in parts) == 2 * 40  # only a longer document exceeds a shard


def test_find_names_the_document_of_a_token(tmp_path, small_shards):
    file = write(tmp_path)
    owner = [i for i, ids in enumerate(DOCUMENTS) for _ in ids]
    assert [file.find(offset) for offset in range(file.tokens)] == owner
    for outside in (-1, file.tokens):
        with pytest.raises(DataError, match=f"has {file.tokens} tokens, not {outside}"):
            file.find(outside)


def test_no_documents_at_all(tmp_path):
    file = write(tmp_path, documents=[])
    assert (file.tokens, file.n_documents, file.offsets.tolist()) == (0, 0, [0])
    file.verify()


@pytest.mark.parametrize("name", ["b.train.00000.bin", "b.train.00001.bin"])
def test_missing_and_truncated_shards_are_named_when_opened(tmp_path, small_shards, name):
    index, path = write(tmp_path).index, tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{name} has {len(content) - 1} bytes instead"):
        TokenFile(index)
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        TokenFile(index)


@pytest.mark.parametrize("name", ["b.train.00002.bin", "b.train.offsets.npy"])
def test_every_flipped_bit_is_found(tmp_path, small_shards, name):
    index, path = write(tmp_path).index, tmp_path / name
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{name} (is damaged|cannot be read|does not fit)"):
            TokenFile(index).verify()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"[0, 5]" * 40])
def test_offsets_that_are_no_array(tmp_path, content):
    index = write(tmp_path).index
    (tmp_path / "b.train.offsets.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"b.train.offsets.npy cannot be read"):
        TokenFile(index).document(0)


def test_offsets_of_another_file(tmp_path):
    index = write(tmp_path).index
    np.save(tmp_path / "b.train.offsets.npy", np.arange(3))
    with pytest.raises(DataError, match=r"b.train.offsets.npy does not fit"):
        TokenFile(index).document(0)


def changed(**changes):
    return lambda told: told | changes


@pytest.mark.parametrize(
    "change",
    [
        lambda told: [told],
        lambda told: {key: value for key, value in told.items() if key != "offsets"},
        lambda told: told | {"shards": [{"file": "b.train.00000.bin"}]},
        changed(dtype="nothing"),
        changed(tokens="many"),
        changed(tokens=77),
        changed(shards=[]),
    ],
)
def test_a_wrong_index_is_named(tmp_path, change):
    index = write(tmp_path).index
    index.write_text(json.dumps(change(json.loads(index.read_text()))))
    with pytest.raises(DataError, match=r"b.train.json is no index of shards"):
        TokenFile(index)


def test_an_index_that_is_missing_or_no_json(tmp_path):
    with pytest.raises(DataError, match="b.train.json does not exist"):
        TokenFile(tmp_path / "b.train.json")
    index = write(tmp_path).index
    index.write_text(index.read_text()[:-9])
    with pytest.raises(DataError, match="b.train.json is not valid JSON"):
        TokenFile(index)


def test_an_index_of_another_width_is_found_by_the_lengths(tmp_path):
    index = write(tmp_path).index
    index.write_text(index.read_text().replace("<u2", "<u4"))
    with pytest.raises(DataError, match="has 152 bytes instead of 304"):
        TokenFile(index)


@pytest.fixture
def copy(tmp_path, tiny_corpus):
    return shutil.copytree(tiny_corpus.folder, tmp_path / "copy")


def test_a_corpus_opens_and_agrees_with_its_text(tiny_corpus):
    corpus = open_corpus(tiny_corpus.folder)
    assert corpus.slices == ["c4", "github", "books"]  # Table 1's order
    tokenizer = corpus.tokenizer()
    for split, files in (("train", corpus.train), ("valid", corpus.valid)):
        for name, file in files.items():
            texts = [
                d["text"] for d in read_documents(tiny_corpus.folder / f"text/{name}.{split}.jsonl")
            ]
            assert [tokenizer.decode(file.document(i)) for i in range(file.n_documents)] == texts
            assert file.n_bytes == sum(len(text.encode()) for text in texts)
            assert all(file.document(i)[0] == 1 for i in range(file.n_documents))
            assert all(file.document(i)[-1] == 2 for i in range(file.n_documents))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_is_named(copy):
    victims = ["tokenizer.model", *(f"tokens/{p.name}" for p in copy.glob("tokens/*.bin"))]
    for name in victims:
        whole = (copy / name).read_bytes()
        flip(copy / name)
        with pytest.raises(DataError, match=name.split("/")[-1]):
            verify_corpus(copy)
        (copy / name).write_bytes(whole)
    assert len(victims) == 1 + 3 * len(SPLITS)
    assert "as they were built" in verify_corpus(copy)


def test_the_fingerprint_is_of_the_tokens_not_of_the_code_that_made_them(copy):
    def fingerprint(path, **changes):
        before = json.loads(path.read_text())
        path.write_text(json.dumps(before | changes))
        whole = manifest.read_text()
        others = {key: value for key, value in json.loads(whole).items() if key != "data_sha256"}
        manifest.write_text(json.dumps(others))
        found = open_corpus(copy).fingerprint
        manifest.write_text(whole)
        path.write_text(json.dumps(before))
        return found

    manifest, index = copy / "manifest.json", copy / "tokens" / "books.valid.json"
    told = fingerprint(manifest)
    assert told == fingerprint(manifest, fingerprint="of other code", left_out={})
    weights = json.loads(manifest.read_text())["weights"]
    others = {
        fingerprint(manifest, weights=weights | {"books": 0.5}),
        fingerprint(manifest, weights=dict(reversed(weights.items()))),  # another order to draw in
        fingerprint(index, bytes=1),
        fingerprint(index, offsets={"file": "books.valid.offsets.npy", "sha256": "0"}),
    }
    assert len(others - {told}) == 4


def test_another_index_than_the_one_that_was_built_is_refused(copy):
    index = copy / "tokens" / "books.valid.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"bytes": 1}))
    with pytest.raises(DataError, match="an index in .* is not the one that was built"):
        open_corpus(copy)


def memory():
    """Bytes of this process in memory, without pages of files that are only mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
def test_a_slice_of_the_papers_size_is_opened_and_read_in_little_time_and_memory(tmp_path):
    """930 billion tokens in sparse files: CommonCrawl, as checksums it would take half an hour."""
    shards, documents, each = 866, 9 * 10**8, 2**30
    for number in range(shards):
        with open(tmp_path / f"b.train.{number:05}.bin", "wb") as file:
            file.truncate(2 * each)
    offsets = tmp_path / "b.train.offsets.npy"
    array = np.lib.format.open_memmap(offsets, "w+", np.int64, (documents + 1,))
    array[-3:] = [(shards - 1) * each, shards * each - 7, shards * each]
    del array
    parts = [{"file": f"b.train.{n:05}.bin", "tokens": each, "sha256": ""} for n in range(shards)]
    index = {"dtype": "<u2", "documents": documents, "tokens": shards * each, "bytes": 1,
             "shards": parts, "offsets": {"file": offsets.name, "sha256": ""}}  # fmt: skip
    (tmp_path / "b.train.json").write_text(json.dumps(index))
    before, started = memory(), time.monotonic()
    file = TokenFile(tmp_path / "b.train.json")
    assert file.document(documents - 1).tolist() == [0] * 7
    assert file.find(shards * each - 1) == documents - 1
    for number in range(0, shards, 8):  # more shards than may be mapped at a time
        assert file._map(number)[0] == 0
    maps = Path("/proc/self/maps").read_text().count("b.train.0")
    assert maps <= token_files.OPEN_MAPS + 1  # one may wait for the collector
    assert time.monotonic() - started < 20 and memory() - before < 20e6


def test_a_shard_is_written_as_its_documents_come(tmp_path):
    ids = list(range(300)) * 100

    def documents():
        for _ in range(200):  # 12 MB of tokens
            yield ids, 1

    write_tokens(tmp_path / "a.train", iter([(ids, 1)]), 320)  # what is imported and cached
    tracemalloc.start()
    assert write_tokens(tmp_path / "b.train", documents(), 320).tokens == 200 * len(ids)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_other_broken_corpora(copy, tmp_path):
    with pytest.raises(DataError, match="nowhere holds no corpus.*minillama data build"):
        open_corpus(tmp_path / "nowhere")
    (copy / "tokens" / "books.valid.json").unlink()
    with pytest.raises(DataError, match="books.valid.json does not exist"):
        open_corpus(copy)
    for content in ("{}", "[]", '{"weights": {"books": "much"}, "tokenizer_sha256": ""}'):
        (copy / "manifest.json").write_text(content)
        with pytest.raises(DataError, match="manifest.json is malformed"):
            open_corpus(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds no corpus"):
        open_corpus(copy)


@pytest.mark.parametrize("content", [b"{\n", b'{"text": "\xff"}\n'])
def test_broken_text_files_are_named(tmp_path, content):
    (tmp_path / "books.train.jsonl").write_bytes(content)
    with pytest.raises(DataError, match="books.train.jsonl is malformed"):
        list(read_documents(tmp_path / "books.train.jsonl"))
    with pytest.raises(DataError, match="gone.jsonl does not exist"):
        list(read_documents(tmp_path / "gone.jsonl"))
