"""The quality model prefers what is like its own text; the classifier tells two kinds apart."""

import math

import numpy as np
import pytest
from tiny import code, prose

from minillama.corpus.quality import Cut, ReferenceClassifier, WikipediaModel, terciles
from minillama.errors import DataError
from minillama.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    articles = [prose(seed) for seed in range(60)]
    path = tmp_path_factory.mktemp("quality") / "tokenizer.model"
    return WikipediaModel(articles, train_tokenizer(iter(articles), path, 400), order=3)


def test_text_of_the_same_kind_surprises_less_than_shuffled_words_and_code(model):
    same, shuffled, other = [], [], []
    for seed in range(200, 210):
        text = prose(seed)
        words = list(text.replace(" ", ""))
        np.random.default_rng(seed).shuffle(words)
        same.append(model.perplexity(text))
        shuffled.append(model.perplexity("".join(words)))
        other.append(model.perplexity(code(seed)))
    assert max(same) < min(other) < max(shuffled)


def test_perplexity_is_that_of_the_model_s_own_probabilities(model):
    text = prose(300, words=20)
    ids = np.array(model.tokenizer.encode(text, bos=True, eos=False))
    product = math.prod(float(p) for p in model.model.probabilities(ids))
    assert model.perplexity(text) == pytest.approx(product ** (-1 / (len(ids) - 1)))
    assert model.perplexity("") == float("inf")


def test_terciles_put_a_third_into_each_bucket():
    values = [float(v) for v in np.random.default_rng(0).permutation(300)]
    cut = terciles([*values, float("inf")])
    buckets = [cut.bucket(v) for v in values]
    assert {name: buckets.count(name) for name in set(buckets)} == {
        "head": 100, "middle": 100, "tail": 100,
    }  # fmt: skip
    assert max(v for v in values if cut.bucket(v) == "head") < min(
        v for v in values if cut.bucket(v) == "middle"
    )
    assert cut.bucket(float("inf")) == "tail" and Cut(1, 2).bucket(1) == "head"


def test_the_classifier_s_report_is_about_pages_it_did_not_see():
    # Half of the random pages are prose, like all references: at best half of what is called a
    # reference is one, and no amount of training shows that on the pages that were learned.
    references = [prose(seed) for seed in range(100)]
    random = [prose(seed) if seed % 2 else code(seed) for seed in range(1_000, 1_200)]
    report = ReferenceClassifier(references, random).report
    assert 0.25 < report.precision < 0.8
    easy = ReferenceClassifier(references, [code(seed) for seed in range(100)])
    assert easy.report.precision == easy.report.recall == 1
    assert easy.probability(prose(500)) > 0.5 > easy.probability(code(500))
    assert ReferenceClassifier(references, random).report == report  # same seed, same report


def test_too_few_pages_are_refused():
    with pytest.raises(DataError, match="too few pages"):
        ReferenceClassifier([prose(0)], [code(0)])
    with pytest.raises(DataError, match="no text to train"):
        WikipediaModel([], None)
    with pytest.raises(DataError, match="no page"):
        terciles([float("inf")])
