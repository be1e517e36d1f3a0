"""What a browser may send: every field is checked here before the model sees it."""

import json
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from minillama.config import ModelConfig
from minillama.errors import ConfigError, nearest
from minillama.tokenizer import Tokenizer

MAX_BODY = 256 * 1024
"""Bytes of a request; a prompt of MAX_PROMPT characters fits, even with each one escaped."""
MAX_PROMPT = 16_384
"""Characters of a prompt, counted before the tokenizer reads them."""
MAX_PICTURE = 128
"""Tokens whose attention is drawn."""

Schema = TypeVar("Schema")


class Refused(Exception):
    """A request that is not answered: the HTTP status, and one line that the page shows."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class TextRequest:
    """A request for text; 0 for ``top_k`` keeps all tokens."""

    prompt: str = ""
    max_new_tokens: int = 128
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class AttentionRequest:
    """A request for pictures of attention."""

    ids: list[int]
    layer: int


def limits(config: ModelConfig) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each number."""
    return {
        "max_new_tokens": (1, config.max_seq_len),
        "temperature": (0.0, 2.0),
        "top_p": (0.0, 1.0),
        "top_k": (0, config.vocab_size),
        "repetition_penalty": (1.0, 2.0),
        "seed": (0, 2**31 - 1),
        "ids": (0, config.vocab_size - 1),
        "layer": (0, config.n_layers - 1),
    }


def parse_request(schema: type[Schema], body: bytes, config: ModelConfig) -> Schema:
    """The request in a JSON body, every field of its type and in its range.

    Raises:
        Refused: the body is no JSON object, or a field is unknown, missing or out of range.
    """
    values = parse_object(body)
    known = {field.name: field.type for field in fields(schema)}
    for name, value in values.items():
        if name not in known:
            error = ConfigError(f"There is no setting {name[:40]!r}", nearest(name[:40], known))
            raise Refused(400, str(error))
        check_value(name, value, known[name], limits(config).get(name))
    try:
        return schema(**values)
    except TypeError:
        raise Refused(400, f"The request must have the fields {', '.join(known)}.") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises ``Refused``."""

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "The request is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Refused(400, "The request must be a JSON object.")
    return value


def check_value(name: str, value: object, kind: type, limit: tuple[float, float] | None) -> None:
    """Raise ``Refused`` unless ``value`` is of a schema's ``kind`` and within its limits."""
    if kind is str:
        if not isinstance(value, str):
            raise Refused(400, f"{name} must be text.")
        return
    if kind == list[int]:
        if not isinstance(value, list) or not value:
            raise Refused(400, f"{name} must be a list of whole numbers.")
        for each in value:
            check_value(f"Each of {name}", each, int, limit)
        return
    # A number; True is none.
    low, high = limit
    what, types = "a number", (int, float)
    if kind is int:
        what, types = "a whole number", (int,)
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        span = f"from {low:g} to {high:,}".replace(",", " ")
        raise Refused(400, f"{name} must be {what} {span}.")


def prompt_ids(prompt: str, tokenizer: Tokenizer, config: ModelConfig) -> list[int]:
    """The prompt as token ids, begin mark first. Raises ``Refused`` if it is too long."""
    n = len(prompt)
    if n > MAX_PROMPT:
        what = f"The prompt has {n:,} characters; at most {MAX_PROMPT:,} are read."
        raise Refused(413, what)
    ids = tokenizer.encode(prompt, bos=True)
    n, most = len(ids), config.max_seq_len
    if n > most:
        what = f"The prompt has {n:,} tokens; the context holds {most:,}. Shorten it."
        raise Refused(413, what)
    return ids
