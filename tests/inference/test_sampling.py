"""Sampling against plain Python, and by counting what is drawn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillama.errors import ConfigError, DataError
from minillama.inference import Sampling


def choose(sampling: Sampling, logits: torch.Tensor, generator: torch.Generator, seen=()) -> int:
    """One draw of one row."""
    [token] = sampling.choose_each(logits[None], [generator], [seen])
    return token


def by_hand(logits: list[float], temperature: float, top_k: int | None, top_p: float | None):
    """Token ids and probabilities, by loops."""
    top = max(logits)
    weights = [math.exp((x - top) / temperature) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda i: -weights[i])[:top_k]
    total = sum(weights[i] for i in ranked)
    kept, before = {}, 0.0
    for i in ranked:
        if top_p is not None and before > top_p:
            break
        kept[i] = weights[i]
        before += weights[i] / total
    return {i: weight / sum(kept.values()) for i, weight in kept.items()}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-200, 200).map(lambda n: n / 10), min_size=1, max_size=30, unique=True),
    st.floats(0.1, 5.0), st.none() | st.integers(1, 40), st.none() | st.floats(0, 1),
)  # fmt: skip
def test_candidates_are_those_of_the_loop(logits, temperature, top_k, top_p):
    sampling = Sampling(temperature, top_k, top_p)
    p, ids = sampling.candidates(torch.tensor(logits, dtype=torch.float64))
    expected = by_hand(logits, temperature, top_k, top_p)
    ours = dict(zip(ids.tolist(), p.tolist(), strict=True))
    border = 1e-9  # a token so unlikely may fall on either side of the line
    for i in ours.keys() | expected.keys():
        assert ours.get(i, 0) == pytest.approx(expected.get(i, 0), abs=border)


def test_top_p_keeps_the_token_that_crosses_the_line():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    for top_p, kept in {0: [1], 0.4: [1], 0.6: [1, 2], 0.81: [1, 2, 0], 1: [1, 2, 0]}.items():
        assert Sampling(1.0, None, top_p).candidates(logits)[1].tolist() == kept


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    random, sampling = torch.Generator().manual_seed(0), Sampling(1.0, None, None)
    drawn = [choose(sampling, logits, random) for _ in range(4000)]
    for i, p in enumerate((0.1, 0.6, 0.3)):
        assert drawn.count(i) / 4000 == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))


@pytest.mark.parametrize("sampling", [
    Sampling(0.0), Sampling(1.0, top_k=1), Sampling(1.0, top_p=0.0), Sampling(1e-30, None, None),
    Sampling(5e-324, None, None),
], ids=str)  # fmt: skip
def test_greedy_in_every_way_it_can_be_said(sampling):
    random = torch.Generator().manual_seed(0)
    for seed in range(20):
        logits = torch.randn(30, generator=torch.Generator().manual_seed(seed))
        assert choose(sampling, logits, random) == int(logits.argmax())


@pytest.mark.parametrize("change", [
    {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": 0},
    {"top_p": -0.1}, {"top_p": 1.1}, {"top_p": math.nan}, {"repetition_penalty": 0.0},
    {"repetition_penalty": math.nan}, {"repetition_penalty": math.inf},
], ids=str)  # fmt: skip
def test_impossible_settings_are_named(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Sampling(**change)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_diverged_model_is_an_error(bad, temperature):
    with pytest.raises(DataError, match="not finite"):
        choose(Sampling(temperature), torch.tensor([0.0, bad, 1.0]), torch.Generator())


def test_a_token_that_is_ruled_out_is_never_drawn():
    logits = torch.tensor([0.0, -math.inf, 0.0])
    random, sampling = torch.Generator().manual_seed(0), Sampling(1.0, None, None)
    assert {choose(sampling, logits, random) for _ in range(100)} == {0, 2}


def test_only_as_many_as_are_needed_are_sorted():
    """The tail beyond the likeliest 1024 counts, and is reached when they do not hold top_p."""
    random = torch.Generator().manual_seed(0)
    for scale, top_p in ((0.1, 0.9), (8.0, 0.9), (0.1, None), (0.1, 1.0)):
        logits = scale * torch.randn(3000, generator=random, dtype=torch.float64)
        p, ids = Sampling(0.9, None, top_p).candidates(logits)
        expected = by_hand(logits.tolist(), 0.9, None, top_p)
        assert (len(p) > 1024) == (scale == 0.1)
        assert ids.tolist() == list(expected)
        assert p.tolist() == pytest.approx(list(expected.values()), rel=1e-9)


def metas_top_p(probs: torch.Tensor, p: float) -> torch.Tensor:
    """The rule of Meta's generation code: sort, sum, drop what comes after the sum exceeds p."""
    ranked, ids = torch.sort(probs, dim=-1, descending=True)
    so_far = torch.cumsum(ranked, dim=-1)
    ranked[so_far - ranked > p] = 0.0
    return torch.zeros_like(probs).scatter(-1, ids, ranked / ranked.sum())


