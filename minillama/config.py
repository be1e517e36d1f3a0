"""The shape of a model: Table 2 of the paper, and three small ladders in the same ratio.

A ladder is four sizes whose parameter counts stand to one another about as 6.7 : 13.0 : 32.5 :
65.2 billion do (1 : 1.93 : 4.83 : 9.69). ``nano`` trains on two CPU cores in minutes, ``small`` in
hours, ``mini`` on one GPU in under an hour; ``full`` is the paper's own.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from minillama.errors import ConfigError, nearest

ScalingKind = Literal["linear", "ntk", "dynamic", "yarn"]


@dataclass(frozen=True)
class RopeScaling:
    """How rotary angles change to read beyond the trained context; see ``model/rotary.py``."""

    kind: ScalingKind = "linear"
    """Position interpolation, NTK-aware, Hugging Face's dynamic NTK, or YaRN."""
    factor: float = 1.0
    """How many times longer the context becomes."""
    original_max_seq_len: int = 0
    """Context in training, in tokens; dynamic and yarn need it."""
    beta_fast: float = 32.0
    """yarn leaves alone the pairs that turn more often than this within the original context."""
    beta_slow: float = 1.0
    """yarn slows down by ``factor`` the pairs that turn less often than this."""
    attention_factor: float = 0.0
    """yarn multiplies queries and keys by this; 0 stands for the paper's 0.1 ln(factor) + 1."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScalingKind):
            hint = nearest(str(self.kind), get_args(ScalingKind))
            raise ConfigError(f"unknown rope_scaling '{self.kind}'", hint)
        if not 1 <= self.factor < math.inf:
            raise ConfigError(f"rope_scaling: factor = {self.factor}", "it must be at least 1")
        if self.kind in ("dynamic", "yarn") and self.original_max_seq_len < 1:
            raise ConfigError(
                f"rope_scaling: original_max_seq_len = {self.original_max_seq_len}",
                f"{self.kind} needs the context that the model was trained with",
            )
        if not 0 < self.beta_slow < self.beta_fast < math.inf:
            raise ConfigError(
                f"rope_scaling: beta_slow = {self.beta_slow}, beta_fast = {self.beta_fast}",
                "they must be positive and beta_fast the larger; the paper has 1 and 32",
            )
        if not 0 <= self.attention_factor < math.inf:
            raise ConfigError(
                f"rope_scaling: attention_factor = {self.attention_factor}",
                "it must be positive, or 0 for the paper's 0.1 ln(factor) + 1",
            )


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of a LLaMA model, under Meta's names (paper, Section 2.2 and Table 2)."""

    dim: int = 4096
    """Width d of the residual stream."""
    n_layers: int = 32
    """Transformer blocks L."""
    n_heads: int = 32
    """Attention heads; they share the width."""
    vocab_size: int = 32_000
    """Pieces of the tokenizer."""
    multiple_of: int = 256
    """The feed-forward width is rounded up to a multiple of this."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    max_seq_len: int = 2048
    """Context length in tokens."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """How they are changed to read on beyond the trained context: not at all, unless a
    configuration file has a table [model.rope_scaling]."""

    def __post_init__(self) -> None:
        for field in ("dim", "n_layers", "n_heads", "vocab_size", "multiple_of", "max_seq_len"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} = {getattr(self, field)}", "it must be positive")
        if self.dim % self.n_heads:
            raise ConfigError(
                f"dim = {self.dim} is not a multiple of n_heads = {self.n_heads}",
                "choose a dim that the number of heads divides",
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"the head dimension {self.head_dim} is odd",
                "rotary embeddings turn pairs of features, so dim / n_heads must be even",
            )
        if not (0 < self.norm_eps < math.inf and 0 < self.rope_theta < math.inf):
            raise ConfigError(
                f"norm_eps = {self.norm_eps}, rope_theta = {self.rope_theta}",
                "they must be positive numbers; the paper has 1e-6 and 1e4",
            )
        if self.rope_scaling is not None and (self.head_dim == 2 or self.rope_theta <= 1):
            raise ConfigError(
                f"rope_scaling with head_dim = {self.head_dim}, rope_theta = {self.rope_theta}",
                "pairs must differ in speed: a head_dim above 2 and a rope_theta above 1",
            )

    @property
    def head_dim(self) -> int:
        """Features of one attention head: 128 in all of the paper's models."""
        return self.dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the SwiGLU layer: 2/3 of 4d, rounded up to ``multiple_of`` (Section 2.2)."""
        two_thirds = int(2 * (4 * self.dim) / 3)
        return self.multiple_of * -(-two_thirds // self.multiple_of)

    @property
    def rope_base(self) -> float:
        """The base at which plain rotary embeddings turn as this model's do.

        ``ntk`` (bloc97, 2023) is a change of base and nothing else: theta * s^(d / (d - 2)) leaves
        the fastest pair alone and slows the slowest down by exactly s. There s is ``factor``; in
        ``dynamic``, the formula of Hugging Face, it is factor * L / L0 - (factor - 1), with L0 the
        original context. Hugging Face takes the length so far as L and so changes the base while
        it writes, although keys in its cache were turned by the old one. Here L is
        ``max_seq_len``, once and for all; both agree on a text of that length read in one pass.

        Raises:
            ConfigError: linear and yarn change more than the base; for file formats that cannot
                hold them.
        """
        scaling = self.rope_scaling
        if scaling is None:
            return self.rope_theta
        if scaling.kind in ("linear", "yarn"):
            raise ConfigError(
                f"rope_scaling of kind '{scaling.kind}' is no change of rope_theta",
                "this format can hold no such model; Hugging Face's can",
            )
        stretch = scaling.factor
        if scaling.kind == "dynamic":
            longest = max(self.max_seq_len, scaling.original_max_seq_len)
            stretch = stretch * longest / scaling.original_max_seq_len - (stretch - 1)
        return self.rope_theta * stretch ** (self.head_dim / (self.head_dim - 2))

    def num_parameters(self) -> int:
        """All trainable numbers, counted from the formula (nothing is allocated)."""
        attention = 4 * self.dim**2  # wq, wk, wv, wo
        feed_forward = 3 * self.dim * self.hidden_dim  # w1, w2, w3
        block = attention + feed_forward + 2 * self.dim  # and two norms
        embeddings = 2 * self.vocab_size * self.dim  # input and output, untied
        return self.n_layers * block + embeddings + self.dim

    @classmethod
    def from_name(cls, name: str) -> "ModelConfig":
        """A named size: ``7b 13b 33b 65b``, or with ``nano-`` / ``small-`` / ``mini-`` before it.

        Raises:
            ConfigError: the name is unknown; the nearest one is suggested.
        """
        if name.lower() not in SIZES:
            raise ConfigError(f"unknown model '{name}'", nearest(name.lower(), SIZES))
        return cls(**SIZES[name.lower()])


_NANO = dict(vocab_size=2048, multiple_of=16, max_seq_len=256)
_SMALL = dict(vocab_size=4096, multiple_of=16, max_seq_len=256)
_MINI = dict(vocab_size=8192, multiple_of=32, max_seq_len=512)
SIZES: dict[str, dict] = {
    # Table 2.
    "7b": dict(dim=4096, n_layers=32, n_heads=32),
    "13b": dict(dim=5120, n_layers=40, n_heads=40),
    "33b": dict(dim=6656, n_layers=60, n_heads=52),
    "65b": dict(dim=8192, n_layers=80, n_heads=64),
    # 0.17M : 0.31M : 0.73M : 1.33M parameters (1 : 1.8 : 4.2 : 7.8).
    "nano-7b": dict(dim=32, n_layers=3, n_heads=2, **_NANO),
    "nano-13b": dict(dim=48, n_layers=4, n_heads=2, **_NANO),
    "nano-33b": dict(dim=96, n_layers=3, n_heads=2, **_NANO),
    "nano-65b": dict(dim=128, n_layers=4, n_heads=2, **_NANO),
    # 0.30M : 0.59M : 1.45M : 2.86M parameters (1 : 1.94 : 4.80 : 9.47); the two matrices of
    # embeddings, 8,192 numbers for each feature of the width, are 87%, 67%, 54% and 46% of them.
    "small-7b": dict(dim=32, n_layers=3, n_heads=2, **_SMALL),
    "small-13b": dict(dim=48, n_layers=7, n_heads=2, **_SMALL),
    "small-33b": dict(dim=96, n_layers=6, n_heads=3, **_SMALL),
    "small-65b": dict(dim=160, n_layers=5, n_heads=4, **_SMALL),
    "mini-7b": dict(dim=128, n_layers=6, n_heads=2, **_MINI),
    "mini-13b": dict(dim=192, n_layers=7, n_heads=3, **_MINI),
    "mini-33b": dict(dim=320, n_layers=9, n_heads=5, **_MINI),
    "mini-65b": dict(dim=448, n_layers=10, n_heads=7, **_MINI),
}
