"""Section 2.1's tokenizer: BPE, single digits, bytes for the rest, and nothing ever lost."""

import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import WORDS, code, prose

from minillama.errors import DataError
from minillama.tokenizer import LINE_BYTES, SPACE, Tokenizer, train_tokenizer

TEXTS = [prose(i) for i in range(40)] + [code(i) for i in range(10)]
ODD = ["", " ", "  two", "end ", "\n", "a\r\nb\n", "\t", "\0", "a\0b", SPACE, f"{SPACE}x {SPACE}",
       f"\0{SPACE}\0", "<s>", "</s><unk>", "<0x41>", "\U0010fffd", "\ufeffx",
       "مرحبا بالعالم", "👩‍👩‍👧‍👦🏳️‍🌈",
       "é vs e\u0301", "ﬁ ① Å", "\u2028\x85\x1c", "\u200b\u00a0", "２０２３",
       "x" * 9_999]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("t") / "tokenizer.model", 380)


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_come_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(2 < i < 380 for i in ids)  # no control piece, and never <unk>


def test_any_text_comes_back(tokenizer):
    alphabet = st.characters(codec="utf-8") | st.sampled_from(
        [*"\0\u2581 <>s/019\n\u200d\U0001f600م", "\ufffd"]
    )

    @settings(max_examples=500, deadline=None)
    @given(st.text(alphabet) | st.text(st.characters(categories=["Cc", "Cf", "So", "Co", "Cn"])))
    @example(SPACE)
    def comes_back(text):
        ids = tokenizer.encode(text, bos=True, eos=True)
        assert (ids[0], ids[-1]) == (1, 2)
        assert tokenizer.decode(ids) == tokenizer.decode(ids[1:-1]) == text

    comes_back()


@pytest.mark.parametrize("unit", ["x", "no blank 12 ", "ض", "😀", "\0", SPACE, f"a{SPACE}\0"])
def test_megabyte_lines(tokenizer, unit):
    text = unit * (2**20 // len(unit.encode()))
    began = time.perf_counter()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.perf_counter() - began < 30


def test_numbers_are_split_into_digits(tokenizer):
    ids = tokenizer.encode("1234567890 and 2023")
    digits = [i for i in ids if any(c in tokenizer.piece_bytes[i] for c in b"0123456789")]
    assert len(digits) == 14
    assert all(len(tokenizer.piece_bytes[i].strip()) == 1 for i in digits)


def test_no_piece_holds_two_digits_even_where_numbers_abound(tmp_path):
    texts = [f"on {i} and {i * 37} of {i % 100}" for i in range(1000, 1800)]
    learned = train_tokenizer(texts, tmp_path / "t.model", 285)
    held = [piece for piece in learned.piece_bytes if sum(chr(b).isdigit() for b in piece) > 1]
    assert not held


def test_unknown_characters_fall_back_to_their_bytes(tokenizer):
    ids = tokenizer.encode("ض")
    assert [tokenizer.piece_bytes[i] for i in ids[1:]] == [b"\xd8", b"\xb6"]
    assert tokenizer.piece_bytes[ids[0]] == b" "


def test_marks_typed_as_text_are_text(tokenizer):
    for mark in ("<s>", "</s>", "<unk>", "<0x0A>"):
        ids = tokenizer.encode(mark)
        assert not {0, 1, 2} & set(ids)
        assert tokenizer.decode(ids) == mark


def test_training_on_marks_does_not_confuse_them(tmp_path):
    learned = train_tokenizer(["<s> struck </s> <unk> <0x41>"] * 200 + TEXTS, tmp_path / "m", 340)
    assert not {0, 1, 2} & set(learned.encode("<s></s><unk>"))
    assert learned.decode(learned.encode("<s>")) == "<s>"


def test_ids_that_are_no_text(tokenizer):
    assert tokenizer.decode(tokenizer.encode("ض")[1:2]) == "\ufffd"
    assert tokenizer.decode([1, 2]) == ""
    for bad in (380, -1, 10**9):
        with pytest.raises(DataError, match="380"):
            tokenizer.decode([bad])


def test_lone_surrogates_are_refused(tokenizer):
    with pytest.raises(DataError, match="no valid Unicode"):
        tokenizer.encode("a\ud800b")


def test_control_pieces(tokenizer):
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.vocab_size == 380
    assert len(tokenizer.encode("the old miller")) < 0.6 * len("the old miller")  # it has learned


def test_training_is_deterministic(tmp_path, tokenizer):
    again = train_tokenizer(iter(TEXTS), tmp_path / "again.model", 380)
    assert again.model == tokenizer.model == (tmp_path / "again.model").read_bytes()


def test_saved_and_loaded(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "new" / "t.model")
    assert Tokenizer.load(tmp_path / "new" / "t.model").encode(TEXTS[0]) == tokenizer.encode(
        TEXTS[0]
    )


def test_long_lines_are_trained_on(tmp_path):
    """Lines beyond SentencePiece's limit are cut, not silently left out."""
    line = " ".join(random.Random(0).choices(WORDS, k=LINE_BYTES))
    learned = train_tokenizer([line], tmp_path / "t.model", 320)
    assert b" miller" in learned.piece_bytes or b"ill" in learned.piece_bytes


@pytest.mark.parametrize("size", [10, 100_000])
def test_impossible_vocabularies_are_refused(tmp_path, size):
    with pytest.raises(DataError, match=f"no vocabulary of {size} pieces"):
        train_tokenizer(TEXTS, tmp_path / "t.model", size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("texts", [[], [""], ["\n \n"], ["\0"]])
def test_no_text(tmp_path, texts):
    with pytest.raises(DataError, match="no text to train the tokenizer on"):
        train_tokenizer(texts, tmp_path / "t.model", 300)


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 100, b"\x0a\xff\xff\xff\xff"])
def test_files_that_are_no_model(tmp_path, content):
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(DataError, match="t.model is not a SentencePiece model"):
        Tokenizer.load(tmp_path / "t.model")


def test_missing_and_truncated_models(tmp_path, tokenizer):
    with pytest.raises(DataError, match="gone.model does not exist"):
        Tokenizer.load(tmp_path / "gone.model")
    (tmp_path / "t.model").write_bytes(tokenizer.model[:1000])
    with pytest.raises(DataError, match="t.model is not a SentencePiece model"):
        Tokenizer.load(tmp_path / "t.model")
