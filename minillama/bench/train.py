"""Training speed against Hugging Face's Llama: same parameters, batch and optimizer, one run.

Each contender lives in a process of its own and the two take steps in turn, so that a machine
whose speed drifts slows both. Two settings are compared: *as shipped* (a plain PyTorch process for
Hugging Face; for minillama what ``minillama train`` sets up, see ``train.allocator``), and *same
allocator*, where both keep their freed memory, so that only the model code differs.
"""

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

import torch

from minillama.config import ModelConfig
from minillama.model import Llama
from minillama.parallel.memory import flops_per_token
from minillama.train.allocator import keep_freed_memory
from minillama.train.optimizer import OptimizerConfig, build_optimizer, clip_gradients

WIDTHS = {128: (4, 2), 256: (6, 4), 384: (8, 6)}
"""Layers and heads at each width."""
BATCH, SEQ_LEN, VOCAB = 16, 256, 4096


def model_config(width: int) -> ModelConfig:
    """The benchmark's model of a given width."""
    layers, heads = WIDTHS[width]
    return ModelConfig(
        dim=width, n_layers=layers, n_heads=heads, vocab_size=VOCAB, multiple_of=32,
        max_seq_len=SEQ_LEN,
    )  # fmt: skip


def build_minillama(config: ModelConfig):  # noqa: ANN201
    """Model and ``loss(tokens, targets)`` of minillama."""
    model = Llama(config)
    return model, model


def build_huggingface(config: ModelConfig):  # noqa: ANN201
    """Model and ``loss(tokens, targets)`` of Hugging Face's ``LlamaForCausalLM``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.dim, intermediate_size=config.hidden_dim,
            num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
            vocab_size=config.vocab_size, max_position_embeddings=config.max_seq_len,
            rms_norm_eps=config.norm_eps, tie_word_embeddings=False, use_cache=False,
        )
    )  # fmt: skip
    # `shift_labels` are labels that are shifted already: the same targets as minillama's.
    return model, lambda x, y: model(input_ids=x, labels=y, shift_labels=y, use_cache=False).loss


BUILDERS = {"minillama": build_minillama, "huggingface": build_huggingface}


def contender(name: str, width: int, tuned: bool, compiled: bool, pipe: Connection) -> None:
    """The life of one process: build, then take one timed training step for every request."""
    if tuned:
        keep_freed_memory()
    torch.manual_seed(0)
    model, loss_of = BUILDERS[name](model_config(width))
    if compiled:
        loss_of = torch.compile(loss_of)
    optimizer = build_optimizer(model, OptimizerConfig(lr=1e-3))
    batch = torch.randint(0, VOCAB, (BATCH, SEQ_LEN + 1))
    pipe.send(sum(p.numel() for p in model.parameters()))
    while pipe.recv():
        began = time.perf_counter()
        loss = loss_of(batch[:, :-1], batch[:, 1:].contiguous())
        loss.backward()
        clip_gradients(model, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pipe.send((time.perf_counter() - began, float(loss.detach())))


def ceiling() -> float:
    """The machine's matrix-product rate in FLOP/s: the best of 20 of 1024 x 1024 floats."""
    a, b = torch.randn(2, 1024, 1024)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * 1024**3 / min(times)


@dataclass(frozen=True)
class Row:
    """One comparison: median tokens per second of both, and the median of the paired ratios."""

    width: int
    setting: str
    parameters: int
    minillama: float
    huggingface: float
    ratio: float
    ceiling_share: float


def compare(width: int, setting: str, steps: int, compiled: bool) -> Row:
    """Run both contenders in turn for ``steps`` counted steps after two warm-ups."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for name in BUILDERS:
        mine, theirs = context.Pipe()
        tuned = setting == "same allocator" or name == "minillama"
        worker = context.Process(target=contender, args=(name, width, tuned, compiled, theirs))
        worker.start()
        workers.append((worker, mine))
    sizes = [pipe.recv() for _, pipe in workers]
    assert sizes[0] == sizes[1], f"the models differ: {sizes} parameters"
    rates, losses = [], []
    for _ in range(steps + 2):
        pair = []
        for _, pipe in workers:
            pipe.send(True)
            pair.append(pipe.recv())
        rates.append([BATCH * SEQ_LEN / seconds for seconds, _ in pair])
        losses.append([loss for _, loss in pair])
    for worker, pipe in workers:
        pipe.send(False)
        worker.join()
    assert losses[-1][0] < losses[0][0] and losses[-1][1] < losses[0][1], "a model did not learn"
    ours, theirs = (statistics.median(column) for column in zip(*rates[2:], strict=True))
    ratio = statistics.median(a / b for a, b in rates[2:])
    share = ours * flops_per_token(model_config(width), SEQ_LEN, embedding=False) / ceiling()
    return Row(width, setting, sizes[0], ours, theirs, ratio, share)


def bench_train(
    widths: tuple[Literal[128, 256, 384], ...] = tuple(WIDTHS),
    steps: int = 15,
    compile: bool = False,
) -> list[Row]:
    """Compare training speed with Hugging Face at several widths, and print the table.

    Args:
        widths: model widths, among 128, 256 and 384.
        steps: counted steps of each contender.
        compile: add rows with torch.compile on both sides (needs a C++ compiler).
    """
    print(f"CPU, float32, {torch.get_num_threads()} threads, {BATCH} x {SEQ_LEN} tokens a step")
    print(f"{'width':>5} {'parameters':>10} {'setting':<24}{'minillama':>10}{'HF':>8} tokens/s"
          f"{'ratio':>7}{'of ceiling':>12}")  # fmt: skip
    rows = []
    for compiled in (False, True)[: 1 + compile]:
        for width in widths:
            for setting in ("as shipped", "same allocator"):
                row = compare(width, setting, steps, compiled)
                rows.append(row)
                label = setting + (", compiled" if compiled else "")
                print(f"{row.width:>5} {row.parameters:>10,} {label:<24}{row.minillama:>10,.0f}"
                      f"{row.huggingface:>8,.0f} {row.ratio:>15.2f}{row.ceiling_share:>12.0%}",
                      flush=True)  # fmt: skip
    return rows
