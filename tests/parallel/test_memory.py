"""The arithmetic of ``minillama plan``, against what torch counts and what the paper paid."""

import re
from functools import partial

import pytest
import torch
import torch.distributed as dist
from allocator import by_allocator
from processes import run_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minillama.bench.peak import allocated
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import ConfigError
from minillama.model import Llama
from minillama.parallel.fsdp import parallelize, send_gradients
from minillama.parallel.memory import (
    GPUS,
    activation_bytes,
    energy_mwh,
    flops_per_token,
    memory_per_gpu,
    plan,
)
from minillama.parallel.mesh import ParallelConfig, build_mesh
from minillama.parallel.tensor import split_matrices
from minillama.train.optimizer import OptimizerConfig, build_optimizer, clip_gradients

SMALL = ModelConfig(dim=64, n_layers=3, n_heads=4, vocab_size=96, multiple_of=16, max_seq_len=32)
WIDE = ModelConfig(dim=192, n_layers=2, n_heads=6, vocab_size=64, multiple_of=32, max_seq_len=64)
LONG = ModelConfig(dim=32, n_layers=3, n_heads=4, vocab_size=64, multiple_of=32, max_seq_len=128)
DEEP = ModelConfig(dim=64, n_layers=8, n_heads=4, vocab_size=256, multiple_of=16, max_seq_len=64)
KINDS = ("none", "selective", "by_hand", "full")
MEASURED = {  # and sequences; one where activations are most, and one where the state is
    "long": (LONG, 8),
    "deep": (DEEP, 4),
    "wide": (ModelConfig(128, 4, 4, 256, multiple_of=32, max_seq_len=32), 2),
}

# Hours of A100-80GB, MWh and tonnes of CO2eq as Table 15 prints them.
TABLE_15 = {
    "7b": (82_432, 36, 14),
    "13b": (135_168, 59, 23),
    "33b": (530_432, 233, 90),
    "65b": (1_022_362, 449, 173),
}


def loss_of(model: Llama, sequences: int) -> torch.Tensor:
    config = model.config
    tokens = torch.randint(0, config.vocab_size, (sequences, config.max_seq_len + 1))
    return model(tokens[:, :-1], targets=tokens[:, 1:])


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["small", "wide"])
def test_flops_are_what_torch_counts(config: ModelConfig) -> None:
    """torch counts matrix products only, and the masked half of the scores as well."""
    model, sequences = Llama(config), 2
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        # by way of the logits: torch does not count the in-place product of the fused loss
        model(torch.zeros(sequences, config.max_seq_len, dtype=torch.int64)).sum().backward()
    counted = counter.get_total_flops() / (sequences * config.max_seq_len)
    masked = 12 * config.n_layers * config.dim * config.max_seq_len / 2
    norms = (2 * config.n_layers + 1) * config.dim
    no_products = 6 * (config.vocab_size * config.dim + norms)
    assert flops_per_token(config, config.max_seq_len) == counted - masked + no_products


def saved_bytes(config: ModelConfig, sequences: int, bfloat16: bool = False) -> int:
    """Bytes of all tensors that autograd keeps, apart from the parameters and their copies."""
    model, kept = Llama(config), {}
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), model.rotary)}
    tokens = sequences * config.max_seq_len

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        of_tokens = tensor.numel() % tokens == 0  # not so the weights' copies and gradients
        if storage.data_ptr() not in known and of_tokens:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so no address is reused
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        loss_of(model, sequences)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["small", "wide"])
def test_activations_are_what_autograd_keeps(config: ModelConfig) -> None:
    tokens = 5 * config.max_seq_len
    measured = saved_bytes(config, sequences=5)
    assert activation_bytes(config, tokens, "none", number=4) == pytest.approx(measured, rel=0.03)


def test_autocast_keeps_about_a_third_more() -> None:
    extra = saved_bytes(WIDE, 5, bfloat16=True) / activation_bytes(WIDE, 5 * WIDE.max_seq_len)
    assert 1.25 < extra < 1.45


def test_recomputing_more_keeps_less() -> None:
    config = ModelConfig.from_name("65b")
    kept = [activation_bytes(config, 2048, how) for how in ("none", "selective", "full")]
    assert kept[0] > 1.5 * kept[1] and kept[1] > 5 * kept[2]
    assert activation_bytes(config, 2 * 2048, "full") == 2 * kept[2]


