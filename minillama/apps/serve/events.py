"""A completion as events: each token, how likely it was, and what else might have come."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from minillama.apps.serve.request_schemas import TextRequest
from minillama.errors import MinillamaError
from minillama.inference import Completion, Decoder
from minillama.inference.engine import Engine
from minillama.inference.text import Settings
from minillama.tokenizer import Tokenizer

ALTERNATIVES = 5
Event = tuple[str, dict[str, Any]]
"""A name and its fields."""


def piece_text(tokenizer: Tokenizer, token: int) -> str:
    """What a token stands for; marks, and bytes that are no character alone, by name."""
    raw = tokenizer.piece_bytes[token]
    if not raw:
        marks = {tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}
        return marks.get(token, "<unk>")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in raw)


def completion_events(
    decoder: Decoder, tokenizer: Tokenizer, prompt: list[int], request: TextRequest
) -> Iterator[Event]:
    """Yield ``prompt``, then a ``token`` for each token, then ``end`` (or ``error``).

    The joined ``text`` of the tokens is what ``minillama.inference`` returns for these settings.
    """
    pieces = [{"id": token, "piece": piece_text(tokenizer, token)} for token in prompt]
    yield "prompt", {"tokens": pieces}

    values = asdict(request)
    values.pop("prompt")
    values["top_k"] = values["top_k"] or None
    settings = Settings(**values)
    completion = Completion(tokenizer, settings, prompt)
    began = time.perf_counter()
    try:
        engine = Engine(decoder, [prompt], settings, [settings.seed], settings.max_new_tokens)
        while completion.tokens < settings.max_new_tokens and not engine.is_full(0):
            [token] = engine.step()
            text = completion.feed(token)
            p = torch.softmax(engine.logits[0].double(), dim=-1).cpu()
            yield "token", {"text": text, **describe_token(tokenizer, token, p)}
            if completion.finish:
                break
    except MinillamaError as error:
        yield "error", {"error": str(error)}
        return

    completion.end()
    seconds = round(time.perf_counter() - began, 4)
    end = {"reason": completion.finish, "tokens": completion.tokens, "seconds": seconds}
    yield "end", end


def describe_token(tokenizer: Tokenizer, token: int, p: Tensor) -> dict[str, Any]:
    """A token's id, piece and probability, and the likeliest tokens in its place.

    ``p (vocab_size,)`` are the model's own probabilities: before penalty, temperature and cuts.
    """

    def describe(i: int) -> dict[str, Any]:
        share = round(float(p[i]), 6)
        return {"id": i, "piece": piece_text(tokenizer, i), "p": share}

    most = min(ALTERNATIVES, len(p))
    likeliest = p.topk(most).indices
    described = describe(token)
    described["top"] = list(map(describe, likeliest.tolist()))
    return described
