"""Training speed against Hugging Face's Llama: same parameters, batch and optimizer, one run.

Each contestant lives in a process of its own and the two take steps in turn. Two settings are
compared: *as shipped* (a plain PyTorch process for Hugging Face; for minillama what ``minillama
train`` sets up, see ``train.allocator``), and *same allocator*, where both keep their freed memory,
so that only the model code differs.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import torch
from torch import Tensor, nn

from minillama.bench.race import Columns, Timed, race, table_of
from minillama.config import ModelConfig
from minillama.interop import huggingface
from minillama.model import Llama
from minillama.parallel.memory import flops_per_token
from minillama.train.allocator import keep_freed_memory
from minillama.train.optimizer import OptimizerConfig, build_optimizer, clip_gradients

WIDTHS = {128: (4, 2), 256: (6, 4), 384: (8, 6)}
"""Layers and heads at each width."""
BATCH, SEQ_LEN, VOCAB = 16, 256, 4096
ModelAndLoss = tuple[nn.Module, Callable]
"""A model, and its ``loss(tokens, targets)``."""


def model_config(width: int) -> ModelConfig:
    """The benchmark's model of a given width."""
    layers, heads = WIDTHS[width]
    return ModelConfig(width, layers, heads, VOCAB, multiple_of=32, max_seq_len=SEQ_LEN)


def build_minillama(config: ModelConfig) -> ModelAndLoss:
    """minillama's model."""
    model = Llama(config)
    return model, model


def build_huggingface(config: ModelConfig) -> ModelAndLoss:
    """Hugging Face's ``LlamaForCausalLM`` of the same shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(**huggingface.config_to_huggingface(config), use_cache=False)
    model = LlamaForCausalLM(shape)
    # `shift_labels` are labels that are shifted already: the same targets as minillama's.
    return model, lambda x, y: model(input_ids=x, labels=y, shift_labels=y, use_cache=False).loss


BUILDERS = {"minillama": build_minillama, "huggingface": build_huggingface}


class Trainee:
    """A model with its optimizer, that takes training steps on one batch."""

    def __init__(
        self, pair: ModelAndLoss, batch: Tensor, compiled: bool, bfloat16: bool = False
    ) -> None:
        self.model, loss_of = pair
        self.model.to(batch.device)
        self.loss_of = torch.compile(loss_of) if compiled else loss_of
        self.optimizer = build_optimizer(self.model, OptimizerConfig())
        self.inputs, self.targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        self.bfloat16 = bfloat16

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


def train_in_process(name: str, width: int, tuned: bool, compiled: bool, pipe: Connection) -> None:
    """The life of one process: build, then take one timed training step for every request."""
    if tuned:
        keep_freed_memory()
    torch.manual_seed(0)
    model, loss_of = BUILDERS[name](model_config(width))
    trainee = Trainee((model, loss_of), torch.randint(0, VOCAB, (BATCH, SEQ_LEN + 1)), compiled)
    pipe.send(sum(weight.numel() for weight in model.parameters()))
    while pipe.recv():
        began = time.perf_counter()
        loss = trainee.step()
        pipe.send(Timed(time.perf_counter() - began, loss))


def ceiling() -> float:
    """The machine's matrix-product rate in FLOP/s: the best of 20 of 1024 x 1024 floats."""
    a, b = torch.randn(2, 1024, 1024)
    product = race({"product": lambda: a @ b}, rounds=20)["product"]
    return 2 * 1024**3 / product.best


@dataclass(frozen=True)
class TrainRow:
    """One comparison: median tokens per second of both, and the median of the paired ratios."""

    width: int
    setting: str
    parameters: int
    minillama: float
    huggingface: float
    ratio: float
    ceiling_share: float


COLUMNS: Columns = {
    "width": lambda row: row.width,
    "parameters": lambda row: f"{row.parameters:,}",
    "setting": lambda row: row.setting,
    "minillama, tokens/s": lambda row: f"{row.minillama:,.0f}",
    "Hugging Face": lambda row: f"{row.huggingface:,.0f}",
    "ratio": lambda row: f"{row.ratio:.2f}",
    "of ceiling": lambda row: f"{row.ceiling_share:.0%}",
}


def measure_training(width: int, setting: str, steps: int, compiled: bool) -> TrainRow:
    """Start both processes and let them take steps in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in BUILDERS:
        pipes[name], far_end = context.Pipe()
        tuned = setting.startswith("same allocator") or name == "minillama"
        arguments = (name, width, tuned, compiled, far_end)
        processes.append(context.Process(target=train_in_process, args=arguments))
        processes[-1].start()
    sizes = {name: pipe.recv() for name, pipe in pipes.items()}
    assert len(set(sizes.values())) == 1, f"the models differ: {sizes} parameters"

    def step(pipe: Connection) -> Timed:
        pipe.send(True)
        return pipe.recv()

    contestants = {name: lambda pipe=pipe: step(pipe) for name, pipe in pipes.items()}
    results = race(contestants, steps, warm_up=2)
    for pipe, process in zip(pipes.values(), processes, strict=True):
        pipe.send(False)
        process.join()
    for name, result in results.items():
        assert result.outputs[-1] < result.outputs[0], f"{name} did not learn"
    ours, reference = results["minillama"], results["huggingface"]
    rates = [BATCH * SEQ_LEN / result.median for result in (ours, reference)]
    flops = flops_per_token(model_config(width), SEQ_LEN, embedding=False)
    share = rates[0] * flops / ceiling()
    return TrainRow(width, setting, sizes["minillama"], *rates, reference.slower_than(ours), share)


def bench_train(
    widths: tuple[Literal[128, 256, 384], ...] = tuple(WIDTHS),
    steps: int = 15,
    compile: bool = False,
) -> list[TrainRow]:
    """Compare training speed with Hugging Face at several widths, and print the table.

    Args:
        widths: model widths, among 128, 256 and 384.
        steps: counted steps of each contestant.
        compile: add rows with torch.compile on both sides (needs a C++ compiler).
    """
    settings = [("as shipped", False), ("same allocator", False)]
    if compile:
        settings += [(f"{setting}, compiled", True) for setting, _ in settings]
    rows = []
    for width in widths:
        rows += [measure_training(width, name, steps, compiled) for name, compiled in settings]
    print(f"CPU, float32, {torch.get_num_threads()} threads, {BATCH} x {SEQ_LEN} tokens a step")
    print(table_of(rows, COLUMNS))
    return rows
