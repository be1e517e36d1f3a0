"""What may be in the corpus: no package above its share, and no text twice in other clothes."""

from hypothesis import given
from hypothesis import strategies as st
from tiny import prose

from minillama.corpus.document import Document
from minillama.corpus.split import (
    Entry,
    drop_near_duplicates,
    sample_runs,
    source_limit,
    thin_sources,
)
from minillama.corpus.statistics import StepStats


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
