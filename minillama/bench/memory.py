"""Memory and time of attention over its length, and of a block's backwards (Section 2.4).

All contestants of a size have the same inputs and weights and take steps in turn. A step is a
forward and a backward; *saved* are the bytes that wait between the two, the output among them;
*peak* is the most that a step has allocated at one time. Neither counts inputs and weights.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.bench.peak import allocated
from minillama.bench.race import Columns, bench_origin, race, table_of
from minillama.config import ModelConfig
from minillama.efficient import blockwise_attention, differentiate_by_hand, full_attention
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import ConfigError
from minillama.figures.efficiency import draw_memory_figure
from minillama.figures.style import save_figure
from minillama.model import Llama, rotary_table
from minillama.train.allocator import keep_freed_memory

HEAD_DIM = 128
"""As in all of the paper's models."""
FULL_TABLE = "full table"
ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "torch's fused kernel": partial(F.scaled_dot_product_attention, is_causal=True),
    "block by block": blockwise_attention,
    FULL_TABLE: full_attention,
}
BACKWARDS: dict[str, Callable[[Llama], Llama]] = {
    "autograd": lambda model: model,
    "full recompute": partial(recompute_blocks, choice="full"),
    "torch's selective": partial(recompute_blocks, choice="selective"),
    "by hand, 6d + 2f": partial(differentiate_by_hand, lean=False),
    "by hand, 4d + 2f": differentiate_by_hand,
}
"""Each makes a model's blocks its own. In both tables the first is what the others compare to."""
Forwards = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class MemoryRow:
    """One contestant at one size; the ratios are to the first contestant."""

    size: int  # tokens of the sequence, or width of the block
    name: str
    saved: int  # bytes
    fewer: float  # the first one's saved bytes over these
    peak: int  # bytes
    seconds: float  # median of a step
    slower: float  # median of the paired ratios of time


COLUMNS: Columns = {
    "size": lambda row: row.size,
    "": lambda row: row.name,
    "saved MB": lambda row: f"{row.saved / 1e6:.2f}",
    "fewer": lambda row: f"{row.fewer:.2f}x",
    "peak MB": lambda row: f"{row.peak / 1e6:.2f}",
    "ms": lambda row: f"{row.seconds * 1e3:.2f}",
    "time": lambda row: f"{row.slower:.2f}x",
}


def measure_memory(
    size: int, forwards: Forwards, leaves: Sequence[Tensor], steps: int
) -> list[MemoryRow]:
    """Measure forwards of the same output shape, with the gradients of ``leaves``."""
    first = next(iter(forwards))
    gradient = torch.randn_like(forwards[first]())

    def step(forward: Callable[[], Tensor]) -> None:
        forward().backward(gradient)
        for tensor in leaves:
            tensor.grad = None

    turns = {name: partial(step, forward) for name, forward in forwards.items()}
    saved = {name: allocated(forward).held for name, forward in forwards.items()}
    peaks = {name: allocated(turn).peak for name, turn in turns.items()}
    # The processor's time where there is one thread; of several it would be the sum.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    results = race(turns, steps, warm_up=2, clock=clock)
    rows = []
    for name, result in results.items():
        row = MemoryRow(
            size,
            name,
            saved[name],
            fewer=saved[first] / saved[name],
            peak=peaks[name],
            seconds=result.median,
            slower=result.slower_than(results[first]),
        )
        rows.append(row)
    return rows


def naive_peak(heads: int, head_dim: int, seq_len: int) -> int:
    """Bytes at the highest moment with the full table: three tables, the mask, two outputs."""
    return (12 * heads + 1) * seq_len**2 + 8 * heads * seq_len * head_dim


def build_blocks(config: ModelConfig) -> dict[str, nn.Module]:
    """Blocks of the same weights, by the name of their backward."""
    plain = Llama(config)
    blocks = {}
    for name, change in BACKWARDS.items():
        model = Llama(config)
        model.load_state_dict(plain.state_dict())
        blocks[name] = change(model).layers[0]
    return blocks


def bench_attention(
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192),
    heads: int = 4,
    head_dim: int = 64,
    steps: int = 5,
    limit_gb: float = 2.0,
    out: Path | None = None,
) -> list[MemoryRow]:
    """Compare the memory and time of three attentions over the sequence's length.

    Args:
        lengths: tokens in the sequence.
        heads: attention heads.
        head_dim: width of a head.
        steps: counted steps of each attention.
        limit_gb: the full table is left out where it would take more.
        out: folder for the figure, attention_memory.{png,svg,csv,json}; none by default.

    Raises:
        ConfigError: a number below 1.
    """
    if min(*lengths, heads, head_dim, steps) < 1 or limit_gb <= 0:
        raise ConfigError("lengths, heads, head_dim and steps must be at least 1", "raise them")
    keep_freed_memory()
    rows = []
    for seq_len in lengths:
        torch.manual_seed(seq_len)
        inputs = [tensor.requires_grad_() for tensor in torch.randn(3, 1, heads, seq_len, head_dim)]
        forwards = {name: partial(attend, *inputs) for name, attend in ATTENTIONS.items()}
        if naive_peak(heads, head_dim, seq_len) > limit_gb * 1e9:
            del forwards[FULL_TABLE]
        rows += measure_memory(seq_len, forwards, inputs, steps)
    settings = {"lengths": lengths, "heads": heads, "head_dim": head_dim, "steps": steps}
    report_memory("attention", rows, settings | {"limit_gb": limit_gb}, out)
    return rows


def bench_block(
    widths: tuple[int, ...] = (256, 512, 1024),
    steps: int = 15,
    batch: int = 4,
    seq_len: int = 512,
    out: Path | None = None,
) -> list[MemoryRow]:
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
        torch.manual_seed(0)
        heads = max(1, width // HEAD_DIM)
        config = ModelConfig(width, 1, heads, vocab_size=16, max_seq_len=seq_len)
        table = rotary_table(config.head_dim, seq_len)
        x = torch.randn(batch, seq_len, width, requires_grad=True)
        blocks = build_blocks(config)
        leaves = [x, *nn.ModuleList(blocks.values()).parameters()]
        forwards = {name: partial(block, x, table) for name, block in blocks.items()}
        rows += measure_memory(width, forwards, leaves, steps)
    settings = {"widths": widths, "steps": steps, "batch": batch, "seq_len": seq_len}
    report_memory("block", rows, settings, out)
    return rows


def report_memory(verb: str, rows: Sequence[MemoryRow], settings: dict, out: Path | None) -> None:
    """Print the table, and write the figure into ``out``."""
    named = ", ".join(f"{name} {value}" for name, value in settings.items())
    threads = torch.get_num_threads()
    print(f"CPU, float32, {threads} threads, {named}")
    print(table_of(rows, COLUMNS))
    if out is None:
        return
    x = "seq_len" if verb == "attention" else "width"
    records = []
    for row in rows:
        values = asdict(row)
        records.append({x: values.pop("size")} | values)
    origin = bench_origin(verb, settings | {"out": out})
    figure = draw_memory_figure(records, x)
    paths = save_figure(figure, records, out / f"{verb}_memory", origin)
    for path in paths:
        print(f"wrote {path}")
