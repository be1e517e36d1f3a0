"""The full-size corpus, on a small folder in RedPajama-Data-1T's exact layout."""

import gzip
import json
import multiprocessing
import time
from collections import Counter

import pytest
from tiny import prose
from tqdm import tqdm

pytest.importorskip("datasets")

from minillama.corpus.statistics import StepStats
from minillama.corpus.token_files import open_corpus
from minillama.corpus.trace import trace
from minillama.errors import ConfigError, DataError
from minillama.paper import TABLE1
from minillama.scale import redpajama
from minillama.scale.redpajama import FOLDERS, build_full, find_files, read_redpajama, stream
from minillama.tokenizer import train_tokenizer

META = {
    "arxiv": {"arxiv_id": "0704.0001", "language": "en", "timestamp": "2007", "url": "a"},
    "book": {"short_book_title": "A Mill", "publication_date": 1900, "url": "b"},
    "c4": {"timestamp": "2019-04-25T12:57:54Z", "url": "c", "language": "en", "source": "c4"},
    "github": {"repo_name": "a/b", "license": "mit", "language": [{"name": "C", "bytes": "1"}]},
    "stackexchange": {"language": "en", "question_score": "3", "source": "stackexchange"},
    "wikipedia": {"title": "T", "url": "w", "language": "bg", "timestamp": "20230320"},
}
FILES = {
    "arxiv/arxiv_023827cd-7ee8-42e6-aa7b-661731f4c70f.jsonl": "arxiv",
    "arxiv/arxiv_024de5df-1b7f-447c-8c3a-51407d8d6732.jsonl": "arxiv",
    "book/book.jsonl": "book",
    "c4/c4-train.00000-of-01024.jsonl": "c4",
    "github/filtered_27f05c041a1c401783f90b9415e40e4b.sampled.jsonl": "github",
    "stackexchange/stackexchange.jsonl": "stackexchange",
    "wikipedia/wiki.jsonl": "wikipedia",
}
CRAWL = "common_crawl/2019-30/en_head_0000.json.gz.dedup.classifier.jsonl"
DOCUMENTS = 12


