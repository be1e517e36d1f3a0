"""The tokenizer that all tests of the page share."""

import pytest
from tiny import TinyCorpus

from minillama.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
