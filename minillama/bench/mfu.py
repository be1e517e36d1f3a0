"""Tokens a second and model-FLOP utilization (MFU) of training, beside Hugging Face's Llama.

MFU (Chowdhery et al., 2022) is the share of the machine's peak that goes into the arithmetic that
training needs: 6 FLOP a token for each weight that is multiplied, and those of causal attention.
The embedding, which is only looked up, is left out, and so is all that is computed again. On a GPU
the peak is the data sheet's (``parallel.memory.GPUS``), on a CPU what this machine reaches with a
large matrix product just before.

The contenders train in one process, in steps in turn, on the same tokens, with the same optimizer,
dtype and compiler; each figure is a median. So far this has run on CPUs only: on a GPU the default
is a model of 1.3 billion parameters, compiled, in bfloat16, on sequences of 2,048 tokens.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillama.bench.peak import allocated
from minillama.bench.train import build_huggingface, ceiling
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import ConfigError
from minillama.figures.efficiency import flags
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
from minillama.train.optimizer import OptimizerConfig, build_optimizer, clip_gradients

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
    """How both contenders are trained."""

    micro_batch: int
    device: str
    bfloat16: bool
    compile: bool


@dataclass(frozen=True)
class Row:
    """One contender at one size."""

    size: str
    name: str
    parameters: int
    tokens_per_s: float
    """Median of the counted steps."""
    mfu: float
    ratio: float
    """Median of the paired ratios of speed, to Hugging Face's or, without it, to the last."""
    memory: int
    """Bytes at the highest moment of a step: weights, moments, gradients and activations."""
    estimate: float
    """The same by ``parallel.memory``; 0 for Hugging Face, whose activations it does not know."""


class Contender:
    """A model with its optimizer, that takes training steps."""

    def __init__(self, model: nn.Module, loss_of: Callable, setting: Setting) -> None:
        self.model, self.setting = model, setting
        self.loss_of = torch.compile(loss_of) if setting.compile else loss_of
        self.optimizer = build_optimizer(model, OptimizerConfig())
        self.peak, self.seconds, self.losses = 0, [], []

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """One update; returns the loss, which waits for the device."""
        with torch.autocast(self.setting.device, torch.bfloat16, enabled=self.setting.bfloat16):
            loss = self.loss_of(inputs, targets)
        loss.backward()
        clip_gradients(self.model, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def timed(self, inputs: Tensor, targets: Tensor) -> None:
        """One update, of which the seconds are noted."""
        began = time.perf_counter()
        self.losses.append(self.step(inputs, targets))
        if self.setting.device == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - began)

    def weigh(self, inputs: Tensor, targets: Tensor) -> None:
        """Note the most memory that one update takes, its weights and moments among it."""
        moments = (m for state in self.optimizer.state.values() for m in state.values())
        state = sum(tensor.nbytes for tensor in (*self.model.parameters(), *moments))
        self.peak = state + allocated(lambda: self.step(inputs, targets), self.setting.device).peak


def ours(config: ModelConfig, kept: Kept, setting: Setting) -> Contender:
    """minillama's model with one of its backwards."""
    model = Llama(config).to(setting.device)
    if kept == "by_hand":
        differentiate_by_hand(model)
    else:
        recompute_blocks(model, kept)
    return Contender(model, lambda x, y: model(x, targets=y), setting)


def theirs(config: ModelConfig, setting: Setting) -> Contender:
    """Hugging Face's ``LlamaForCausalLM``, with torch's fused attention."""
    model, loss_of = build_huggingface(config)
    return Contender(model.to(setting.device), loss_of, setting)


def train_in_turn(
    config: ModelConfig, kept: tuple[Kept, ...], setting: Setting, steps: int, beside: bool
) -> dict[str, Contender]:
    """Train all contenders of one size, Hugging Face's last, and return them with their times."""
    torch.manual_seed(0)
    contenders = {how: ours(config, how, setting) for how in kept}
    if beside:
        contenders[HUGGING_FACE] = theirs(config, setting)
    shape = (setting.micro_batch, config.max_seq_len + 1)
    batch = torch.randint(config.vocab_size, shape, device=setting.device)
    inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
    for _ in range(WARM_UP):
        for contender in contenders.values():
            contender.losses.append(contender.step(inputs, targets))
    for contender in contenders.values():
        contender.weigh(inputs, targets)
    for _ in range(steps):
        for contender in contenders.values():
            contender.timed(inputs, targets)
    for name, contender in contenders.items():
        assert contender.losses[-1] < contender.losses[0], f"{name} did not learn"
    return contenders


