"""What may be in the corpus: no package above its share, and no text twice in other clothes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import prose

from minillama.corpus.deduplicate import HashSet
from minillama.corpus.document import Document
from minillama.corpus.split import (
    Entry,
    cap,
    deduplicate,
    drop_near_duplicates,
    sample_runs,
    source_limit,
    split,
    thin_sources,
)
from minillama.corpus.statistics import StepStats
from minillama.corpus.token_files import SPLITS


def documents(texts, slice_name="books"):
    return [Document(text, slice_name, "tales==1.0", f"{i}.txt") for i, text in enumerate(texts)]


def entry(text, source="tales==1.0", at=0):
    document = Document(text, "books", source, "x")
    return Entry(document.key, document.size, at, source, sample_runs(text), {})


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=12),
    st.floats(0.05, 0.95),
)
def test_after_the_cut_no_source_is_above_its_share(sizes, share):
    limit = source_limit(sizes, share)
    cut = [min(size, limit) for size in sizes]
    assert limit == float("inf") or max(cut) <= share * sum(cut) * (1 + 1e-9)
    # and no more is cut than must be: those above the limit are just at the share
    if limit != float("inf") and max(sizes) > limit:
        assert abs(max(cut) - share * sum(cut)) <= 1e-6 * max(cut)


def test_a_large_source_is_thinned_and_the_others_stay():
    large = [entry(prose(i, 60), "large==1.0") for i in range(600)]
    small = [entry(prose(1_000 + i, 60), f"small{i % 4}==1.0") for i in range(400)]
    stats = StepStats("limit")
    kept = list(thin_sources(large + small, 0.4, stats))
    of_large = sum(e.size for e in kept if e.source == "large==1.0")
    assert 0.35 < of_large / sum(e.size for e in kept) < 0.45
    assert sum(e.source != "large==1.0" for e in kept) == 400
    assert sum(stats.dropped.values()) == 1_000 - len(kept)
    first = sorted(kept, key=lambda e: e.key)[: len(kept) // 10]  # what would be held out
    assert 0.2 < sum(e.source == "large==1.0" for e in first) / len(first) < 0.6


def test_pages_of_a_book_that_was_met_whole_go_and_so_does_a_book_met_in_pages():
    book = " ".join(prose(i, 120) for i in range(40))
    words = book.split(" ")
    pages = [" ".join(words[i : i + 800]) for i in range(0, len(words), 800)]
    other = " ".join(prose(5_000 + i, 120) for i in range(40))
    for first, then in ((book, pages), (other, [other.upper().replace(" ", "\n")])):
        stats, seen = StepStats("near"), set()
        kept = list(drop_near_duplicates([entry(first), *map(entry, then)], stats, seen))
        assert len(kept) == 1 and sum(stats.dropped.values()) == len(then)
    stats, seen = StepStats("near"), set()
    kept = list(drop_near_duplicates([*map(entry, pages), entry(book), entry(other)], stats, seen))
    assert len(kept) == len(pages) + 1


def test_a_short_text_is_never_judged():
    stats, seen = StepStats("near"), set()
    short = "the same few words " * 3
    assert len(list(drop_near_duplicates([entry(short), entry(short + "!")], stats, seen))) == 2


def test_equal_texts_are_kept_once_whatever_their_spacing_case_and_unicode_form():
    texts = ["The Miller é", "another", "the  miller\ne\u0301 ", "THE MILLER É", "the miller e"]
    row = StepStats("")
    kept = deduplicate(documents(texts), row, HashSet())
    assert [d.text for d in kept] == ["The Miller é", "another", "the miller e"]
    assert row.documents_in == 5 and row.documents_out == 3
    assert row.dropped == {"exact duplicate": 2}


def test_a_text_is_kept_in_one_slice_only():
    seen, row = HashSet(), StepStats("")
    list(deduplicate(documents(["one", "two"]), StepStats(""), seen))
    kept = deduplicate(documents(["two", "three"], "c4"), row, seen)
    assert [d.text for d in kept] == ["three"]
    assert row.dropped == {"exact duplicate": 1}


def test_the_limit_takes_whole_documents_and_counts_the_rest():
    row = StepStats("")
    pool = documents([prose(i) for i in range(20)])
    size = sum(d.size for d in pool)
    for limit in (size // 2, size // 9):  # less, and more, than is held at once
        row = StepStats("")
        chosen = cap(pool, limit, row)
        assert 0.6 * limit < sum(d.size for d in chosen) == row.bytes_out <= limit
        assert row.dropped["over the slice's limit"] == 20 - len(chosen)
        assert cap(pool[::-1], limit, StepStats("")) == chosen  # whatever order they come in
    assert len(cap(pool, size, StepStats(""))) == 20


def test_a_document_beyond_the_limit_does_not_stop_the_others():
    pool = documents([prose(0, 2_000), *(prose(i) for i in range(1, 8))])
    assert len(cap(pool, pool[0].size - 1, StepStats(""))) == 7


def held(pool):
    parts = split(pool)
    return {d.text for d in parts["valid"] + parts["test"]}


def test_the_split_is_a_partition_of_about_three_percent():
    pool = documents([prose(i) for i in range(1_000)])
    parts = split(pool)
    assert sorted(d.path for part in parts.values() for d in part) == sorted(d.path for d in pool)
    whole = sum(len(d.text) for d in pool)
    for name in ("valid", "test"):
        assert 0.03 <= sum(len(d.text) for d in parts[name]) / whole < 0.035


def test_the_split_depends_on_the_texts_alone():
    pool = documents([prose(i) for i in range(200)])
    elsewhere = [replace(d, path=f"new/{d.path}", source="tales==2.0") for d in pool[::-1]]
    assert held(pool) == held(elsewhere)


def test_adding_documents_moves_few_others():
    """Nearly all held-out documents stay held out: new ones come in among them by their keys."""
    old = documents([prose(i) for i in range(1_000)])
    new = documents([prose(i) for i in range(5_000, 5_100)])
    before, after = held(old), held(old + new) & {d.text for d in old}
    assert len(before & after) >= 0.8 * len(before)
    assert len(before ^ after) <= 0.01 * len(old)


@pytest.mark.parametrize(
    "sizes, held_out", [([500], 0), ([500, 400], 0), ([9_000] + [300] * 40, 3)]
)
def test_few_or_uneven_documents(sizes, held_out):
    pool = documents([prose(i, size // 5) for i, size in enumerate(sizes)])
    valid = split(pool)["valid"]
    assert len(valid) == held_out
    assert not valid or len(valid[0].text) < 2_500  # never the giant
    assert split([]) == dict.fromkeys(SPLITS, [])
