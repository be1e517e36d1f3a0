"""The shape of a model: Table 2 of the paper, and two small ladders in the same ratio.

A ladder is four sizes whose parameter counts stand to one another about as 6.7 : 13.0 : 32.5 :
65.2 billion do (1 : 1.93 : 4.83 : 9.69). ``nano`` trains on two CPU cores in minutes, ``mini`` on
one GPU in under an hour, ``full`` is the paper's own.
"""

from dataclasses import dataclass

from minillama.errors import ConfigError, nearest


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

    def __post_init__(self) -> None:
        for field in ("dim", "n_layers", "n_heads", "vocab_size", "multiple_of", "max_seq_len"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} = {getattr(self, field)}", f"{field} must be positive")
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
        if self.norm_eps <= 0 or self.rope_theta <= 0:
            raise ConfigError("norm_eps and rope_theta must be positive", "the paper has 1e-6, 1e4")

    @property
    def head_dim(self) -> int:
        """Features of one attention head: 128 in all of the paper's models."""
        return self.dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the SwiGLU layer: 2/3 of 4d, rounded up to ``multiple_of`` (Section 2.2)."""
        two_thirds = int(2 * (4 * self.dim) / 3)
        return self.multiple_of * -(-two_thirds // self.multiple_of)

    def num_parameters(self) -> int:
        """All trainable numbers, counted from the formula (nothing is allocated)."""
        attention = 4 * self.dim**2  # wq, wk, wv, wo
        feed_forward = 3 * self.dim * self.hidden_dim  # w1, w2, w3
        block = attention + feed_forward + 2 * self.dim  # and two norms
        embeddings = 2 * self.vocab_size * self.dim  # input and output, untied
        return self.n_layers * block + embeddings + self.dim

    @classmethod
    def from_name(cls, name: str) -> "ModelConfig":
        """A named size: ``7b 13b 33b 65b``, or with ``nano-`` / ``mini-`` in front.

        Raises:
            ConfigError: the name is unknown; the nearest one is suggested.
        """
        if name.lower() not in SIZES:
            raise ConfigError(f"unknown model '{name}'", nearest(name.lower(), SIZES))
        return cls(**SIZES[name.lower()])


SIZES: dict[str, dict] = {
    # Table 2.
    "7b": dict(dim=4096, n_layers=32, n_heads=32),
    "13b": dict(dim=5120, n_layers=40, n_heads=40),
    "33b": dict(dim=6656, n_layers=60, n_heads=52),
    "65b": dict(dim=8192, n_layers=80, n_heads=64),
}

_NANO = dict(vocab_size=1024, multiple_of=16, max_seq_len=256)
SIZES |= {
    # 0.11M : 0.21M : 0.53M : 1.07M parameters (1 : 1.98 : 5.01 : 10.1).
    "nano-7b": dict(dim=32, n_layers=3, n_heads=2, **_NANO),
    "nano-13b": dict(dim=48, n_layers=4, n_heads=2, **_NANO),
    "nano-33b": dict(dim=96, n_layers=3, n_heads=2, **_NANO),
    "nano-65b": dict(dim=128, n_layers=4, n_heads=2, **_NANO),
}

_MINI = dict(vocab_size=8192, multiple_of=32, max_seq_len=512)
SIZES |= {
    "mini-7b": dict(dim=128, n_layers=6, n_heads=2, **_MINI),
    "mini-13b": dict(dim=192, n_layers=7, n_heads=3, **_MINI),
    "mini-33b": dict(dim=320, n_layers=9, n_heads=5, **_MINI),
    "mini-65b": dict(dim=448, n_layers=10, n_heads=7, **_MINI),
}
