"""Budgets of inference: the formulas against what really happens, the figure against its logs."""

import json
import math

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from matplotlib.text import Text
from tiny import tiny_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minillama import Llama, ModelConfig
from minillama.analysis import inference_budget
from minillama.analysis.inference_budget import TrainedModel, cheapest, crossover, tokens_to_reach
from minillama.errors import ConfigError
from minillama.figures import inference_budget as figure_of_budget
from minillama.figures import runs, style
from minillama.inference.kv_cache import cache_bytes, new_cache
from minillama.parallel.memory import GPUS
from minillama.parallel.memory import flops_per_token as training_flops
from minillama.train.config import write_config

SHAPES = [
    ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=64, multiple_of=8, max_seq_len=64),
    ModelConfig(dim=48, n_layers=3, n_heads=4, vocab_size=320, multiple_of=16, max_seq_len=64),
]
every_shape = pytest.mark.parametrize("config", SHAPES, ids=["2 layers", "3 layers"])


def counted(config, new, before, batch):
    """FLOP that torch counts in a real pass, over a real cache."""
    model, cache = Llama(config), new_cache(config, before + new, batch)
    with torch.inference_mode():
        if before:
            cache.read(model, torch.zeros(batch, before, dtype=torch.long))
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.output(cache.read(model, torch.zeros(batch, new, dtype=torch.long)))
    return counter.get_total_flops()


@every_shape
@pytest.mark.parametrize("new, before, batch", [(1, 0, 1), (1, 13, 1), (1, 7, 5), (9, 0, 2)])
def test_the_flop_of_a_pass_are_those_that_torch_counts(config, new, before, batch):
    masked = batch * 4 * config.n_layers * config.dim * new * (new - 1) // 2  # torch counts these
    found = inference_budget.forward_flops(config, new, before, batch) + masked
    assert found == counted(config, new, before, batch)


