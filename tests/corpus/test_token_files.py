"""Token files: what is written is read back, and every kind of damage is found and named."""

import json
import shutil

import numpy as np
import pytest

from minillama.corpus import token_files
from minillama.corpus.token_files import TokenFile, open_corpus, read_documents, write_tokens
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
        with pytest.raises(DataError, match=f"{name} is damaged"):
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
            open_corpus(copy)
        (copy / name).write_bytes(whole)
    assert len(victims) == 7
    open_corpus(copy)


def test_the_fingerprint_is_of_the_tokens_not_of_the_code_that_made_them(copy):
    def fingerprint(path, **changes):
        before = json.loads(path.read_text())
        path.write_text(json.dumps(before | changes))
        found = open_corpus(copy, verify=False).fingerprint
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
