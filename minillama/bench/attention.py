"""Memory and time of causal attention over the sequence's length, in three ways (Section 2.4).

All take the same queries, keys and values, in steps in turn; a step is a forward and a backward.
*Saved* are the bytes that wait for the backward, the inputs among them; *peak* is the most that a
step has allocated at one time, above its inputs. One table of T x T weights is enough to make both
grow with the square of T.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.bench.clock import choose_clock
from minillama.bench.peak import allocated
from minillama.efficient import blockwise_attention, full_attention, saved_bytes
from minillama.errors import ConfigError
from minillama.figures.efficiency import attention_memory, flags, save_figure
from minillama.train.allocator import keep_freed_memory

NAIVE, BLOCKWISE, FUSED = "full table", "block by block", "torch's fused kernel"
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
CONTENDERS: dict[str, Attention] = {
    NAIVE: full_attention,
    BLOCKWISE: blockwise_attention,
    FUSED: lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
}


@dataclass(frozen=True)
class Row:
    """One contender at one length; bytes are of float32."""

    seq_len: int
    name: str
    saved: int
    """Bytes that the forward keeps for the backward."""
    formula: int
    """The same by ``expected_saved``."""
    peak: int
    """Bytes at the highest moment of a step, above those of Q, K and V."""
    seconds: float
    """Median of a step."""


def expected_saved(name: str, heads: int, head_dim: int, seq_len: int) -> int:
    """Bytes saved of one sequence: Q, K, V and the weights, or the output and one sum a row.

    The full table takes 4 bytes a weight, and one for each pair of positions for the mask that the
    heads share: 4 H T^2 + T^2. The others keep no table: 4 H T D for the output, 4 H T for the
    logarithms of the softmax's sums.
    """
    vectors = 4 * heads * seq_len * head_dim
    if name == NAIVE:
        return 3 * vectors + (4 * heads + 1) * seq_len**2
    return 4 * vectors + 4 * heads * seq_len


def naive_peak(heads: int, head_dim: int, seq_len: int) -> int:
    """Bytes at the highest moment with the full table: three tables, the mask, two outputs."""
    return (12 * heads + 1) * seq_len**2 + 8 * heads * seq_len * head_dim


def compare(seq_len: int, heads: int, head_dim: int, steps: int, limit: float) -> list[Row]:
    """Measure the contenders at one length, those that stay below ``limit`` bytes."""
    torch.manual_seed(seq_len)
    q, k, v = torch.randn(3, 1, heads, seq_len, head_dim)
    inputs = [t.requires_grad_() for t in (q, k, v)]
    toward = torch.randn_like(q)
    ways = dict(CONTENDERS)
    if naive_peak(heads, head_dim, seq_len) > limit:
        del ways[NAIVE]

    def step(attention: Attention) -> None:
        attention(*inputs).backward(toward)
        for tensor in inputs:
            tensor.grad = None

    saved = {name: saved_bytes(lambda way=way: way(*inputs)) for name, way in ways.items()}
    peaks = {name: allocated(lambda way=way: step(way)).peak for name, way in ways.items()}
    now = choose_clock()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(steps):
        for name, way in ways.items():
            began = now()
            step(way)
            times[name].append(now() - began)
    return [
        Row(
            seq_len, name, saved[name], expected_saved(name, heads, head_dim, seq_len),
            peaks[name], statistics.median(times[name]),
        )
        for name in ways
    ]  # fmt: skip


def bench_attention(
    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192),
    heads: int = 4,
    head_dim: int = 64,
    steps: int = 5,
    limit_gb: float = 2.0,
    out: Path | None = None,
) -> list[Row]:
    """Compare the memory and time of three attentions over the sequence's length.

    Args:
        lengths: tokens in the sequence.
        heads: attention heads.
        head_dim: width of a head.
        steps: counted steps of each contender, after the one whose memory is counted.
        limit_gb: the full table is left out where it would take more.
        out: folder for the figure, attention_memory.{png,svg,csv,json}; none by default.

    Raises:
        ConfigError: a number below 1.
    """
    if min(*lengths, heads, head_dim, steps) < 1 or limit_gb <= 0:
        raise ConfigError("lengths, heads, head_dim and steps must be at least 1", "raise them")
    keep_freed_memory()
    print(f"CPU, float32, {torch.get_num_threads()} threads, {heads} heads of {head_dim}")
    print(f"{'T':>6} {'attention':<22}{'saved MB':>10}{'formula':>9}{'peak MB':>9}{'ms':>9}")
    rows = []
    for seq_len in lengths:
        for row in compare(seq_len, heads, head_dim, steps, limit_gb * 1e9):
            rows.append(row)
            print(f"{row.seq_len:>6} {row.name:<22}{row.saved / 1e6:>10.2f}"
                  f"{row.formula / 1e6:>9.2f}{row.peak / 1e6:>9.2f}{row.seconds * 1e3:>9.2f}",
                  flush=True)  # fmt: skip
    if out:
        settings = {"heads": heads, "head_dim": head_dim, "steps": steps}
        command = ["minillama", "bench", "attention", "--lengths", *map(str, lengths),
                   *flags(settings), "--limit-gb", str(limit_gb), "--out", str(out)]  # fmt: skip
        drawn = attention_memory([asdict(row) for row in rows])
        for path in save_figure(drawn, out / "attention_memory", command, settings):
            print(f"wrote {path}")
    return rows
