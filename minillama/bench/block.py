"""One transformer block three ways: plain autograd, recomputing all, and the backward by hand.

All share the same weights and take steps in turn, so that a machine whose speed drifts slows all.
A step is a forward and a backward; saved bytes are the activations that wait between the two.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minillama.config import ModelConfig
from minillama.efficient import BlockByHand, saved_bytes
from minillama.model import TransformerBlock, rotary_table
from minillama.train.allocator import keep_freed_memory

HEAD_DIM = 128
"""As in all of the paper's models."""


def contenders(config: ModelConfig) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Blocks of the same weights, by name; the first is what the others are compared with."""
    plain = TransformerBlock(config)
    named: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "autograd": plain,
        "full recompute": lambda x, table: checkpoint(plain, x, table, use_reentrant=False),
    }
    for name, lean in (("by hand, 6d + 2f", False), ("by hand, 4d + 2f", True)):
        block = BlockByHand(config)
        block.load_state_dict(plain.state_dict())
        block.lean = lean
        named[name] = block
    return named


@dataclass(frozen=True)
class Row:
    """One contender at one width; the ratios are to autograd's."""

    width: int
    name: str
    saved: int
    """Bytes."""
    fewer: float
    """Autograd's bytes over these."""
    seconds: float
    """Median of a step."""
    slower: float
    """Median of the paired ratios of time, to autograd's."""


def compare(width: int, steps: int, batch: int, seq_len: int) -> list[Row]:
    """Measure all contenders at one width: ``steps`` steps each in turn, after two warm-ups."""
    torch.manual_seed(0)
    config = ModelConfig(dim=width, n_heads=max(1, width // HEAD_DIM), max_seq_len=seq_len)
    table = rotary_table(config.head_dim, seq_len)
    x = torch.randn(batch, seq_len, width, requires_grad=True)
    toward = torch.randn(batch, seq_len, width)
    blocks = contenders(config)
    modules = [block for block in blocks.values() if isinstance(block, TransformerBlock)]
    weights = [weight for module in modules for weight in module.parameters()]
    saved = {
        name: saved_bytes(lambda block=block: block(x, table), [table, *weights])
        for name, block in blocks.items()
    }
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(steps + 2):
        for name, block in blocks.items():
            began = time.perf_counter()
            block(x, table).backward(toward)
            times[name].append(time.perf_counter() - began)
            for tensor in (x, *weights):
                tensor.grad = None
    base = next(iter(blocks))
    return [
        Row(
            width, name, saved[name], saved[base] / saved[name], statistics.median(took[2:]),
            statistics.median(a / b for a, b in zip(took[2:], times[base][2:], strict=True)),
        )
        for name, took in times.items()
    ]  # fmt: skip


def bench_block(
    widths: tuple[int, ...] = (512, 1024), steps: int = 15, batch: int = 4, seq_len: int = 512
) -> list[Row]:
    """Compare the memory and time of a block's backwards, and print the table.

    Args:
        widths: model widths, multiples of 128.
        steps: counted steps of each contender.
        batch: sequences in a step.
        seq_len: tokens in a sequence.
    """
    keep_freed_memory()
    print(f"CPU, float32, {torch.get_num_threads()} threads, {batch} x {seq_len} tokens a step")
    print(f"{'width':>5} {'backward':<18}{'saved MB':>9}{'fewer':>7}{'ms':>9}{'time':>7}")
    rows = []
    for width in widths:
        for row in compare(width, steps, batch, seq_len):
            rows.append(row)
            print(f"{row.width:>5} {row.name:<18}{row.saved / 1e6:>9.1f}{row.fewer:>6.2f}x"
                  f"{row.seconds * 1e3:>9.1f}{row.slower:>6.2f}x", flush=True)  # fmt: skip
    return rows