@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.8, 0.95, 0.999])
def test_top_p_is_metas(top_p):
    for seed in range(20):
        logits = 3 * torch.randn(200, generator=torch.Generator().manual_seed(seed)).double()
        p, ids = Sampling(0.8, None, top_p).candidates(logits)
        ours = torch.zeros(200, dtype=torch.float64).index_put((ids,), p)
        torch.testing.assert_close(ours, metas_top_p(torch.softmax(logits / 0.8, -1), top_p))


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_repetition_penalty_is_that_of_transformers(penalty):
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    seen = [3, 7, 7, 49, 0]
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), logits[None].clone())
    sampling = Sampling(0.0, repetition_penalty=penalty)
    before = logits.clone()
    assert torch.equal(sampling.penalized(logits, seen), theirs[0])
    assert torch.equal(logits, before)
    assert choose(sampling, logits, torch.Generator(), seen) == int(theirs.argmax())
    assert torch.equal(sampling.penalized(logits, []), logits)


@pytest.mark.parametrize("penalty", [1e-300, 1e300])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_extreme_penalty_still_draws(penalty, temperature):
    logits, random = torch.tensor([[2.0, 0.0, -1.0, 1.0]]), torch.Generator().manual_seed(0)
    sampling = Sampling(temperature, None, None, penalty)
    drawn = {sampling.choose_each(logits, [random], [[0, 1, 2]])[0] for _ in range(20)}
    assert drawn == {0} if penalty < 1 else 2 not in drawn  # 0 stays 0, whatever the penalty


@pytest.mark.parametrize("likely", [7, 49, 100, 3000])
@pytest.mark.parametrize("top_p", [1, 1.0, None])
def test_top_p_of_one_keeps_every_token_however_unlikely(likely, top_p):
    """Also where the sum of the likelier ones is rounded up, above 1."""
    logits = torch.cat([torch.zeros(likely), torch.full((5,), -45.0)])
    p, ids = Sampling(1.0, None, top_p).candidates(logits)
    assert sorted(ids.tolist()) == list(range(likely + 5)) and p[-1] > 0
    assert len(Sampling(1.0, 5, top_p).candidates(logits)[1]) == 5


def test_each_row_has_its_own_generator_and_history():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    sampling, seen = Sampling(1.0, repetition_penalty=1.5), [[1, 2], [], [5] * 9]
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    together = [sampling.choose_each(logits, generators, seen) for _ in range(5)]
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        alone = [choose(sampling, logits[i], generator, seen[i]) for _ in range(5)]
        assert [row[i] for row in together] == alone


def test_one_bad_row_stops_the_batch():
    logits = torch.zeros(3, 5)
    logits[1, 2] = math.nan
    with pytest.raises(DataError, match="not finite"):
        Sampling(0.0).choose_each(logits, [torch.Generator()] * 3, [[], [], []])
