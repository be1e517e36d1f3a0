"""One transformer block with five backwards: what each keeps in memory, and how long it takes.

Plain autograd; the whole block computed again (``torch.utils.checkpoint``); torch's selective
checkpointing, which keeps the products of matrices and of attention; and the backward by hand, in
both its forms. All share the same weights and take steps in turn. A step is a forward and a
backward; *saved* are the bytes that wait between the two, the block's input or, what is as much,
its output among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from minillama.bench.peak import allocated
from minillama.bench.race import Columns, choose_clock, race, table_of
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.figures.efficiency import bench_command, draw_block_figure, save_measurement
from minillama.model import Llama, rotary_table
from minillama.train.allocator import keep_freed_memory

HEAD_DIM = 128
"""As in all of the paper's models."""
BACKWARDS: dict[str, Callable[[Llama], Llama]] = {
    "autograd": lambda model: model,
    "full recompute": partial(recompute_blocks, choice="full"),
    "torch's selective": partial(recompute_blocks, choice="selective"),
    "by hand, 6d + 2f": partial(differentiate_by_hand, lean=False),
    "by hand, 4d + 2f": differentiate_by_hand,
}
"""Each makes a model's blocks its own; the first is what the others are compared with."""


@dataclass(frozen=True)
class BlockRow:
    """One backward at one width; the ratios are to autograd's."""

    width: int
    name: str
    saved: int  # bytes
    fewer: float  # autograd's bytes over these
    peak: int  # bytes at the highest moment of a step
    seconds: float  # median of a step
    slower: float  # median of the paired ratios of time


COLUMNS: Columns = {
    "width": lambda row: row.width,
    "backward": lambda row: row.name,
    "saved MB": lambda row: f"{row.saved / 1e6:.1f}",
    "fewer": lambda row: f"{row.fewer:.2f}x",
    "peak MB": lambda row: f"{row.peak / 1e6:.1f}",
    "ms": lambda row: f"{row.seconds * 1e3:.1f}",
    "time": lambda row: f"{row.slower:.2f}x",
}


def build_blocks(config: ModelConfig) -> dict[str, torch.nn.Module]:
    """Blocks of the same weights, by name."""
    plain = Llama(config)
    blocks = {}
    for name, change in BACKWARDS.items():
        model = Llama(config)
        model.load_state_dict(plain.state_dict())
        blocks[name] = change(model).layers[0]
    return blocks


def measure_blocks(width: int, steps: int, batch: int, seq_len: int) -> list[BlockRow]:
    """Measure all backwards at one width."""
    torch.manual_seed(0)
    heads = max(1, width // HEAD_DIM)
    config = ModelConfig(width, 1, heads, vocab_size=16, max_seq_len=seq_len)
    table = rotary_table(config.head_dim, seq_len)
    x = torch.randn(batch, seq_len, width, requires_grad=True)
    gradient = torch.randn(batch, seq_len, width)
    blocks = build_blocks(config)
    models = torch.nn.ModuleList(blocks.values())

    def step(block: torch.nn.Module) -> None:
        block(x, table).backward(gradient)
        models.zero_grad()
        x.grad = None

    contestants = {name: partial(step, block) for name, block in blocks.items()}
    saved = {name: allocated(partial(blocks[name], x, table)).held for name in blocks}
    peaks = {name: allocated(contestants[name]).peak for name in blocks}
    results = race(contestants, steps, warm_up=2, clock=choose_clock())
    rows = []
    for name, result in results.items():
        fewer = saved["autograd"] / saved[name]
        slower = result.slower_than(results["autograd"])
        rows.append(BlockRow(width, name, saved[name], fewer, peaks[name], result.median, slower))
    return rows


def bench_block(
    widths: tuple[int, ...] = (256, 512, 1024),
    steps: int = 15,
    batch: int = 4,
    seq_len: int = 512,
    out: Path | None = None,
) -> list[BlockRow]:
    """Compare the memory and time of a block's backwards, and print the table.

    Args:
        widths: model widths, multiples of 128.
        steps: counted steps of each backward.
        batch: sequences in a step.
        seq_len: tokens in a sequence.
        out: folder for the figure, block_memory.{png,svg,csv,json}; none by default.
    """
    keep_freed_memory()
    rows = []
    for width in widths:
        rows += measure_blocks(width, steps, batch, seq_len)
    print(f"CPU, float32, {torch.get_num_threads()} threads, {batch} x {seq_len} tokens a step")
    print(table_of(rows, COLUMNS))
    if out:
        settings = {"steps": steps, "batch": batch, "seq_len": seq_len}
        command = bench_command("block", {"widths": widths} | settings | {"out": out})
        save_measurement(draw_block_figure, rows, out / "block_memory", command, settings)
    return rows
