"""Tokens a second and model-FLOP utilization (MFU) of training, beside Hugging Face's Llama.

MFU (Chowdhery et al., 2022) is the share of the machine's peak that goes into the arithmetic that
training needs: 6 FLOP a token for each weight that is multiplied, and those of causal attention.
The embedding, which is only looked up, is left out, and so is all that is computed again. On a GPU
the peak is the data sheet's (``parallel.memory.GPUS``), on a CPU what this machine reaches with a
large matrix product just before.

The contestants train in one process, in steps in turn, on the same tokens, with the same optimizer,
dtype and compiler; each figure is a median. So far this has run on CPUs only: on a GPU the default
is a model of 1.3 billion parameters, compiled, in bfloat16, on sequences of 2,048 tokens.
"""

from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from minillama.bench.peak import allocated
from minillama.bench.race import Columns, Result, race, table_of
from minillama.bench.train import ModelAndLoss, Trainee, build_huggingface, ceiling
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import ConfigError
from minillama.figures.efficiency import bench_command
from minillama.figures.provenance import provenance
from minillama.files import write_json
from minillama.model import Llama
from minillama.parallel.memory import (
    GPUS,
    Kept,
    flops_per_token,
    memory_per_gpu,
    recognize_gpu,
)
from minillama.train.allocator import keep_freed_memory

SIZES = {
    "1.3b": ModelConfig(dim=2048, n_layers=24, n_heads=16),
    "cpu": ModelConfig(256, 4, 4, vocab_size=4096, multiple_of=32, max_seq_len=256),
}
"""Besides the named ones, such as 7b and mini-7b."""
HUGGING_FACE = "Hugging Face"
WARM_UP = 3
"""Steps that are not counted; the compiler works in the first."""


@dataclass(frozen=True)
class Setting:
    """How all contestants are trained."""

    micro_batch: int
    device: str
    bfloat16: bool
    compile: bool


@dataclass(frozen=True)
class MfuRow:
    """One contestant at one size."""

    size: str
    name: str
    parameters: int
    tokens_per_s: float  # median of the counted steps
    mfu: float
    ratio: float  # median of the paired ratios of speed, to Hugging Face's or else to the last
    memory: int  # bytes at the highest moment: weights, moments, gradients and activations
    estimate: float  # the same by ``parallel.memory``; 0 for Hugging Face, which it does not know


COLUMNS: Columns = {
    "size": lambda row: row.size,
    "": lambda row: row.name,
    "parameters": lambda row: f"{row.parameters:,}",
    "tokens/s": lambda row: f"{row.tokens_per_s:,.0f}",
    "MFU": lambda row: f"{row.mfu:.1%}",
    "ratio": lambda row: f"{row.ratio:.2f}x",
    "GB": lambda row: f"{row.memory / 1e9:.2f}",
    "estimate": lambda row: f"{row.estimate / 1e9:.2f}" if row.estimate else None,
}


def build_backward(config: ModelConfig, kept: Kept) -> ModelAndLoss:
    """minillama's model with one of its backwards."""
    model = Llama(config)
    if kept == "by_hand":
        differentiate_by_hand(model)
    else:
        recompute_blocks(model, kept)
    return model, model


def train_in_turn(
    config: ModelConfig, kept: tuple[Kept, ...], setting: Setting, steps: int, beside: bool
) -> tuple[dict[str, Trainee], dict[str, Result]]:
    """Train all contestants of one size, Hugging Face's last, and return them and their times."""
    torch.manual_seed(0)
    models = {how: build_backward(config, how) for how in kept}
    if beside:
        models[HUGGING_FACE] = build_huggingface(config)
    shape = (setting.micro_batch, config.max_seq_len + 1)
    batch = torch.randint(config.vocab_size, shape, device=setting.device)
    how = (setting.compile, setting.bfloat16)
    trainees = {name: Trainee(pair, batch, *how) for name, pair in models.items()}
    turns = {name: trainee.step for name, trainee in trainees.items()}
    results = race(turns, steps, WARM_UP)
    for name, result in results.items():
        assert result.outputs[-1] < result.outputs[0], f"{name} did not learn"
    return trainees, results


def measure_size(
    size: str,
    config: ModelConfig,
    kept: tuple[Kept, ...],
    setting: Setting,
    steps: int,
    beside: bool,
    peak: float,
) -> list[MfuRow]:
    """A row for each contestant; the ratios are to the last, which is Hugging Face's if there."""
    trainees, results = train_in_turn(config, kept, setting, steps, beside)
    *_, base = results.values()
    tokens = setting.micro_batch * config.max_seq_len
    flops = flops_per_token(config, config.max_seq_len, embedding=False)
    rows = []
    for name, result in results.items():
        rate = tokens / result.median
        mfu = rate * flops / peak
        memory = peak_memory(trainees[name], setting.device)
        expected = 0.0 if name == HUGGING_FACE else estimate(config, name, setting)
        row = (config.num_parameters(), rate, mfu, base.slower_than(result), memory, expected)
        rows.append(MfuRow(size, name, *row))
    return rows


