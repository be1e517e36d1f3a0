"""Text from a model: one token at a time, out as soon as it is certain.

Two things may hold text back: a character whose bytes are not all there yet (an unknown character
is written in up to four pieces), and the beginning of what may become a stop string.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence

import torch

from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.generate.cache import new_cache
from minillama.generate.sampling import Sampling
from minillama.model import Llama
from minillama.tokenizer import Tokenizer


def stream_tokens(
    model: Llama, prompt: Sequence[int], sampling: Sampling, max_new_tokens: int, seed: int
) -> Iterator[int]:
    """Yield the ids that follow ``prompt``, until the context is full; no id ends it sooner.

    The model reads the prompt in one pass and then one token a pass, over a key-value cache.
    """
    generator = torch.Generator().manual_seed(seed)
    room = model.config.max_seq_len - len(prompt) + 1  # the last token need not be read again
    n_new = min(max_new_tokens, room)
    cache = new_cache(model.config, len(prompt) + n_new, like=model.output.weight)
    read, ids = 0, list(prompt)
    for _ in range(n_new):
        with torch.inference_mode():
            tokens = torch.tensor([ids], device=model.output.weight.device)
            logits = model(tokens, cache=cache, start=read)[0, -1]
        read += len(ids)
        ids = [sampling.choose(logits, generator)]
        yield ids[0]


class StopAt:
    """Pass text on up to the first stop string, never a part of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = stop
        self.held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Add text; return what is certain not to belong to a stop string."""
        text = self.held + text
        ends = [(text.find(s) + len(s), text.find(s)) for s in self.stop if s in text]
        if ends:  # the stop string that is complete first, however the text was cut in pieces
            self.found, self.held = True, ""
            return text[: min(ends)[1]]
        longest = max((_overlap(text, s) for s in self.stop), default=0)
        self.held = text[len(text) - longest :]
        return text[: len(text) - longest]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of ``stop`` with which ``text`` ends."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)


def stream(
    model: Llama,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    seed: int = 0,
    stop: str | Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text that follows ``prompt``, as it is generated.

    It ends after ``max_new_tokens``, at the model's end mark, before a stop string, or when the
    context is full. An unfinished character at the end is left out.

    Args:
        model: the model, on any device.
        tokenizer: the one that the model was trained with.
        prompt: the text to go on from; the begin mark is put before it.
        max_new_tokens: stop after so many tokens.
        temperature: 0 takes the likeliest token every time.
        top_k: keep only the k likeliest tokens.
        top_p: keep the likeliest tokens that hold this much probability (Meta's rule).
        seed: same seed, same text.
        stop: end before the first of these strings.

    Raises:
        ConfigError: a setting is out of range.
        CheckpointError: the tokenizer has another vocabulary than the model.
        DataError: the prompt is longer than the model's context.
    """
    sampling = Sampling(temperature, top_k, top_p)
    stop = [stop] if isinstance(stop, str) else list(stop)
    if "" in stop:
        raise ConfigError("a stop string is empty", "leave it out")
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens = {max_new_tokens}", "choose 0 or more")
    vocab_size, context = model.config.vocab_size, model.config.max_seq_len
    if tokenizer.vocab_size != vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} pieces but the model has {vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    ids = tokenizer.encode(prompt, bos=True)
    if len(ids) > context:
        raise DataError(
            f"the prompt of {len(ids)} tokens exceeds the context of {context}",
            "shorten the prompt, or use a model with a larger max_seq_len",
        )
    tokens = stream_tokens(model, ids, sampling, max_new_tokens, seed)
    return _text(tokenizer, tokens, StopAt(stop), first=len(ids) == 1)


def _text(tokenizer: Tokenizer, tokens: Iterable[int], stop: StopAt, first: bool) -> Iterator[str]:
    """Bytes of the tokens, decoded and cut at a stop string; ``first`` if no text comes before."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if token == tokenizer.eos_id:
            break
        text = decoder.decode(tokenizer.piece_bytes[token])
        if first and text:  # the tokenizer puts one space before every text
            text, first = text.removeprefix(" "), False
        if text := stop.feed(text):
            yield text
        if stop.found:
            return
    if stop.held:
        yield stop.held


def generate(
    model: Llama, tokenizer: Tokenizer, prompt: str | Sequence[str], **settings: object
) -> str | list[str]:
    """The text that follows ``prompt``, without the prompt; a list for a list of prompts.

    ``settings`` and errors are those of ``stream``. The prompts of a list are completed one by one,
    each as if it were alone.
    """
    if isinstance(prompt, str):
        return "".join(stream(model, tokenizer, prompt, **settings))
    return [generate(model, tokenizer, each, **settings) for each in prompt]
