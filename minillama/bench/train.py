"""Training beside Hugging Face's Llama: tokens a second, model-FLOP utilization (MFU) and memory.

The contestants have the same parameters, tokens, optimizer, dtype and compiler; they train in one
process, in steps in turn. MFU (Chowdhery et al., 2022) is the share of the machine's peak that goes
into the arithmetic that training needs: 6 FLOP a token for each weight that is multiplied, and
those of causal attention. The embedding, which is only looked up, is left out, and so is all that
is computed again. On a GPU the peak is the data sheet's, on a CPU what this machine reaches with a
large matrix product just before.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from minillama.analysis.inference_budget import measure_machine
from minillama.bench.peak import allocated
from minillama.bench.race import Columns, bench_origin, race, table_of
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import ConfigError
from minillama.files import write_json
from minillama.interop import huggingface
from minillama.model import Llama
from minillama.parallel.memory import GPUS, Kept, flops_per_token, recognize_gpu
from minillama.train.allocator import keep_freed_memory
from minillama.train.optimizer import OptimizerConfig, build_optimizer, clip_gradients

SMALL = ModelConfig(vocab_size=4096, multiple_of=32, max_seq_len=256)
SIZES = {
    "128": replace(SMALL, dim=128, n_layers=4, n_heads=2),
    "256": replace(SMALL, dim=256, n_layers=6, n_heads=4),
    "384": replace(SMALL, dim=384, n_layers=8, n_heads=6),
    "1.3b": ModelConfig(dim=2048, n_layers=24, n_heads=16),
}
"""Besides the named ones, such as 7b and mini-7b."""
HUGGING_FACE = "Hugging Face"
WARM_UP = 3
"""Steps that are not counted; the compiler works in the first."""
ModelAndLoss = tuple[nn.Module, Callable]
"""A model, and its ``loss(tokens, targets)``."""


def build_minillama(config: ModelConfig, kept: Kept) -> ModelAndLoss:
    """minillama's model with one of its backwards."""
    model = Llama(config)
    if kept == "by_hand":
        differentiate_by_hand(model)
    else:
        recompute_blocks(model, kept)
    return model, model


def build_huggingface(config: ModelConfig) -> ModelAndLoss:
    """Hugging Face's ``LlamaForCausalLM`` of the same shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(**huggingface.config_to_huggingface(config), use_cache=False)
    model = LlamaForCausalLM(shape)
    # `shift_labels` are labels that are shifted already: the same targets as minillama's.
    return model, lambda x, y: model(input_ids=x, labels=y, shift_labels=y, use_cache=False).loss


@dataclass(frozen=True)
class Setting:
    """How all contestants are trained."""

    micro_batch: int
    device: str
    bfloat16: bool
    compile: bool

    def __str__(self) -> str:
        """``cpu, float32, not compiled, 4 sequences a step``."""
        dtype = "bfloat16" if self.bfloat16 else "float32"
        compiled = "compiled" if self.compile else "not compiled"
        return f"{self.device}, {dtype}, {compiled}, {self.micro_batch} sequences a step"


class Trainee:
    """A model with its optimizer, that takes training steps on one batch."""

    def __init__(self, pair: ModelAndLoss, batch: Tensor, setting: Setting) -> None:
        self.model, loss_of = pair
        self.model.to(batch.device)
        self.loss_of = torch.compile(loss_of) if setting.compile else loss_of
        self.optimizer = build_optimizer(self.model, OptimizerConfig())
        self.inputs = batch[:, :-1].contiguous()
        self.targets = batch[:, 1:].contiguous()
        self.bfloat16 = setting.bfloat16

    def step(self) -> float:
        """One update; returns the loss, once the device is done."""
        device = self.inputs.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
            loss = self.loss_of(self.inputs, self.targets)
        loss.backward()
        clip_gradients(self.model, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    def peak_memory(self) -> int:
        """The most bytes that one update takes, its weights and moments among them."""
        at_rest = sum(weight.nbytes for weight in self.model.parameters())
        for moments in self.optimizer.state.values():
            for moment in moments.values():
                at_rest += moment.nbytes
        step = allocated(self.step, self.inputs.device)
        return at_rest + step.peak


@dataclass(frozen=True)
class TrainRow:
    """One contestant at one size."""

    size: str
    name: str
    parameters: int
    tokens_per_s: float  # median of the counted steps
    mfu: float
    ratio: float  # median of the paired ratios of speed, to Hugging Face's or else to the last
    memory: int  # bytes at the highest moment: weights, moments, gradients and activations


COLUMNS: Columns = {
    "size": lambda row: row.size,
    "": lambda row: row.name,
    "parameters": lambda row: f"{row.parameters:,}",
    "tokens/s": lambda row: f"{row.tokens_per_s:,.0f}",
    "MFU": lambda row: f"{row.mfu:.1%}",
    "ratio": lambda row: f"{row.ratio:.2f}x",
    "GB": lambda row: f"{row.memory / 1e9:.2f}",
}


def measure_training(
    size: str,
    config: ModelConfig,
    kept: tuple[Kept, ...],
    setting: Setting,
    steps: int,
    peak: float,
    beside: bool = True,
) -> list[TrainRow]:
    """A row for each contestant; the ratios are to the last, which is Hugging Face's if there."""
    torch.manual_seed(0)
    models = {name: build_minillama(config, name) for name in kept}
    if beside:
        models[HUGGING_FACE] = build_huggingface(config)
    # Steps in turn, on one batch.
    shape = (setting.micro_batch, config.max_seq_len + 1)
    batch = torch.randint(config.vocab_size, shape, device=setting.device)
    trainees = {name: Trainee(pair, batch, setting) for name, pair in models.items()}
    turns = {name: trainee.step for name, trainee in trainees.items()}
    results = race(turns, steps, WARM_UP)
    # The figures of each.
    *_, base = results.values()
    tokens = setting.micro_batch * config.max_seq_len
    flops = flops_per_token(config, config.max_seq_len, embedding=False)
    rows = []
    for name, result in results.items():
        assert result.outputs[-1] < result.outputs[0], f"{name} did not learn"
        rate = tokens / result.median
        row = TrainRow(
            size,
            name,
            parameters=config.num_parameters(),
            tokens_per_s=rate,
            mfu=rate * flops / peak,
            ratio=base.slower_than(result),
            memory=trainees[name].peak_memory(),
        )
        rows.append(row)
    return rows


