"""What a browser may ask for: every field is checked here before the model sees it."""

import json
import math
from dataclasses import dataclass
from typing import Any

from minillama.config import ModelConfig
from minillama.errors import ConfigError, nearest
from minillama.tokenizer import Tokenizer

MAX_BODY = 256 * 1024
"""Bytes of a request; a prompt of MAX_PROMPT characters fits, even with each one escaped."""
MAX_PROMPT = 16_384
"""Characters of a prompt, counted before the tokenizer reads them."""
MAX_PICTURE = 128
"""Tokens whose attention is drawn."""


class Refused(Exception):
    """A request that is not answered: the HTTP status, and one line that the page shows."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True)
class Asked:
    """The fields of a request for text, and what they are if left out."""

    prompt: str = ""
    max_new_tokens: int = 128
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


def limits(config: ModelConfig) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each number; 0 for ``top_k`` keeps all tokens."""
    return {
        "max_new_tokens": (1, config.max_seq_len),
        "temperature": (0.0, 2.0),
        "top_p": (0.0, 1.0),
        "top_k": (0, config.vocab_size),
        "repetition_penalty": (1.0, 2.0),
        "seed": (0, 2**31 - 1),
    }


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a request's body. Raises ``Refused``."""

    def no_number(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise Refused(400, "The request is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Refused(400, "The request must be a JSON object.")
    return value


def number(name: str, value: object, low: float, high: float, whole: bool = False) -> None:
    """Raise ``Refused`` unless ``value`` is a number from ``low`` to ``high``."""
    wanted = int if whole else (int, float)
    fits = isinstance(value, wanted) and not isinstance(value, bool) and low <= value <= high
    if not fits or not math.isfinite(value):
        kind = "a whole number" if whole else "a number"
        raise Refused(400, f"{name} must be {kind} from {low:g} to {high:,}.".replace(",", " "))


def read_request(body: bytes, config: ModelConfig) -> Asked:
    """The settings and the prompt of a request for text. Raises ``Refused``."""
    fields = read_json(body)
    known = Asked.__dataclass_fields__
    if unknown := fields.keys() - known:
        name = min(unknown)[:40]
        raise Refused(400, str(ConfigError(f"There is no setting {name!r}", nearest(name, known))))
    ranges = limits(config)
    for name, value in fields.items():
        if name in ranges:
            number(name, value, *ranges[name], whole=known[name].type is int)
    prompt = fields.get("prompt", "")
    if not isinstance(prompt, str):
        raise Refused(400, "prompt must be text.")
    if len(prompt) > MAX_PROMPT:
        raise Refused(
            413, f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT:,} are read."
        )
    return Asked(**fields)


def prompt_ids(asked: Asked, tokenizer: Tokenizer, config: ModelConfig) -> list[int]:
    """The prompt as token ids, begin mark first. Raises ``Refused`` if it fills the context."""
    ids = tokenizer.encode(asked.prompt, bos=True)
    if len(ids) > config.max_seq_len:
        raise Refused(
            413,
            f"The prompt has {len(ids):,} tokens, but this model's context holds "
            f"{config.max_seq_len:,}. Shorten it.",
        )
    return ids


def read_picture_request(body: bytes, config: ModelConfig) -> tuple[list[int], int]:
    """The ids and the layer of a request for attention pictures. Raises ``Refused``."""
    fields = read_json(body)
    if set(fields) != {"ids", "layer"}:
        raise Refused(400, "A request for pictures has the fields ids and layer.")
    ids = fields["ids"]
    if not isinstance(ids, list) or not ids:
        raise Refused(400, "ids must be a list of token ids.")
    if len(ids) > min(MAX_PICTURE, config.max_seq_len):
        raise Refused(413, f"Pictures show at most {MAX_PICTURE} tokens.")
    for i in ids:
        number("Each of ids", i, 0, config.vocab_size - 1, whole=True)
    number("layer", fields["layer"], 0, config.n_layers - 1, whole=True)
    return ids, fields["layer"]