def peak_memory(trainee: Trainee, device: str) -> int:
    """The most bytes that one update takes, its weights and moments among them."""
    state = list(trainee.model.parameters())
    for moments in trainee.optimizer.state.values():
        state += moments.values()
    at_rest = sum(tensor.nbytes for tensor in state)
    return at_rest + allocated(trainee.step, device).peak


def estimate(config: ModelConfig, kept: Kept, setting: Setting) -> float:
    """What ``parallel.memory`` expects a step to take, in bytes."""
    memory = memory_per_gpu(
        config,
        micro_batch=setting.micro_batch,
        recompute=kept,
        passes=1,
        products="bfloat16" if setting.bfloat16 else "float32",
        device=setting.device,
    )
    return sum(memory.values())


def find_size(name: str, seq_len: int | None) -> ModelConfig:
    """A size of ``SIZES`` or of ``ModelConfig.from_name``, for sequences of this length."""
    config = SIZES[name] if name in SIZES else ModelConfig.from_name(name)
    return replace(config, max_seq_len=seq_len) if seq_len else config


def find_peak(device: str, tflops: float | None) -> tuple[float, str]:
    """The machine's FLOP a second, and where that figure comes from.

    Raises:
        ConfigError: a GPU that is not in the table, or a peak that is none.
    """
    if tflops is not None:
        if not tflops > 0:
            raise ConfigError(f"--peak-tflops {tflops:g}", "it must be above 0")
        return tflops * 1e12, "as given"
    if device == "cpu":
        return ceiling(), f"measured, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name()
    known = recognize_gpu(name)
    if known is None:
        raise ConfigError(f"the peak of '{name}' is not known", "give it: --peak-tflops 989")
    return GPUS[known].peak, f"data sheet of {known}"


def bench_mfu(
    sizes: tuple[str, ...] = (),
    kept: tuple[Kept, ...] = ("none", "by_hand"),
    micro_batch: int | None = None,
    seq_len: int | None = None,
    steps: int = 10,
    bfloat16: bool | None = None,
    compile: bool | None = None,
    huggingface: bool = True,
    peak_tflops: float | None = None,
    out: Path | None = None,
) -> list[MfuRow]:
    """Measure training speed, its share of the machine's peak, and memory, and print the table.

    Args:
        sizes: 1.3b, or any named size such as mini-7b; 1.3b on a GPU, 3.9M parameters on a CPU.
        kept: minillama's backwards: none, selective or full recomputing, or by_hand.
        micro_batch: sequences in a step; 8 on a GPU, 4 on a CPU.
        seq_len: tokens in a sequence; the model's context by default.
        steps: counted steps of each contestant.
        bfloat16: products in 16 bits; by default on a GPU.
        compile: with torch.compile; by default on a GPU.
        huggingface: train Hugging Face's Llama beside, in turn.
        peak_tflops: the machine's peak, if it is not known.
        out: a file for the record, such as data/runs/mfu.json; none by default.

    Raises:
        ConfigError: an unknown size or GPU, or too little memory on the GPU.
    """
    keep_freed_memory()
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    setting = Setting(
        micro_batch=micro_batch or (8 if on_gpu else 4),
        device=device,
        bfloat16=on_gpu if bfloat16 is None else bfloat16,
        compile=on_gpu if compile is None else compile,
    )
    if min(steps, setting.micro_batch, len(kept)) < 1:
        raise ConfigError("nothing to measure", "take at least 1 step of 1 sequence and 1 backward")
    sizes = sizes or (("1.3b",) if on_gpu else ("cpu",))
    configs = {name: find_size(name, seq_len) for name in sizes}
    peak, origin = find_peak(device, peak_tflops)
    rows = []
    for size, config in configs.items():
        try:
            rows += measure_size(size, config, kept, setting, steps, huggingface, peak)
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"{size} does not fit into the GPU's memory",
                "use a smaller --micro-batch, fewer --kept, or --no-huggingface",
            ) from None
    dtype = "bfloat16" if setting.bfloat16 else "float32"
    compiled = "compiled" if setting.compile else "not compiled"
    print(f"{device}, {dtype}, {compiled}; peak {peak / 1e12:.4g} TFLOP/s ({origin})")
    lengths = ", ".join(f"{config.max_seq_len:,}" for config in configs.values())
    print(f"{setting.micro_batch} sequences of {lengths} tokens a step")
    print(table_of(rows, COLUMNS))
    if out:
        shown = {"sizes": sizes, "kept": kept, "micro_batch": setting.micro_batch, "steps": steps}
        shown |= ({"seq_len": seq_len} if seq_len else {}) | {"out": out}
        record = provenance(bench_command("mfu", shown))
        record["versions"]["transformers"] = version("transformers")
        record["setting"] = asdict(setting) | {"peak_flops": peak, "peak_from": origin}
        record["models"] = {name: asdict(config) for name, config in configs.items()}
        record["rows"] = [asdict(row) for row in rows]
        write_json(out, record)
        print(f"wrote {out}")
    return rows
