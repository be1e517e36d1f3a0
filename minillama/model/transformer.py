"""The LLaMA model: embeddings, pre-norm blocks, a final norm, and an untied output matrix."""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from minillama.config import ModelConfig
from minillama.errors import DataError
from minillama.model.attention import Attention, Mix, causal_attention
from minillama.model.feedforward import FeedForward
from minillama.model.loss import linear_cross_entropy
from minillama.model.norm import RMSNorm
from minillama.model.rotary import model_table

LayerMix = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""A ``Mix`` that is also given the number of the layer."""


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)): normalize before, add after."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, table: Tensor, mix: Mix = causal_attention) -> Tensor:
        """Transform ``x (batch, seq, dim)``; the other arguments are those of ``Attention``."""
        x = x + self.attention(self.attention_norm(x), table, mix)
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
        self.register_buffer("rotary", model_table(config), persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights, in order of their names."""
        for name, weight in self.named_parameters():
            self.init_weight(name, weight)

    def init_weight(self, name: str, weight: Tensor) -> None:
        """Draw normal weights that keep the size of what flows through them, whatever the width d.

        The paper does not state its initialization. Here embeddings have variance 1 and matrices
        1 / d, which keeps it; the two that write to the residual stream are divided by sqrt(2 L),
        so that depth does not add to it; ``output`` is small, so that the first prediction is
        nearly uniform. At 7B's width 1 / sqrt(d) is 0.016, close to the 0.02 of GPT-2.
        """
        std = self.config.dim**-0.5
        if name.endswith("norm.weight"):
            nn.init.ones_(weight)
        elif name.endswith(("wo.weight", "w2.weight")):
            nn.init.normal_(weight, std=std / math.sqrt(2 * self.config.n_layers))
        elif name == "tok_embeddings.weight":
            nn.init.normal_(weight, std=1.0)
        elif name == "output.weight":
            nn.init.normal_(weight, std=0.02)
        else:
            nn.init.normal_(weight, std=std)

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
        x = self.hidden_states(tokens)
        if targets is None:
            return self.output(x)  # (B, T, vocab_size)
        return self.loss(x, targets)

    def hidden_states(
        self, tokens: Tensor, mix: LayerMix | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """What the output matrix reads: embeddings, all blocks and the last norm.

        A key-value cache, packed rows and pictures of attention are each a ``mix`` of their own.

        Args:
            tokens: ``(batch, seq)`` int64; or any shape that the mix knows.
            mix: what attends in place of ``causal_attention``.
            positions: of the tokens, ``(seq,)`` or of their shape; 0, 1, ... without it.

        Returns:
            ``(batch, seq, dim)``.
        """
        seq, context = tokens.shape[-1], self.config.max_seq_len
        if positions is None and seq > context:
            raise DataError(
                f"a sequence of {seq} tokens exceeds the context of {context}",
                "shorten it, or use a model with a larger max_seq_len",
            )
        table = self.rotary[:seq] if positions is None else self.rotary[positions]
        x = self.tok_embeddings(tokens)  # (B, T, dim)
        for i, layer in enumerate(self.layers):
            x = layer(x, table) if mix is None else layer(x, table, partial(mix, i))
        return self.norm(x)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of hidden states ``x`` and the ``targets`` of ``forward``."""
        return linear_cross_entropy(x.flatten(0, 1), self.output.weight, targets.flatten())
