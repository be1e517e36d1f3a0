"""The mixture against arithmetic by hand.

Table 1 has CommonCrawl 67.0, C4 15.0, Github 4.5, Wikipedia 4.5, Books 4.5, ArXiv 2.5 and
StackExchange 2.0 percent.
"""

import pytest

from minillama.corpus.mixture import epochs, mixture
from minillama.errors import ConfigError


def test_the_whole_mixture_is_table_1():
    names = ["stackexchange", "c4", "commoncrawl", "arxiv", "books", "github", "wikipedia"]
    weights = mixture(names)
    assert list(weights) == ["commoncrawl", "c4", "github", "wikipedia", "books", "arxiv",
                             "stackexchange"]  # fmt: skip
    assert list(weights.values()) == pytest.approx([0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02])


@pytest.mark.parametrize(
    "present, by_hand",
    [
        (["books"], {"books": 1}),
        (["books", "github"], {"github": 1 / 2, "books": 1 / 2}),
        (["c4", "books"], {"c4": 15 / 19.5, "books": 4.5 / 19.5}),
        (["c4", "github", "books", "mytexts"],
         {"c4": 0.9 * 15 / 24, "github": 0.9 * 4.5 / 24, "books": 0.9 * 4.5 / 24, "mytexts": 0.1}),
        (["mytexts"], {"mytexts": 1}),
        (["any_data_set"], {"any_data_set": 1}),
    ],
)  # fmt: skip
def test_shares_are_renormalized_over_what_is_present(present, by_hand):
    weights = mixture(present)
    assert weights == pytest.approx(by_hand)
    assert list(weights) == list(by_hand)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-12)


def test_mixtures_that_make_no_sense():
    with pytest.raises(ConfigError, match=r"unknown slices \['boks'\]"):
        mixture(["books", "boks"])
    for share in (0, 1.1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="own_share"):
            mixture(["books", "mytexts"], share)


def test_texts_of_the_users_own_can_be_all():
    assert mixture(["books", "mytexts"], 1.0) == {"mytexts": 1.0}


def test_epochs_by_hand():
    read = epochs({"c4": 0.75, "books": 0.25}, {"c4": 3_000, "books": 100}, 2_000)
    assert read == {"c4": 0.5, "books": 5.0}
