"""fastText's language identification on real text of the pinned packages: two dumps, dialogues."""

import bz2
import io
import zipfile
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from minillama.corpus.archive import read_members
from minillama.corpus.language import (
    MAX_CHARACTERS,
    MEMBER,
    PACKAGE,
    THRESHOLD,
    WIKIPEDIA_LANGUAGES,
    LanguageModel,
)  # fmt: skip
from minillama.corpus.sources import load_sources
from minillama.corpus.wikipedia import articles, clean_wikitext
from minillama.errors import DataError

DOWNLOADS, SOURCES = ROOT / "data" / "downloads", ROOT / "data" / "sources.toml"
FOLDERS = {
    "dutch": "nl", "english": "en", "french": "fr", "german": "de", "italian": "it",
    "portuguese": "pt", "russian": "ru", "spanish": "es", "swedish": "sv", "ukrainian": "uk",
}  # fmt: skip
"""ChatterBot's folders in languages of the paper."""
UNTRANSLATED = "chatterbot_corpus/data/swedish/conversations.yml"


def archive(name: str) -> Path:
    return next(source for source in load_sources(SOURCES) if source.name == name).find(DOWNLOADS)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.find(DOWNLOADS, SOURCES)


def test_the_paper_has_20_languages():
    """Section 2.1's list, of which only bg, ru, sr and uk are in Cyrillic script."""
    assert len(WIKIPEDIA_LANGUAGES) == len(set(WIKIPEDIA_LANGUAGES)) == 20
    assert sorted(WIKIPEDIA_LANGUAGES) == list(WIKIPEDIA_LANGUAGES)


def test_dumps_of_two_wikipedias(model):
    found = {}
    for path, content in read_members(archive("gensim"), ["*wiki-latest-pages-articles*.bz2"]):
        with bz2.open(io.BytesIO(content)) as dump:
            pages = [text for _, (_, text) in zip(range(10), articles(dump), strict=False)]
        texts = [text for text in map(clean_wikitext, pages) if len(text) > 200]
        found[path.split("/")[-1][:2]] = {model.guess(text) for text in texts}
    assert set(found) == {"bg", "en"}
    for language, guesses in found.items():
        assert guesses and {guess.language for guess in guesses} == {language}
        assert min(guess.probability for guess in guesses) > 0.5


def test_dialogues_in_ten_languages(model):
    """Every file is in its folder's language but one, which nobody has translated."""
    wrong = []
    for folder, language in FOLDERS.items():
        for path, content in read_members(archive("chatterbot-corpus"), [f"*/{folder}/*.yml"]):
            turns = yaml.safe_load(content)["conversations"]
            guess = model.guess("\n".join(str(part) for turn in turns for part in turn))
            assert guess.probability > THRESHOLD
            if guess.language != language:
                wrong.append((path, guess.language))
    assert wrong == [(UNTRANSLATED, "en")]


def test_other_scripts_are_in_no_language_of_the_paper(model):
    for path, content in read_members(archive("chatterbot-corpus"), ["*/hindi/*", "*/japanese/*"]):
        assert not model.is_in(content.decode("utf-8"), WIKIPEDIA_LANGUAGES), path


@pytest.mark.parametrize("text", ["", " \n ", "1234 + 5678", "* * *", "\N{LLAMA}"])
def test_texts_without_letters(model, text):
    assert model.guess(text) == ("", 0.0)
    assert not model.is_in(text, WIKIPEDIA_LANGUAGES, 0.0)


@pytest.mark.parametrize("text", ["a", "\N{OHM SIGN}", "x\0y", "\ud800 lone", "a" * 100_000])
def test_odd_texts_have_a_probability(model, text):
    assert 0 <= model.guess(text).probability <= 1


def test_line_ends_do_not_matter(model):
    text = "The llama is a domesticated camelid.\nIt lives in the Andes.\r\n\tIt eats grass."
    assert model.guess(text) == model.guess(" ".join(text.split()))


def test_only_the_beginning_is_read(model):
    english = "The llama is a domesticated South American camelid. "
    begin = (english * MAX_CHARACTERS)[:MAX_CHARACTERS]
    assert model.guess(begin + "Лама живее в Андите. " * 5000) == model.guess(begin)


def test_a_threshold_is_inclusive(model):
    text = "Das Lama lebt in den Anden."
    probability = model.guess(text).probability
    assert model.is_in(text, ("de",), probability) and not model.is_in(text, ("en",), 0.0)
    assert not model.is_in(text, ("de",), probability + 1e-6)


def test_a_damaged_model_is_named():
    with pytest.raises(DataError, match="language model is damaged"):
        LanguageModel(b"no model at all")


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="Run `minillama data fetch`"):
        LanguageModel.find(tmp_path, SOURCES)
    listed = tmp_path / "sources.toml"
    listed.write_text("source = []\n")
    with pytest.raises(DataError, match=f"names no {PACKAGE}"):
        LanguageModel.find(DOWNLOADS, listed)


def test_the_model_is_in_the_pinned_wheel():
    with zipfile.ZipFile(archive(PACKAGE)) as wheel:
        assert wheel.getinfo(MEMBER).file_size < 2**20  # the quantized one: 0.9 MB, not 126


def test_the_temporary_file_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    LanguageModel.find(DOWNLOADS, SOURCES)
    assert not list(tmp_path.iterdir())
