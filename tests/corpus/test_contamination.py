"""A benchmark's text in a document is found by 13 words in a row, not by 12."""

from tiny import prose

from minillama.corpus.contamination import Index, remove_contaminated, runs
from minillama.corpus.document import Document

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


def test_runs():
    assert len(set(runs("a b c d", 3))) == 2 and not list(runs("a b", 3))
    assert list(runs("A, b! c", 3)) == list(runs("a b c", 3))
