"""One transformer block with five backwards: what each keeps in memory, and how long it takes.

Plain autograd; the whole block computed again (``torch.utils.checkpoint``); torch's selective
checkpointing, which keeps the products of matrices and of attention; and the backward by hand, in
both its forms. All share the same weights and take steps in turn, so that a machine whose speed
drifts slows all. A step is a forward and a backward; *saved* are the bytes that wait between the
two, the block's input or, what is as much, its output among them.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from minillama.bench.clock import choose_clock
from minillama.bench.peak import allocated
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.figures.efficiency import block_memory, flags, save_figure
from minillama.model import Llama, rotary_table
from minillama.train.allocator import keep_freed_memory

HEAD_DIM = 128
"""As in all of the paper's models."""
CONTENDERS: dict[str, Callable[[Llama], Llama]] = {
    "autograd": lambda model: model,
    "full recompute": lambda model: recompute_blocks(model, "full"),
    "torch's selective": lambda model: recompute_blocks(model, "selective"),
    "by hand, 6d + 2f": lambda model: differentiate_by_hand(model, lean=False),
    "by hand, 4d + 2f": differentiate_by_hand,
}
"""Each makes a model's blocks its own; the first is what the others are compared with."""


def contenders(config: ModelConfig) -> dict[str, torch.nn.Module]:
    """Blocks of the same weights, by name."""
    plain = Llama(config)
    blocks = {}
    for name, change in CONTENDERS.items():
        model = Llama(config)
        model.load_state_dict(plain.state_dict())
        blocks[name] = change(model).layers[0]
    return blocks


@dataclass(frozen=True)
class Row:
    """One contender at one width; the ratios are to autograd's."""

    width: int
    name: str
    saved: int
    """Bytes."""
    fewer: float
    """Autograd's bytes over these."""
    peak: int
    """Bytes at the highest moment of a step."""
    seconds: float
    """Median of a step."""
    slower: float
    """Median of the paired ratios of time, to autograd's."""


def compare(width: int, steps: int, batch: int, seq_len: int) -> list[Row]:
    """Measure all contenders at one width: ``steps`` steps each in turn, after two warm-ups."""
    torch.manual_seed(0)
    config = ModelConfig(dim=width, n_heads=max(1, width // HEAD_DIM), n_layers=1, vocab_size=16,
                         max_seq_len=seq_len)  # fmt: skip
    table = rotary_table(config.head_dim, seq_len)
    x = torch.randn(batch, seq_len, width, requires_grad=True)
    toward = torch.randn(batch, seq_len, width)
    blocks = contenders(config)
    leaves = [x, *(weight for block in blocks.values() for weight in block.parameters())]

    def step(block: Callable[[Tensor, Tensor], Tensor]) -> None:
        block(x, table).backward(toward)
        for tensor in leaves:
            tensor.grad = None

    saved, peaks = {}, {}
    for name, block in blocks.items():
        saved[name] = allocated(lambda block=block: block(x, table)).held
        peaks[name] = allocated(lambda block=block: step(block)).peak
    now = choose_clock()
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for _ in range(steps + 2):
        for name, block in blocks.items():
            began = now()
            step(block)
            times[name].append(now() - began)
    base = next(iter(blocks))
    return [
        Row(
            width, name, saved[name], saved[base] / saved[name], peaks[name],
            statistics.median(took[2:]),
            statistics.median(a / b for a, b in zip(took[2:], times[base][2:], strict=True)),
        )
        for name, took in times.items()
    ]  # fmt: skip


def bench_block(
    widths: tuple[int, ...] = (256, 512, 1024),
    steps: int = 15,
    batch: int = 4,
    seq_len: int = 512,
    out: Path | None = None,
) -> list[Row]:
    """Compare the memory and time of a block's backwards, and print the table.

    Args:
        widths: model widths, multiples of 128.
        steps: counted steps of each contender.
        batch: sequences in a step.
        seq_len: tokens in a sequence.
        out: folder for the figure, block_memory.{png,svg,csv,json}; none by default.
    """
    keep_freed_memory()
    print(f"CPU, float32, {torch.get_num_threads()} threads, {batch} x {seq_len} tokens a step")
    print(f"{'width':>5} {'backward':<18}{'saved MB':>9}{'fewer':>7}{'peak MB':>9}{'ms':>9}"
          f"{'time':>7}")  # fmt: skip
    rows = []
    for width in widths:
        for row in compare(width, steps, batch, seq_len):
            rows.append(row)
            print(f"{row.width:>5} {row.name:<18}{row.saved / 1e6:>9.1f}{row.fewer:>6.2f}x"
                  f"{row.peak / 1e6:>9.1f}{row.seconds * 1e3:>9.1f}{row.slower:>6.2f}x",
                  flush=True)  # fmt: skip
    if out:
        settings = {"steps": steps, "batch": batch, "seq_len": seq_len}
        command = ["minillama", "bench", "block", "--widths", *map(str, widths),
                   *flags(settings), "--out", str(out)]  # fmt: skip
        drawn = block_memory([asdict(row) for row in rows])
        for path in save_figure(drawn, out / "block_memory", command, settings):
            print(f"wrote {path}")
    return rows