def test_training_state_is_what_torch_holds() -> None:
    model = Llama(SMALL)
    optimizer = build_optimizer(model, OptimizerConfig())
    loss_of(model, 1).backward()
    optimizer.step()
    parameters = list(model.parameters())
    moments = [t for p in parameters for t in optimizer.state[p].values() if t.shape == p.shape]
    memory = memory_per_gpu(SMALL)
    assert memory["weights"] == sum(p.nbytes for p in parameters)
    assert memory["gradients"] == sum(p.grad.nbytes for p in parameters)
    assert memory["Adam's moments"] == sum(t.nbytes for t in moments)


def built(config: ModelConfig, kept: str) -> Llama:
    torch.manual_seed(0)
    model = Llama(config)
    return differentiate_by_hand(model) if kept == "by_hand" else recompute_blocks(model, kept)


@pytest.mark.parametrize("kept", KINDS)
@pytest.mark.parametrize("shape", MEASURED)
def test_measured_peaks_of_a_step_are_within_a_tenth(shape: str, kept: str) -> None:
    """Weights, gradients, moments and activations of a whole training step, in float32."""
    config, sequences = MEASURED[shape]
    model = built(config, kept)
    optimizer = build_optimizer(model, OptimizerConfig())
    forward = partial(loss_of, model, sequences)
    waiting = activation_bytes(config, sequences * config.max_seq_len, kept, number=4)
    of_output = model.output.weight.nbytes  # its gradient is ready when the forward ends
    assert waiting + of_output == pytest.approx(allocated(forward).held, rel=0.02)

    def step(passes: int) -> None:
        for _ in range(passes):
            forward().backward()
        clip_gradients(model, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step(1)
    state = sum(t.nbytes for p in model.parameters()
                for t in (p, *optimizer.state[p].values()))  # fmt: skip
    for passes in (1, 3):
        measured = state + allocated(partial(step, passes)).peak
        told = memory_per_gpu(
            config, micro_batch=sequences, recompute=kept, passes=passes, products="float32",
            device="cpu",
        )  # fmt: skip
        assert sum(told.values()) == pytest.approx(measured, rel=0.10)


def sharded_steps(rank: int) -> dict[tuple[str, int], tuple[int, float]]:
    """Bytes at the highest moment of a step on one of two processes with FSDP, and the formula."""
    dist.init_process_group("gloo")
    found = {}
    for kept in KINDS:
        by_hand = kept == "by_hand"
        parallel = ParallelConfig(shard=2, recompute="none" if by_hand else kept)
        torch.manual_seed(0)
        model = parallelize(Llama(DEEP), parallel, build_mesh(parallel, 2, "cpu"), by_hand=by_hand)
        optimizer = build_optimizer(model, OptimizerConfig())

        def step(passes: int, model=model, parallel=parallel, optimizer=optimizer) -> None:
            for i in range(passes):
                with send_gradients(model, parallel, last=i == passes - 1):
                    loss_of(model, 4).backward()
            clip_gradients(model, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        step(1)
        moments = (t for state in optimizer.state.values() for t in state.values())
        state = sum(getattr(t, "_local_tensor", t).nbytes for t in (*model.parameters(), *moments))
        for passes in (1, 2):
            told = memory_per_gpu(DEEP, gpus=2, micro_batch=4, recompute=kept, passes=passes,
                                  products="float32", device="cpu")  # fmt: skip
            measured = state + by_allocator(partial(step, passes)).peak
            found[kept, passes] = measured, sum(told.values())
    dist.destroy_process_group()
    return found


def test_measured_peaks_of_sharded_steps_are_within_a_tenth() -> None:
    """The allocator's own count, on one of two processes."""
    for case, (measured, told) in run_processes(sharded_steps, 2)[0].items():
        assert told == pytest.approx(measured, rel=0.10), case


def of_one_process(rank: int) -> dict[tuple[bool, str], tuple[int, float]]:
    """Bytes that a forward leaves on one of two processes that split matrices, and the formula."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    found = {}
    for sequence in (True, False):
        for kept in KINDS:
            model = built(LONG, "by_hand" if kept == "by_hand" else "none")
            split_matrices(model, mesh, sequence)
            recompute_blocks(model, "none" if kept == "by_hand" else kept)
            loss_of(model, 4).backward()  # so that what is made once, is there
            model.zero_grad(set_to_none=True)
            measured = allocated(partial(loss_of, model, 4)).held
            tokens = 4 * LONG.max_seq_len
            told = activation_bytes(LONG, tokens, kept, 4, tensor=2, sequence=sequence)
            found[sequence, kept] = measured, told + 4 * LONG.vocab_size * LONG.dim / 2
    dist.destroy_process_group()
    return found


def test_measured_activations_of_split_matrices() -> None:
    for measured, told in run_processes(of_one_process, 2)[0].values():
        assert told == pytest.approx(measured, rel=0.03)


def test_sharding_divides_the_state_and_not_the_activations() -> None:
    config = ModelConfig.from_name("7b")
    alone, shared = memory_per_gpu(config), memory_per_gpu(config, gpus=8)
    for part in ("weights", "gradients", "Adam's moments"):
        assert shared[part] == alone[part] / 8
    assert shared["activations"] == alone["activations"]
    assert memory_per_gpu(config, passes=1)["bfloat16 copies"] == 2 * 6_738_415_616
    alone = memory_per_gpu(config, recompute="full")
    split = memory_per_gpu(config, 8, 4, recompute="full", sharded=False)
    assert split["weights"] == alone["weights"] / 4
    assert split["activations"] == alone["activations"] / 4


@pytest.mark.parametrize("name", TABLE_15)
def test_gpu_hours_of_the_paper(name: str) -> None:
    """At one utilization for all four, 49%, every size is within 10% of Table 15."""
    hours, _, tonnes = TABLE_15[name]
    estimate = plan(name, mfu=0.49)
    assert estimate.gpu_hours == pytest.approx(hours, rel=0.10)
    assert estimate.days == pytest.approx(hours / 2048 / 24, rel=0.10)
    assert estimate.tco2eq == pytest.approx(tonnes, rel=0.12)


@pytest.mark.parametrize("name", TABLE_15)
def test_energy_of_the_paper(name: str) -> None:
    hours, mwh, tonnes = TABLE_15[name]
    assert energy_mwh(hours, watts=400) == pytest.approx(mwh, abs=1)  # printed without decimals
    assert energy_mwh(hours, watts=400) * 0.385 == pytest.approx(tonnes, abs=0.6)


def test_65b_prints_the_papers_speed_beside_the_estimate() -> None:
    told = plan("65b", gpus=2048, gpu="a100-80gb")
    lines = [re.split(r"\s{2,}", line) for line in told.render().splitlines()]
    rows = {name: cells for name, *cells in lines}
    assert rows["days"] == ["20.3", "21 on 2,048"]
    assert rows["tokens/s/GPU"] == ["390", "380"]
    assert rows["training tokens"] == ["1.4e+12", "1.4T"]
    assert rows["parameters"] == ["65,285,660,672", "65.2B"]
    assert rows["MFU"] == ["50%", "49%*"]  # 380 x 3.998e11 / 312e12 = 0.487
    assert rows["passes a step"] == ["1"]
    assert told.fits and "does not fit" not in told.render()


def test_other_models_have_nothing_of_the_paper() -> None:
    assert "paper" not in plan("mini-7b", gpus=1, batch_tokens=2**17).render()
    assert "paper" not in plan("65b", n_layers=40).render()


def test_tokens_follow_table_2() -> None:
    assert plan("7b").tokens == 1.0e12 and plan("65b").tokens == 1.4e12
    small = plan("mini-65b", gpus=1)
    assert small.tokens / small.config.num_parameters() == pytest.approx(1.4e12 / 65_285_660_672)


def test_a_plan_that_does_not_fit_says_so() -> None:
    told = plan("65b", gpus=8, gpu="a100-40gb", micro_batch=4, recompute="none")
    assert not told.fits and "does not fit" in told.render()


def test_every_step_reads_its_batch() -> None:
    told = plan("7b", gpus=3, micro_batch=2)  # 12,288 tokens a pass
    assert told.accumulation == 342  # 341.3 rounded up


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "66b"}, "'65b'"),
        ({"gpu": "a100"}, "a100-80gb"),
        ({"gpus": 0}, "at least 1"),
        ({"tokens": 0.0}, "at least 1"),
        ({"tokens": float("nan")}, "at least 1"),
        ({"mfu": 1.5}, "mfu = 1.5"),
        ({"tensor_parallel": 3}, "does not divide"),
        ({"gpus": 8192}, "one pass of all GPUs"),
        ({"n_heads": 7}, "multiple of n_heads"),
    ],
)
def test_impossible_plans(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**settings)


def test_a_gpu_has_units() -> None:
    """FLOP/s, GiB and watts: the paper's 312 TFLOP/s, 80 GB and 400 W."""
    paper = GPUS["a100-80gb"]
    assert (paper.peak, paper.memory, paper.power) == (312e12, 80, 400)
    for gpu in GPUS.values():
        assert 0.3e12 < gpu.peak / gpu.power < 3e12 and 16 <= gpu.memory <= 192