@every_shape
@pytest.mark.parametrize("dtype, number", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_cache_takes_the_bytes_of_the_formula(config, dtype, number):
    for positions, batch in ((1, 1), (17, 1), (64, 3)):
        cache = new_cache(config, positions, batch, like=torch.empty(0, dtype=dtype))
        held = sum(t.untyped_storage().nbytes() for t in (*cache.keys, *cache.values))
        assert held == cache_bytes(config, positions, batch, number)


@every_shape
def test_weights_are_those_of_the_model(config):
    model = Llama(config).bfloat16()
    parameters = dict(model.named_parameters())
    assert inference_budget.weight_bytes(config) == sum(p.nbytes for p in parameters.values())
    products = [p.numel() for name, p in parameters.items()
                if "norm" not in name and name != "tok_embeddings.weight"]  # fmt: skip
    assert inference_budget.multiplied_parameters(config) == sum(products)
    rows = 5 * config.dim  # of the embedding, for five tokens
    read = sum(p.numel() for name, p in parameters.items() if name != "tok_embeddings.weight")
    moved = 4 * (read + rows) + cache_bytes(config, 12, 5, 4)
    assert inference_budget.forward_bytes(config, 1, 11, 5, number=4) == moved


@pytest.mark.parametrize("name", ["7b", "13b", "33b", "65b"])
def test_training_costs_three_times_reading(name):
    config = ModelConfig.from_name(name)
    model = TrainedModel(config, 1e12, 2048)
    embedding = 6 * config.vocab_size * config.dim  # which the planner counts, as is the custom
    planned = training_flops(config, 2048) - embedding
    assert model.training_flops / model.trained == pytest.approx(planned, rel=1e-3)
    assert model.total_flops(3e12) == pytest.approx(2 * model.training_flops)


def test_a_decode_step_is_bound_by_memory_and_a_prefill_by_arithmetic():
    config, gpu = ModelConfig.from_name("7b"), inference_budget.machine("a100-80gb")
    read = inference_budget.forward_bytes(config, 1, 1023) / gpu.bandwidth
    computed = inference_budget.forward_flops(config, 1024) / gpu.peak
    assert gpu.seconds(config, 1, 1023) == read and gpu.seconds(config, 1024) == computed
    assert inference_budget.intensity(config, 1, 1023) < 1 < gpu.ridge
    assert inference_budget.intensity(config, 1024) > gpu.ridge


@given(
    st.sampled_from(sorted(GPUS)), st.integers(1, 512), st.integers(0, 4096), st.integers(1, 300)
)
def test_the_roofline_is_the_slower_of_the_two(gpu, new, before, batch):
    config, machine = ModelConfig.from_name("13b"), inference_budget.machine(gpu)
    seconds = machine.seconds(config, new, before, batch)
    memory_bound = inference_budget.intensity(config, new, before, batch) < machine.ridge
    bound = inference_budget.forward_bytes(config, new, before, batch) / machine.bandwidth
    if not memory_bound:
        bound = inference_budget.forward_flops(config, new, before, batch) / machine.peak
    assert seconds == pytest.approx(bound)
    both = inference_budget.machine(gpu, 2).seconds(config, new, before, batch)
    assert both == pytest.approx(seconds / 2)
    assert machine.seconds(config, new, before, batch + 1) >= seconds


def test_every_gpu_has_a_bandwidth():
    assert set(inference_budget.BANDWIDTH) == set(GPUS)
    with pytest.raises(ConfigError, match="unknown GPU 'h10'. Did you mean 'h100'"):
        inference_budget.machine("h10")


@pytest.mark.parametrize("name", ["7b", "13b", "33b", "65b"])
@pytest.mark.parametrize("gpu", sorted(GPUS))
def test_serving_fits_and_one_more_sequence_does_not(name, gpu):
    config = ModelConfig.from_name(name)
    full, one = (
        inference_budget.serving(config, gpu),
        inference_budget.serving(config, gpu, batch=1),
    )
    usable = 0.9 * full.gpus * GPUS[gpu].memory * 2**30
    cache = cache_bytes(config, full.context, 1, 2)
    assert full.bytes <= usable < full.bytes + cache
    weights = inference_budget.weight_bytes(config)
    assert full.gpus == 1 or weights + cache > usable / 2  # half as many would not do
    assert full.latency >= one.latency and full.tokens_per_s >= one.tokens_per_s
    with pytest.raises(ConfigError, match=f"The largest is {full.batch}"):
        inference_budget.serving(config, gpu, batch=full.batch + 1)


def test_money_and_energy():
    serving = inference_budget.serving(ModelConfig.from_name("65b"), "a100-80gb", batch=1)
    hours = 1e6 * serving.latency / 3600
    assert serving.gpus == 2
    assert serving.cost_per_million(1.5) == pytest.approx(2 * 1.5 * hours)
    assert serving.joules_per_token == pytest.approx(2 * 400 * 1.1 * serving.latency)


def test_the_machine_at_hand_has_a_roofline():
    machine = inference_budget.measure_machine(size=64, repeat=1)
    assert math.isfinite(machine.ridge) and machine.ridge > 0


@given(st.floats(1.5, 4.0), st.floats(0.05, 0.5), st.floats(0.01, 0.99))
def test_tokens_to_reach_is_exact_for_a_line_over_log_tokens(start, slope, share):
    tokens = np.geomspace(1e3, 1e6, 7)
    losses = start + 6 - slope * np.log(tokens)
    target = losses[0] + share * (losses[-1] - losses[0])
    expected = math.exp((start + 6 - target) / slope)
    assert tokens_to_reach(tokens, losses, target) == pytest.approx(expected)


def test_tokens_to_reach_does_not_guess():
    tokens, losses = np.array([10.0, 100.0, 1000.0]), np.array([4.0, 3.0, 3.5])
    assert tokens_to_reach(tokens, losses, 4.0) == 10
    assert tokens_to_reach(tokens, losses, 3.0) == 100  # the first time counts
    assert tokens_to_reach(tokens, losses, 4.1) is None  # somewhere before the first point
    assert tokens_to_reach(tokens, losses, 2.9) is None
    assert tokens_to_reach(tokens[:0], losses[:0], 3.0) is None


SMALL, LARGE = SHAPES
trained = st.builds(
    TrainedModel,
    st.builds(lambda d, layers: ModelConfig(8 * d, layers, 2, 64, 8), st.integers(1, 6),
              st.integers(1, 3)),
    st.integers(1, 10**6).map(float), st.just(32),
)  # fmt: skip


@given(trained, trained)
def test_at_the_crossover_both_cost_the_same(one, other):
    small, large = sorted((one, other), key=lambda model: model.flops_per_token)
    at = crossover(small, large)
    if math.isinf(at):
        assert small.flops_per_token == large.flops_per_token
    elif at > 0:
        assert small.total_flops(at) == pytest.approx(large.total_flops(at))
        assert small.total_flops(2 * at) < large.total_flops(2 * at)
    else:
        assert small.training_flops <= large.training_flops


@given(st.lists(trained, min_size=1, max_size=5), st.floats(0, 1e8))
def test_the_cheapest_is_found_by_trying_all(models, served):
    least = min(model.total_flops(served) for model in models)
    inside = [model for model, (begin, end) in cheapest(models).items() if begin <= served <= end]
    assume(inside)
    assert all(model.total_flops(served) == pytest.approx(least) for model in inside)


@given(st.lists(trained, min_size=1, max_size=5))
def test_the_intervals_cover_all_served_tokens(models):
    intervals = sorted(cheapest(models).values())
    assert intervals[0][0] == 0 and intervals[-1][1] == math.inf
    for (_, end), (begin, _) in zip(intervals, intervals[1:], strict=False):
        assert begin == pytest.approx(end)


def loss_of(parameters, tokens):
    """A world in which the law of loss is known (Hoffmann et al., 2022), at the nano sizes."""
    return 1.5 + 60 / parameters**0.34 + 60 / tokens**0.28


def write_run(runs, name, tokens, model, finished=True):
    """A run folder with 160 logged steps, whose losses follow the law."""
    config = tiny_config("data/corpus/nano", runs, name=name, tokens=tokens, model=model)
    (runs / name).mkdir(parents=True)
    write_config(runs / name / "config.toml", config)
    total = config.total_steps
    steps = sorted(
        {round(step) for step in np.geomspace(1, total, 160)} - (set() if finished else {total})
    )
    lines = [{"step": step, "tokens": step * config.batch_tokens, "loss": 0.0,
              "valid_loss": loss_of(model.num_parameters(), step * config.batch_tokens)}
             for step in steps]  # fmt: skip
    (runs / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


SHORTER = 20
"""Runs of each size beside the ladder's own."""


@pytest.fixture
def lawful(tmp_path):
    """The ladder with shorter runs, in which larger sizes have read more than the law's best."""
    for name, tokens in (("7b", 8e6), ("13b", 6e6), ("33b", 4e6), ("65b", 4e6)):
        model = ModelConfig.from_name(f"nano-{name}")
        write_run(tmp_path, f"nano-{name}", int(tokens), model)
        for i, share in enumerate(np.geomspace(0.01, 0.9, SHORTER)):
            write_run(tmp_path, f"nano-{name}-{i}", int(tokens * share), model)
    return tmp_path


def needed(parameters, target):
    """Tokens to a loss, by the law."""
    return (60 / (target - 1.5 - 60 / parameters**0.34)) ** (1 / 0.28)


def test_the_csv_holds_the_tokens_that_the_law_asks_for(lawful):
    _, rows, used = figure_of_budget.draw_budget_figure(runs.load_runs(lawful, "nano"))
    assert len(used) == 4 * (1 + SHORTER)
    costs = [row for row in rows if row["training_flops"]]
    assert len({row["loss"] for row in costs}) > 50
    for row in costs:
        config = ModelConfig.from_name(row["run"])
        assert row["tokens"] == pytest.approx(needed(row["parameters"], row["loss"]), rel=0.01)
        assert row["flops_per_served_token"] == inference_budget.forward_flops(config, 16) / 16
        trained_flops = 3 * row["flops_per_served_token"] * row["tokens"]
        assert row["training_flops"] == pytest.approx(trained_flops)


def test_the_cheapest_size_of_the_csv_is_the_cheapest(lawful):
    _, rows, _ = figure_of_budget.draw_budget_figure(runs.load_runs(lawful, "nano"))
    costs = [row for row in rows if row["training_flops"]]
    changes = 0
    for target in {row["loss"] for row in costs}:
        mine = {row["run"]: row for row in costs if row["loss"] == target}
        for row in mine.values():
            if row["cheapest_from"] is None:
                continue
            changes += row["cheapest_from"] > 0
            served = min(row["cheapest_to"], 1e12) * 0.5 + row["cheapest_from"] * 0.5
            totals = {name: other["training_flops"] + other["flops_per_served_token"] * served
                      for name, other in mine.items()}  # fmt: skip
            assert min(totals, key=totals.get) == row["run"]
    assert changes > 5  # the question has several answers


def test_the_common_loss_is_the_lowest_that_all_sizes_reached(lawful):
    found = figure_of_budget.compare_sizes(runs.load_runs(lawful, "nano"))
    smallest = ModelConfig.from_name("nano-7b").num_parameters()
    assert found.common == loss_of(smallest, 8e6 // 128 * 128)
    assert all(found.models(found.common)) and not found.models(found.common - 1e-6)[0]


def test_only_the_ends_of_finished_runs_of_one_shape_count(tmp_path):
    for name in ("7b", "13b", "33b", "65b"):
        model = ModelConfig.from_name(f"nano-{name}")
        write_run(tmp_path, f"nano-{name}", 8_000_000, model)
        write_run(tmp_path, f"nano-{name}-stopped", 900_000, model, finished=False)
        other = ModelConfig(dim=16, n_layers=1, n_heads=2, vocab_size=64)
        write_run(tmp_path, f"nano-{name}-of-another-shape", 700_000, other)
    loaded = runs.load_runs(tmp_path, "nano")
    assert figure_of_budget.draw_budget_figure(loaded) is None  # one end of each
    for name in ("7b", "13b", "33b", "65b"):
        write_run(tmp_path, f"nano-{name}-short", 500_000, ModelConfig.from_name(f"nano-{name}"))
    found = figure_of_budget.compare_sizes(loaded)
    assert [len(losses) for _, losses in found.points] == [2] * 4
    _, rows, used = figure_of_budget.draw_budget_figure(loaded)
    assert len(used) == 12 and sum(bool(row["end_of_run"]) for row in rows) == 12


def test_sizes_that_share_no_loss_are_not_compared(lawful):
    for loss in (0.5, None):
        for path in lawful.glob("nano-65b*/metrics.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(x | {"valid_loss": loss}) + "\n" for x in lines))
        assert figure_of_budget.draw_budget_figure(runs.load_runs(lawful, "nano")) is None


def test_the_figure_is_readable_in_print(lawful):
    with matplotlib.rc_context(style.RC):
        figure, _, _ = figure_of_budget.draw_budget_figure(runs.load_runs(lawful, "nano"))
        figure.draw_without_rendering()
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) >= 9