def summarize(
    size: str, config: ModelConfig, contenders: dict[str, Contender], setting: Setting, peak: float
) -> list[Row]:
    """A row for each contender; the ratios are to the last, which is Hugging Face's if there."""
    *_, base = contenders.values()
    tokens = setting.micro_batch * config.max_seq_len
    flops = flops_per_token(config, config.max_seq_len, embedding=False)
    rows = []
    for name, contender in contenders.items():
        rate = tokens / statistics.median(contender.seconds)
        ratio = statistics.median(
            b / a for a, b in zip(contender.seconds, base.seconds, strict=True)
        )
        told = 0.0 if name == HUGGING_FACE else estimate(config, name, setting)
        rows.append(Row(
            size, name, config.num_parameters(), rate, rate * flops / peak,
            ratio, contender.peak, told,
        ))  # fmt: skip
    return rows


def estimate(config: ModelConfig, kept: Kept, setting: Setting) -> float:
    """What ``parallel.memory`` expects a step to take, in bytes."""
    products = "bfloat16" if setting.bfloat16 else "float32"
    return sum(
        memory_per_gpu(
            config, micro_batch=setting.micro_batch, recompute=kept, passes=1, products=products,
            device=setting.device,
        ).values()
    )  # fmt: skip


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
    if (known := recognize_gpu(name)) is None:
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
) -> list[Row]:
    """Measure training speed, its share of the machine's peak, and memory, and print the table.

    Args:
        sizes: 1.3b, or any named size such as mini-7b; 1.3b on a GPU, 3.9M parameters on a CPU.
        kept: minillama's backwards: none, selective or full recomputing, or by_hand.
        micro_batch: sequences in a step; 8 on a GPU, 4 on a CPU.
        seq_len: tokens in a sequence; the model's context by default.
        steps: counted steps of each contender.
        bfloat16: products in 16 bits; by default on a GPU.
        compile: with torch.compile; by default on a GPU.
        huggingface: train Hugging Face's Llama beside, in turn.
        peak_tflops: the machine's peak, if it is not known.
        out: a file for the record, such as data/runs/mfu.json; none by default.

    Raises:
        ConfigError: an unknown size or GPU, or too little memory on the GPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    keep_freed_memory()
    setting = Setting(
        micro_batch=micro_batch or (8 if on_gpu else 4), device=device,
        bfloat16=on_gpu if bfloat16 is None else bfloat16,
        compile=on_gpu if compile is None else compile,
    )  # fmt: skip
    if min(steps, setting.micro_batch, len(kept)) < 1:
        raise ConfigError("nothing to measure", "take at least 1 step of 1 sequence and 1 backward")
    configs = {name: find_size(name, seq_len) for name in sizes or (("1.3b" if on_gpu else "cpu"),)}
    peak, origin = find_peak(device, peak_tflops)
    dtype = "bfloat16" if setting.bfloat16 else "float32"
    how = f"{device}, {dtype}, {'compiled' if setting.compile else 'not compiled'}"
    print(f"{how}; peak {peak / 1e12:.4g} TFLOP/s ({origin})")
    print(f"{'size':<8} {'':<13}{'parameters':>15}{'tokens':>12}{'tokens/s':>10}{'MFU':>7}"
          f"{'ratio':>7}{'GB':>8}{'estimate':>9}")  # fmt: skip
    rows = []
    for size, config in configs.items():
        try:
            contenders = train_in_turn(config, kept, setting, steps, huggingface)
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"{size} does not fit into the GPU's memory",
                "use a smaller --micro-batch, fewer --kept, or --no-huggingface",
            ) from None
        for row in summarize(size, config, contenders, setting, peak):
            rows.append(row)
            shape = f"{setting.micro_batch} x {config.max_seq_len}"
            told = f"{row.estimate / 1e9:9.2f}" if row.estimate else ""
            print(f"{size:<8} {row.name:<13}{row.parameters:>15,}{shape:>12}"
                  f"{row.tokens_per_s:>10,.0f}{row.mfu:>7.1%}{row.ratio:>6.2f}x"
                  f"{row.memory / 1e9:>8.2f}{told}", flush=True)  # fmt: skip
        del contenders
    if out:
        command = ["minillama", "bench", "mfu", "--sizes", *configs, "--kept", *kept, *flags(
            {"micro_batch": setting.micro_batch, "steps": steps}
            | ({"seq_len": seq_len} if seq_len else {}) | {"out": out}
        )]  # fmt: skip
        told = {
            "setting": asdict(setting) | {"peak_flops": peak, "peak_from": origin},
            "models": {name: asdict(config) for name, config in configs.items()},
        }
        write_record(out, command, rows, told)
    return rows


def write_record(out: Path, command: list[str], rows: list[Row], told: dict[str, Any]) -> None:
    """Write the table with what it was measured on, and how to measure it again."""
    origin = provenance(command, {})
    del origin["runs"]
    origin["versions"]["transformers"] = version("transformers")
    write_json(out, origin | told | {"rows": [asdict(row) for row in rows]})
    print(f"wrote {out}")
