"""Memory and time of causal attention over the sequence's length, in three ways (Section 2.4).

All take the same queries, keys and values, in steps in turn; a step is a forward and a backward.
*Saved* are the bytes that wait for the backward, the inputs among them; *peak* is the most that a
step has allocated at one time, above its inputs. One table of T x T weights is enough to make both
grow with the square of T.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.bench.peak import allocated
from minillama.bench.race import Columns, choose_clock, race, table_of
from minillama.efficient import blockwise_attention, full_attention, saved_bytes
from minillama.errors import ConfigError
from minillama.figures.efficiency import bench_command, draw_attention_figure, save_measurement
from minillama.train.allocator import keep_freed_memory

NAIVE, BLOCKWISE, FUSED = "full table", "block by block", "torch's fused kernel"
ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    NAIVE: full_attention,
    BLOCKWISE: blockwise_attention,
    FUSED: partial(F.scaled_dot_product_attention, is_causal=True),
}


@dataclass(frozen=True)
class AttentionRow:
    """One attention at one length; bytes are of float32."""

    seq_len: int
    name: str
    saved: int  # bytes that the forward keeps for the backward
    formula: int  # the same by ``expected_saved``
    peak: int  # bytes at the highest moment of a step, above those of Q, K and V
    seconds: float  # median of a step


COLUMNS: Columns = {
    "T": lambda row: row.seq_len,
    "attention": lambda row: row.name,
    "saved MB": lambda row: f"{row.saved / 1e6:.2f}",
    "formula": lambda row: f"{row.formula / 1e6:.2f}",
    "peak MB": lambda row: f"{row.peak / 1e6:.2f}",
    "ms": lambda row: f"{row.seconds * 1e3:.2f}",
}


def expected_saved(name: str, heads: int, head_dim: int, seq_len: int) -> int:
    """Bytes saved of one sequence: Q, K, V and the weights, or the output and one sum a row.

    The full table takes 4 bytes a weight, and one for each pair of positions for the mask that the
    heads share: 4 H T^2 + T^2. The others keep no table: 4 H T D for the output, 4 H T for the
    logarithms of the softmax's sums.
    """
    vectors = 4 * heads * seq_len * head_dim
    if name == NAIVE:
        table = (4 * heads + 1) * seq_len**2
        return 3 * vectors + table
    sums = 4 * heads * seq_len
    return 4 * vectors + sums


def naive_peak(heads: int, head_dim: int, seq_len: int) -> int:
    """Bytes at the highest moment with the full table: three tables, the mask, two outputs."""
    return (12 * heads + 1) * seq_len**2 + 8 * heads * seq_len * head_dim


def measure_attentions(
    seq_len: int, heads: int, head_dim: int, steps: int, limit: float
) -> list[AttentionRow]:
    """Measure the attentions at one length, those that stay below ``limit`` bytes."""
    torch.manual_seed(seq_len)
    q, k, v = torch.randn(3, 1, heads, seq_len, head_dim)
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    gradient = torch.randn_like(q)

    def step(name: str) -> None:
        ATTENTIONS[name](*inputs).backward(gradient)
        for tensor in inputs:
            tensor.grad = None

    names = list(ATTENTIONS)
    if naive_peak(heads, head_dim, seq_len) > limit:
        names.remove(NAIVE)
    contestants = {name: partial(step, name) for name in names}
    saved = {name: saved_bytes(partial(ATTENTIONS[name], *inputs)) for name in names}
    peaks = {name: allocated(contestants[name]).peak for name in names}
    results = race(contestants, steps, clock=choose_clock())
    rows = []
    for name in names:
        formula = expected_saved(name, heads, head_dim, seq_len)
        seconds = results[name].median
        rows.append(AttentionRow(seq_len, name, saved[name], formula, peaks[name], seconds))
    return rows


def bench_attention(
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192),
    heads: int = 4,
    head_dim: int = 64,
    steps: int = 5,
    limit_gb: float = 2.0,
    out: Path | None = None,
) -> list[AttentionRow]:
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
        rows += measure_attentions(seq_len, heads, head_dim, steps, limit_gb * 1e9)
    print(f"CPU, float32, {torch.get_num_threads()} threads, {heads} heads of {head_dim}")
    print(table_of(rows, COLUMNS))
    if out:
        settings = {"heads": heads, "head_dim": head_dim, "steps": steps}
        shown = {"lengths": lengths} | settings | {"limit_gb": limit_gb, "out": out}
        command = bench_command("attention", shown)
        save_measurement(draw_attention_figure, rows, out / "attention_memory", command, settings)
    return rows
