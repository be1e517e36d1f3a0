"""``AutoTokenizer`` loads the exported folder and cuts text as our tokenizer does."""

import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyCorpus, code, prose, python
from transformers import AutoTokenizer

from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.interop import huggingface
from minillama.interop.tokenizer_json import fast_tokenizer, merge_rules
from minillama.interop.vocabulary import read_pieces
from minillama.model import Llama
from minillama.tokenizer import SPACE, Tokenizer

TEXTS = [
    "", " ", "   ", "a", " a", "a ", "  two  spaces  ", "\n", "\n\n river\n", "tab\tand\r\n", "0",
    "1066 12.50 007", "<s>", "</s>", "a <s> b</s><unk>", "<0x41>", "<0x0A>", "żółw", "🐢🐢 boat",
    "👩\u200d👩\u200d👧", "ﬁ ① Å e\u0301", "\0", "a\0b", "\ufeffx", "\U0010fffd", "x" * 50,
    "ab" * 30, " " * 37 + "lamp", prose(1), code(2),
]  # fmt: skip


@pytest.fixture(scope="module")
def ours(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


@pytest.fixture(scope="module")
def folder(ours, tmp_path_factory) -> Path:
    model = Llama(ModelConfig(dim=8, n_layers=1, n_heads=1, vocab_size=320, max_seq_len=64))
    return huggingface.save(model, ours, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def theirs(folder):
    return AutoTokenizer.from_pretrained(folder)


def check(text: str, ours: Tokenizer, theirs) -> None:
    """Same ids, with the mark before them; the text comes back."""
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs(text)["input_ids"] == [1, *ids]
    assert theirs.decode(ids) == text == ours.decode(ids)
    assert theirs.decode([1, *ids, 2], skip_special_tokens=True) == text


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts(text, ours, theirs):
    check(text, ours, theirs)


@settings(deadline=None, max_examples=300)
@given(st.text().filter(lambda text: SPACE not in text))
def test_any_text(ours, theirs, text):
    check(text, ours, theirs)


@settings(deadline=None, max_examples=300)
@given(st.text("ab er\n0<s>/", max_size=60))
def test_text_in_which_many_merges_compete(ours, theirs, text):
    check(text, ours, theirs)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(259, 319), max_size=30))
def test_any_pieces_are_decoded_alike(ours, theirs, ids):
    assert theirs.decode(ids) == ours.decode(ids)


def test_a_visible_blank_is_a_space_in_the_file_and_itself_here(ours, theirs):
    """The one difference, said in the module: no vocabulary with visible blanks can tell them."""
    assert theirs.encode(f"a{SPACE}b") == theirs.encode("a b")
    assert ours.encode(f"a{SPACE}b") != ours.encode("a b")


def test_the_vocabulary_and_the_marks(folder, ours, theirs):
    processor = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    assert theirs.get_vocab() == {processor.id_to_piece(i): i for i in range(320)}
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)
    assert theirs.model_max_length == 64
    marks = json.loads((folder / "special_tokens_map.json").read_text())
    assert marks == {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def test_merges_make_pieces_and_the_best_comes_first(ours):
    processor = sentencepiece.SentencePieceProcessor(model_proto=ours.model)
    rules = merge_rules(read_pieces(ours))
    scores = [processor.get_score(processor.piece_to_id(left + right)) for left, right in rules]
    assert scores == sorted(scores, reverse=True)
    unions = {left + right for left, right in rules}
    normal = {processor.id_to_piece(i) for i in range(259, 320)}
    assert unions == {piece for piece in normal if len(piece) > 1}


NEITHER = """
import sys
sys.modules["sentencepiece"] = sys.modules["google.protobuf"] = None  # importing them fails
from transformers import AutoTokenizer
print(AutoTokenizer.from_pretrained(sys.argv[1])("a small boat 12")["input_ids"])
"""


def test_neither_sentencepiece_nor_protobuf_is_needed(folder, ours):
    done = python("-c", NEITHER, str(folder))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ours.encode("a small boat 12", bos=True)


@pytest.mark.parametrize("settings, said", [
    ({"model_type": "bpe"}, "normalizes text"),
    ({"model_type": "unigram", "normalization_rule_name": "identity",
      "remove_extra_whitespaces": False}, "no BPE"),
])  # fmt: skip
def test_another_kind_of_tokenizer_is_refused(settings, said, tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([prose(i) for i in range(20)]), model_prefix=str(tmp_path / "other"),
        vocab_size=320, byte_fallback=True, minloglevel=2, **settings,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        fast_tokenizer(Tokenizer.load(tmp_path / "other.model"))