def find_size(name: str, seq_len: int | None) -> ModelConfig:
    """A size of ``SIZES`` or of ``ModelConfig.from_name``, for sequences of this length."""
    config = SIZES[name] if name in SIZES else ModelConfig.from_name(name)
    return replace(config, max_seq_len=seq_len) if seq_len else config


def find_peak(device: str, tflops: float | None) -> float:
    """The machine's FLOP a second: as given, measured on a CPU, or of the GPU's data sheet.

    Raises:
        ConfigError: a GPU that is not in the table, or a peak that is none.
    """
    if tflops is not None:
        if not tflops > 0:
            raise ConfigError(f"--peak-tflops {tflops:g}", "it must be above 0")
        return tflops * 1e12
    if device == "cpu":
        return measure_machine().peak
    name = torch.cuda.get_device_name()
    known = recognize_gpu(name)
    if known is None:
        raise ConfigError(f"the peak of '{name}' is not known", "give it: --peak-tflops 989")
    return GPUS[known].peak


def bench_train(
    widths: tuple[Literal[128, 256, 384], ...] = (128, 256, 384),
    steps: int = 15,
    batch: int = 16,
    compile: bool = False,
    keep_memory: bool = True,
) -> list[TrainRow]:
    """Compare training speed with Hugging Face's Llama on the CPU, and print the table.

    Args:
        widths: model widths, among 128, 256 and 384.
        steps: counted steps of each contestant.
        batch: sequences in a step.
        compile: with torch.compile on both sides (needs a C++ compiler).
        keep_memory: the allocator of `minillama train` for both, or else that of plain PyTorch.
    """
    if keep_memory:
        keep_freed_memory()
    setting = Setting(batch, "cpu", bfloat16=False, compile=compile)
    peak = measure_machine().peak
    rows = []
    for size in map(str, widths):
        rows += measure_training(size, SIZES[size], ("none",), setting, steps, peak)
    print_training(rows, setting, peak)
    return rows


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
) -> list[TrainRow]:
    """Measure training speed, its share of the machine's peak, and memory, and print the table.

    Args:
        sizes: 128, 256, 384, 1.3b, or a named size such as mini-7b; by default 1.3b on a GPU, 256
            on a CPU.
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
    setting = Setting(
        micro_batch=micro_batch or (8 if on_gpu else 4),
        device="cuda" if on_gpu else "cpu",
        bfloat16=on_gpu if bfloat16 is None else bfloat16,
        compile=on_gpu if compile is None else compile,
    )
    if min(steps, setting.micro_batch, len(kept)) < 1:
        raise ConfigError("nothing to measure", "take at least 1 step of 1 sequence and 1 backward")
    sizes = sizes or ("1.3b" if on_gpu else "256",)
    configs = {name: find_size(name, seq_len) for name in sizes}
    peak = find_peak(setting.device, peak_tflops)
    # The measurement.
    rows = []
    for size, config in configs.items():
        try:
            rows += measure_training(size, config, kept, setting, steps, peak, huggingface)
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"{size} does not fit into the GPU's memory",
                "use a smaller --micro-batch, fewer --kept, or --no-huggingface",
            ) from None
    print_training(rows, setting, peak)
    # The record.
    if out:
        flags = {"sizes": sizes, "kept": kept, "seq_len": seq_len, "steps": steps}
        record = bench_origin("mfu", flags | {"micro_batch": setting.micro_batch, "out": out})
        record["settings"] |= asdict(setting) | {"peak_flops": peak}
        write_json(out, record | {"rows": [asdict(row) for row in rows]})
        print(f"wrote {out}")
    return rows


def print_training(rows: list[TrainRow], setting: Setting, peak: float) -> None:
    """The setting and the table."""
    threads = torch.get_num_threads()
    print(f"{setting}, {threads} threads, peak {peak / 1e12:.4g} TFLOP/s")
    print(table_of(rows, COLUMNS))
