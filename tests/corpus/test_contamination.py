"""A benchmark's text in a document is found by 13 words in a row, not by 12."""

import pytest
from tiny import prose

from minillama.corpus.contamination import Index, remove_contaminated
from minillama.corpus.document import Document
from minillama.errors import DataError

QUESTION = "what would a very old miller do with the small boat he found under the willow"


def document(text: str, name: str = "x") -> Document:
    return Document(text, "web", "x==1", name)


def an_index() -> Index:
    index = Index()
    index.add("riddles", [QUESTION, "too short to count"])
    index.add("others", [prose(5, words=30)])
    return index


def test_thirteen_words_count_and_twelve_do_not():
    words, index = QUESTION.split(), an_index()
    for length, hits in ((12, 0), (13, 1), (len(words), len(words) - 12)):
        assert len(index.hits("Before. " + " ".join(words[-length:]) + " after")) == hits
    assert index.examples == {"riddles": 2, "others": 1}


def test_case_punctuation_and_line_ends_hide_nothing():
    text = "A story.\n" + QUESTION.upper().replace(" ", ",\n ") + "?"
    assert set(an_index().hits(text).values()) == {"riddles"}


def test_documents_that_hold_a_question_are_removed_and_counted():
    clean = [document(prose(100 + i), str(i)) for i in range(5)]
    bad = [document(prose(7) + " " + QUESTION), document(prose(5, words=30) + prose(8))]
    kept, removed = remove_contaminated([*clean, *bad], an_index())
    assert kept == clean and removed == {"riddles": 1, "others": 1}


def test_what_stands_everywhere_is_nobodys():
    everywhere = [document(f"{i} {QUESTION} {prose(50 + i)}", str(i)) for i in range(11)]
    assert remove_contaminated(everywhere, an_index())[1] == {}
    assert remove_contaminated(everywhere[:10], an_index())[1] == {"riddles": 10}


def test_counting_spelling_and_loops_are_nobodys():
    index = Index()
    index.add("code", [
        " ".join(map(str, range(30))), "one 1 two 2 three 3 four 4 five 5 six 6 7 8 9",
        "for i in range(n): for j in range(i): for k in range(j): for l in range(k): pass",
    ])  # fmt: skip
    index.add("riddles", [QUESTION])
    for number in range(30):
        assert not index.hits(" ".join(map(str, range(number, 30))))
    assert not index.hits("for i in range(n): for j in range(i): for k in range(j): for l in range")
    assert index.hits(QUESTION + " 1 2 3 4 5")


def test_an_index_is_read_back_as_it_was(tmp_path):
    index = an_index()
    index.save(tmp_path / "a.npz")
    again = Index.load(tmp_path / "a.npz")
    assert again.hits(QUESTION) == index.hits(QUESTION) and again.examples == index.examples
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(DataError, match=r"b\.npz cannot be read"):
        Index.load(tmp_path / "b.npz")
    Index().save(tmp_path / "c.npz")
    assert not Index.load(tmp_path / "c.npz").hits(QUESTION)
