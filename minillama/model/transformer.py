"""The LLaMA model: embeddings, pre-norm blocks, a final norm, and an untied output matrix."""

import math

import torch
from torch import Tensor, nn

from minillama.config import ModelConfig
from minillama.errors import DataError
from minillama.model.attention import Attention
from minillama.model.feedforward import FeedForward
from minillama.model.loss import linear_cross_entropy
from minillama.model.norm import RMSNorm
from minillama.model.rotary import rotary_table


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)): normalise before, add after."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """``x (batch, seq, dim)`` to the same shape; ``table`` as in ``Attention``."""
        x = x + self.attention(self.attention_norm(x), table)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """The whole model (Section 2.2), with Meta's parameter names.

    ``model(tokens)`` returns logits; ``model(tokens, targets=...)`` the mean cross-entropy in nats.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        table = rotary_table(config.head_dim, config.max_seq_len, config.rope_theta)
        self.register_buffer("rotary", table, persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal(0, 0.02), and 0.02 / sqrt(2 L) for the two matrices that write to the residual.

        The paper does not state its initialisation; this is GPT-2's, which most LLaMA
        reproductions use. The scaling keeps the residual stream's variance independent of depth L.
        """
        residual_std = 0.02 / math.sqrt(2 * self.config.n_layers)
        for name, weight in self.named_parameters():
            if name.endswith("norm.weight"):
                nn.init.ones_(weight)
            else:
                writes = name.endswith(("wo.weight", "w2.weight"))
                nn.init.normal_(weight, std=residual_std if writes else 0.02)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Predict the next token at every position.

        Args:
            tokens: ``(batch, seq)`` int64.
            targets: ``(batch, seq)`` int64, the token that follows each; -100 is not counted.

        Returns:
            Logits ``(batch, seq, vocab_size)``, or with targets the mean loss (a scalar, in nats).

        Raises:
            DataError: the sequence is longer than the context.
        """
        seq_len = tokens.shape[1]
        if seq_len > self.config.max_seq_len:
            raise DataError(
                f"a sequence of {seq_len} tokens exceeds the context of {self.config.max_seq_len}",
                "shorten it, or use a model with a larger max_seq_len",
            )
        x = self.tok_embeddings(tokens)  # (B, T, dim)
        for layer in self.layers:
            x = layer(x, self.rotary[:seq_len])
        x = self.norm(x)
        if targets is None:
            return self.output(x)  # (B, T, vocab_size)
        return linear_cross_entropy(x.flatten(0, 1), self.output.weight, targets.flatten())