def line(text: str, meta: dict | None) -> bytes:
    """As it is published: crawled pages have no "meta"."""
    rest = {"meta": meta} if meta else {
        "pred_label": "__label__wiki", "pred_label_prob": 0.8, "wiki_prob": 0.8, "source": "cc/x",
    }  # fmt: skip
    return json.dumps({"text": text} | rest).encode() + b"\n"


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    root = tmp_path_factory.mktemp("red [pajama]*")  # no pattern of a shell
    for seed, (name, folder) in enumerate([*FILES.items(), (f"{CRAWL}.gz", "common_crawl")]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = (prose(100 * seed + i) for i in range(DOCUMENTS))
        content = b"".join(line(text, META.get(folder)) for text in texts)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return root


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer((prose(i) for i in range(20)), path, 320)
    return path


@pytest.fixture(scope="module")
def built(layout, tokenizer, tmp_path_factory):
    corpus = tmp_path_factory.mktemp("full") / "corpus"
    told = build_full(layout, tokenizer, corpus, held_out=5, budget=100_000, workers=1)
    return corpus, told


def one(folder, name="wikipedia/wiki.jsonl", content=b""):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return next(file for file in find_files(folder) if file.address == str(path))


def test_folders_are_the_slices_of_table_1(layout):
    assert sorted(FOLDERS.values()) == sorted(TABLE1)
    files = find_files(layout)
    assert Counter(f.slice for f in files) == dict.fromkeys(TABLE1, 1) | {"arxiv": 2}
    assert {f.name for f in files} == {*FILES, f"{CRAWL}.gz"}
    assert len({f.part for f in files}) == len(files)
    assert [f.number for f in files if f.slice == "arxiv"] == [0, 1]


def test_addresses_on_the_web(tmp_path):
    (tmp_path / "urls").mkdir()
    base = "https://data.example/redpajama-data-1T/v1.0.0"
    (tmp_path / "urls" / "c4.txt").write_text(f"{base}/c4/b.jsonl\n{base}/c4/a.jsonl\n")
    first, second = find_files(tmp_path)
    assert (first.address, first.name, first.number) == (f"{base}/c4/a.jsonl", "c4/a.jsonl", 0)
    assert second.slice == "c4" and second.part == "c4.part00001"
    (tmp_path / "urls" / "c4.txt").write_text("https://mirror.example/c4-train.jsonl")
    assert [file.name for file in find_files(tmp_path)] == ["https://mirror.example/c4-train.jsonl"]


def test_the_corpus_opens_like_any_other(built, layout):
    corpus, told = built
    opened = open_corpus(corpus)  # with all checksums
    assert set(opened.weights) == set(TABLE1) and sum(opened.weights.values()) == pytest.approx(1)
    tokenizer, seen = opened.tokenizer(), Counter()
    texts = {
        json.loads(row)["text"]
        for file in find_files(layout)
        for row in (gzip.open if file.name.endswith("gz") else open)(file.address, "rt")
    }
    for split in opened.files.values():
        for name, file in split.items():
            for number in range(file.n_documents):
                text = tokenizer.decode(file.document(number).tolist())
                assert text in texts
                seen[name] += 1
    assert seen == dict.fromkeys(TABLE1, DOCUMENTS) | {"arxiv": 2 * DOCUMENTS}
    assert 5 < sum(file.n_documents for file in opened.valid.values()) < 35  # one in five of 96
    assert all(name in told for name in TABLE1)


def test_every_token_can_be_traced(built, layout):
    corpus, _ = built
    opened = open_corpus(corpus)
    file = opened.train["arxiv"]
    assert len(file._shards) == 2  # one of each part
    for number in (0, file.n_documents - 1):
        told = trace(corpus, "arxiv", int(file.offsets[number]) + 3)
        source, path = told.split("\n")[0].split("  ")
        name, place = path.split("#")
        text = json.loads((layout / name).read_text().splitlines()[int(place) - 1])["text"]
        assert source == redpajama.SOURCE
        assert opened.tokenizer().decode(file.document(number).tolist()) == text
    assert name == sorted(FILES)[1]


def test_documents_of_a_part_are_shuffled_and_their_texts_with_them(built):
    corpus, _ = built
    for path in corpus.glob("text/*.train.jsonl"):
        origins = [json.loads(row) for row in path.read_text().splitlines()]
        assert [row["id"] for row in origins] == sorted(row["id"] for row in origins)
        places = [int(row["path"].rsplit("#")[1]) for row in origins]
        assert places != sorted(places) and len(set(places)) == len(places)


def test_counts_by_slice(built):
    corpus, _ = built
    told = json.loads((corpus / "manifest.json").read_text())["slices"]
    for name, entry in told.items():
        assert entry["documents_in"] == DOCUMENTS * (2 if name == "arxiv" else 1)
        assert entry["bytes_in"] > sum(entry[split]["bytes"] for split in ("train", "valid"))
        assert entry["dropped"] == {}


def test_interrupted_builds_go_on(layout, tokenizer, tmp_path, monkeypatch):
    """Parts that are there are not read again, and the corpus is the same to the byte."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"slices": ("arxiv", "c4"), "held_out": 5, "workers": 1}
    build_full(layout, tokenizer, whole, **settings)
    read, real = [], redpajama.stream

    def failing(address):
        if len(read) == 2:
            yield next(real(address))
            raise KeyboardInterrupt
        read.append(address)
        yield from real(address)

    monkeypatch.setattr(redpajama, "stream", failing)
    with pytest.raises(KeyboardInterrupt):
        build_full(layout, tokenizer, broken, **settings)
    tqdm._instances.clear()
    assert not [path for path in broken.rglob("*") if path.name.endswith(".tmp")]
    with pytest.raises(DataError, match="holds no corpus"):
        open_corpus(broken)
    monkeypatch.setattr(redpajama, "stream", lambda address: read.append(address) or real(address))
    build_full(layout, tokenizer, broken, **settings)
    assert len(read) == len(set(read)) == 3
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    assert names == [p.relative_to(broken) for p in sorted(broken.rglob("*")) if p.is_file()]
    assert all((whole / name).read_bytes() == (broken / name).read_bytes() for name in names)


def test_a_killed_build_leaves_nothing_half_written(layout, tokenizer, tmp_path, monkeypatch):
    real, place = redpajama.stream, tmp_path / "c"
    settings = {"slices": ("arxiv",), "held_out": 5, "workers": 1}

    def slow(address):
        lines = real(address)
        yield next(lines)
        if "024de5df" in address:
            (tmp_path / "reached").touch()
            time.sleep(60)
        yield from lines

    monkeypatch.setattr(redpajama, "stream", slow)
    child = multiprocessing.get_context("fork").Process(
        target=build_full, args=(layout, tokenizer, place), kwargs=settings
    )
    child.start()
    while not (tmp_path / "reached").exists():
        time.sleep(0.02)
    child.kill()
    child.join()
    assert list(place.rglob(".*.tmp")) and not (place / "manifest.json").exists()
    assert [p.name for p in place.rglob("arxiv.part?????.json")] == ["arxiv.part00000.json"]
    assert not [p for p in place.rglob("arxiv.part00001*") if not p.name.startswith(".")]
    monkeypatch.setattr(redpajama, "stream", real)
    build_full(layout, tokenizer, place, **settings)
    build_full(layout, tokenizer, tmp_path / "whole", **settings)
    for path in (p for p in (tmp_path / "whole").rglob("*") if p.is_file()):
        assert path.read_bytes() == (place / path.relative_to(tmp_path / "whole")).read_bytes()
    assert not list(place.rglob(".*.tmp"))


def test_another_tokenizer_reads_all_again(layout, tokenizer, tmp_path):
    build_full(layout, tokenizer, tmp_path / "c", ("books",), workers=1)
    before = open_corpus(tmp_path / "c").train["books"].tokens
    other = tmp_path / "other.model"
    train_tokenizer((prose(i) for i in range(20)), other, 400)
    build_full(layout, other, tmp_path / "c", ("books",), workers=1)
    assert open_corpus(tmp_path / "c").train["books"].tokens < before


def test_workers_change_nothing(built, layout, tokenizer, tmp_path):
    build_full(layout, tokenizer, tmp_path / "c", ("arxiv",), held_out=5, workers=2)
    for path in (tmp_path / "c" / "tokens").iterdir():
        assert path.read_bytes() == (built[0] / "tokens" / path.name).read_bytes()


def test_bad_lines_are_counted_and_the_rest_is_read(tmp_path, monkeypatch):
    good = [line(prose(i), META["wikipedia"]) for i in range(3)]
    bad = [
        b'{"text": "cut sho\n', b"\n", b'{"text": "\xff\xfe", "meta": {}}\n', b"[1]\n", b"null\n",
        b'{"meta": {"language": "en"}}\n', b'{"text": 7, "meta": {}}\n',
        line("x" * 20_000, META["wikipedia"]), line("short", META["wikipedia"]),
        *(line(prose(9), META["wikipedia"] | {"language": code}) for code in ("ja", "pl", None)),
    ]  # fmt: skip
    monkeypatch.setattr(redpajama, "MAX_LINE", 10_000)
    content = b"".join([good[0], *bad[:5], good[1], *bad[5:], good[2]])
    file, row = one(tmp_path, content=content), StepStats("read")
    kept = list(read_redpajama(file, row))
    assert [d.text for d in kept] == [prose(0), prose(1), prose(9), prose(2)]
    assert [d.path for d in kept] == [f"wikipedia/wiki.jsonl#{n}" for n in (1, 7, 13, 15)]
    assert row.dropped == {
        "not JSON": 2, "not UTF-8": 1, "without a text": 4, "too long a line": 1, "too short": 1,
        "another language": 2,
    }  # fmt: skip
    assert row.documents_in == 15 and row.documents_out == 4


def test_a_text_keeps_its_characters(tmp_path):
    """Line ends of other systems and scripts inside a text are no line ends of the file."""
    text = "a\u2028b\x85c\r\nd Лама \N{LLAMA}" * 20
    raw = json.dumps({"text": text, "meta": META["wikipedia"]}, ensure_ascii=False).encode()
    half = json.dumps({"text": "\ud800" + text, "meta": META["wikipedia"]}).encode()
    file = one(tmp_path, content=raw + b"\n" + half + b"\n")
    assert [d.text for d in read_redpajama(file, StepStats(""))] == [text, "?" + text]


def test_meta_as_a_string(tmp_path):
    """The data set's own loading script gives it as one."""
    record = {"text": prose(1), "meta": json.dumps(META["wikipedia"]), "red_pajama_subset": "x"}
    file = one(tmp_path, content=json.dumps(record).encode())
    assert [d.text for d in read_redpajama(file, StepStats(""))] == [prose(1)]


def test_a_file_that_breaks_off(tmp_path):
    content = b"".join(line(prose(i), META["c4"]) for i in range(2_000))
    whole = gzip.compress(content)
    file, row = one(tmp_path, "c4/a.jsonl.gz", whole[: len(whole) // 2]), StepStats("read")
    for _ in read_redpajama(file, row):
        pass
    assert list(row.dropped) == ["the file breaks off (EOFError)"]


def test_zstandard_as_the_crawl_is_published(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    content = b"".join(line(prose(i), None) for i in range(3))
    packed = zstandard.ZstdCompressor().compress(content)
    [file] = [one(tmp_path, f"{CRAWL}.zst", packed)]
    found = list(read_redpajama(file, StepStats("")))
    assert [d.text for d in found] == [prose(0), prose(1), prose(2)]
    assert {d.slice for d in found} == {"commoncrawl"}
    assert found[2].path == f"{CRAWL}.zst#3"


def test_streaming_reads_no_more_than_it_must(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"text": "%d"}\n' % i for i in range(5)))
    lines = stream(str(path))
    assert next(lines) == b'{"text": "0"}' and len(list(lines)) == 4


def test_wrong_folders_and_settings(tmp_path, layout, tokenizer):
    with pytest.raises(DataError, match="none of RedPajama's folders"):
        build_full(tmp_path, tokenizer, tmp_path / "c")
    with pytest.raises(ConfigError, match="Did you mean 'books'"):
        build_full(layout, tokenizer, tmp_path / "c", ("book5",))
    with pytest.raises(ConfigError, match="above 0"):
        build_full(layout, tokenizer, tmp_path / "c", max_files=0)
    with pytest.raises(DataError, match="does not exist"):
        build_full(layout, tmp_path / "none.model", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    one(tmp_path, "c4/a.jsonl", b"nothing\n")
    with pytest.raises(DataError, match="no document that can be kept"):
        build_full(tmp_path, tokenizer, tmp_path / "c", workers=1)
