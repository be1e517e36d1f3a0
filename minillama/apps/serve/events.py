"""A completion told step by step: each token, how likely it was, and what else might have come."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minillama.apps.serve.request_schemas import Asked
from minillama.errors import MinillamaError
from minillama.inference import Decoder, Sampling
from minillama.inference.engine import Text, stream_tokens
from minillama.tokenizer import Tokenizer

ALTERNATIVES = 5
Event = tuple[str, dict[str, Any]]
"""A name and what it tells."""


@dataclass(frozen=True)
class Watched(Sampling):
    """Chooses as ``Sampling`` does, and remembers from what."""

    saw: list[Tensor] = field(default_factory=list)
    """The logits of the last choice, ``(vocab_size,)``: before penalty, temperature and cuts."""

    def choose_each(self, logits: Tensor, *rest: Any) -> list[int]:
        """Draw an id from the one row of ``logits (1, vocab_size)``."""
        self.saw[:] = logits
        return super().choose_each(logits, *rest)

    @property
    def p(self) -> Tensor:
        """The model's own probabilities at the last choice, ``(vocab_size,)`` float64."""
        return torch.softmax(self.saw[0].double(), dim=-1).cpu()


def piece(tokenizer: Tokenizer, token: int) -> str:
    """What a token stands for; marks, and bytes that are no character alone, by name."""
    raw = tokenizer.piece_bytes[token]
    if not raw:
        return {tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}.get(token, "<unk>")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in raw)


def completion(
    decoder: Decoder, tokenizer: Tokenizer, prompt: list[int], asked: Asked
) -> Iterator[Event]:
    """Yield ``prompt``, then a ``token`` for each token, then ``end`` (or ``error``).

    The joined ``text`` of the tokens is what ``minillama.inference`` returns for these settings.
    """
    yield "prompt", {"tokens": [{"id": i, "piece": piece(tokenizer, i)} for i in prompt]}
    sampling = Watched(
        asked.temperature, asked.top_k or None, asked.top_p, asked.repetition_penalty
    )
    text = Text(tokenizer, stop=(), first=len(prompt) == 1)
    began = time.perf_counter()
    try:
        for token in stream_tokens(decoder, prompt, sampling, asked.max_new_tokens, asked.seed):
            yield "token", {"text": text.feed(token), **told(tokenizer, token, sampling.p)}
            if text.finish:
                break
    except MinillamaError as error:
        yield "error", {"error": str(error)}
        return
    yield (
        "end",
        {
            "reason": text.end(asked.max_new_tokens),
            "tokens": text.tokens,
            "seconds": round(time.perf_counter() - began, 4),
        },
    )


def told(tokenizer: Tokenizer, token: int, p: Tensor) -> dict[str, Any]:
    """A token's id, piece and probability, and the likeliest tokens in its place."""
    values, ids = p.topk(min(ALTERNATIVES, len(p)))

    def one(i: int, value: float) -> dict[str, Any]:
        return {"id": i, "piece": piece(tokenizer, i), "p": round(value, 6)}

    likeliest = [one(i, v) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
    return {**one(token, float(p[token])), "top": likeliest}
