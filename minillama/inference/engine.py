"""Text from a model: one token at a time, out as soon as it is certain.

Two things may hold text back: a character whose bytes are not all there yet (an unknown character
is written in up to four pieces), and the beginning of what may become a stop string.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.inference.batch import Batch, generate_tokens
from minillama.inference.decoder import Decoder, as_decoder
from minillama.inference.sampling import Sampling
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

Finish = Literal["end", "stop", "length", "context"]
"""Why a text ends: the model's end mark, a stop string, ``max_new_tokens``, or a full context."""


def stream_tokens(
    model: Llama | Decoder,
    prompt: Sequence[int],
    sampling: Sampling,
    max_new_tokens: int,
    seed: int,
) -> Iterator[int]:
    """Yield the ids that follow ``prompt``, until the context is full; no id ends it sooner.

    The model reads the prompt in one pass and then one token a pass, over a key-value cache.
    """
    decoder = as_decoder(model)
    room = decoder.config.max_seq_len - len(prompt) + 1  # the last token need not be read again
    batch = Batch(decoder, [prompt], sampling, [seed], max_new_tokens)
    for _ in range(min(max_new_tokens, room)):
        yield batch.step()[0]


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


class Text:
    """The text of a sequence of ids, cut at a stop string or the end mark."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], first: bool) -> None:
        """``first`` if no text comes before."""
        self.tokenizer, self.stop, self.first = tokenizer, StopAt(stop), first
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.finish: Finish | None = None
        self.tokens = 0
        """How many ids were taken in."""

    def feed(self, token: int) -> str:
        """Take in an id and return the text that is now certain; set ``finish`` if it ends here."""
        self.tokens += 1
        if token == self.tokenizer.eos_id:
            self.finish = "end"
            return self.rest()
        text = self.decoder.decode(self.tokenizer.piece_bytes[token])
        if self.first and text:  # the tokenizer puts one space before every text
            text, self.first = text.removeprefix(" "), False
        text = self.stop.feed(text)
        if self.stop.found:
            self.finish = "stop"
        return text

    def end(self, max_new_tokens: int) -> Finish:
        """No token comes any more: why, if the text itself did not end?"""
        self.finish = self.finish or ("length" if self.tokens == max_new_tokens else "context")
        return self.finish

    def rest(self) -> str:
        """What was held back, once it is clear that no stop string comes of it."""
        text, self.stop.held = self.stop.held, ""
        return text


class Stream:
    """An iterator over text as it is generated; ``finish`` says why it ended, ``tokens`` counts."""

    def __init__(self, tokens: Iterable[int], text: Text, max_new_tokens: int) -> None:
        self._text = text
        self._pieces = self._run(tokens, max_new_tokens)

    @property
    def finish(self) -> Finish | None:
        """None until the end is reached."""
        return self._text.finish

    @property
    def tokens(self) -> int:
        """Tokens so far, the end mark and those of a stop string among them."""
        return self._text.tokens

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def _run(self, tokens: Iterable[int], max_new_tokens: int) -> Iterator[str]:
        for token in tokens:
            if text := self._text.feed(token):
                yield text
            if self.finish:
                return
        self._text.end(max_new_tokens)
        if text := self._text.rest():
            yield text


def _encode(model: Llama | Decoder, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The prompt's ids behind a begin mark; refused, and quickly, if the context cannot hold it."""
    context = model.config.max_seq_len
    least = len(prompt.encode("utf-8", "replace")) // max(map(len, tokenizer.piece_bytes))
    ids = [] if least > context else tokenizer.encode(prompt, bos=True)
    if (n := len(ids) or least) > context:
        raise DataError(
            f"the prompt of {n} tokens{' or more' * (not ids)} exceeds the context of {context}",
            "shorten the prompt, or use a model with a larger max_seq_len",
        )
    return ids


def _check(
    model: Llama | Decoder, tokenizer: Tokenizer, max_new_tokens: int, stop: Sequence[str]
) -> None:
    if "" in stop:
        raise ConfigError("a stop string is empty", "leave it out")
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens = {max_new_tokens}", "choose 0 or more")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} pieces but the model has "
            f"{model.config.vocab_size}",
            "use the tokenizer that the model was trained with",
        )


def stream(
    model: Llama | Decoder,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: str | Sequence[str] = (),
) -> Stream:
    """Iterate over the text that follows ``prompt``, as it is generated.

    It ends after ``max_new_tokens``, at the model's end mark, before a stop string, or when the
    context is full; ``finish`` of what is returned says which. An unfinished character at the end
    is left out.

    Args:
        model: the model, on any device; or a ``Decoder`` of it, which is ready at once.
        tokenizer: the one that the model was trained with.
        prompt: the text to go on from; the begin mark is put before it.
        max_new_tokens: stop after so many tokens.
        temperature: 0 takes the likeliest token every time.
        top_k: keep only the k likeliest tokens.
        top_p: keep the likeliest tokens that hold this much probability (Meta's rule).
        repetition_penalty: above 1, ids that are there already become less likely.
        seed: same seed, same text.
        stop: end before the first of these strings.

    Raises:
        ConfigError: a setting is out of range.
        CheckpointError: the tokenizer has another vocabulary than the model.
        DataError: the prompt is longer than the model's context.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    stop = [stop] if isinstance(stop, str) else list(stop)
    _check(model, tokenizer, max_new_tokens, stop)
    ids = _encode(model, tokenizer, prompt)
    tokens = stream_tokens(model, ids, sampling, max_new_tokens, seed)
    return Stream(tokens, Text(tokenizer, stop, first=len(ids) == 1), max_new_tokens)


@dataclass(frozen=True)
class Completion:
    """What was generated for one prompt."""

    text: str
    """Without the prompt."""
    finish: Finish
    tokens: int
    """How many were generated."""


def complete(
    model: Llama | Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    batch_size: int = 16,
) -> list[Completion]:
    """Complete many prompts, in batches; settings and errors are those of ``stream``.

    Each text is the one that its prompt has alone, with the seed ``row_seed(seed, its place)``.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    stop = [stop] if isinstance(stop, str) else list(stop)
    _check(model, tokenizer, max_new_tokens, stop)
    ids = [_encode(model, tokenizer, prompt) for prompt in prompts]
    texts = [Text(tokenizer, stop, first=len(each) == 1) for each in ids]
    pieces: list[list[str]] = [[] for _ in prompts]

    def finished(row: int, new: list[int]) -> bool:
        pieces[row].append(texts[row].feed(new[-1]))
        return texts[row].finish is not None

    generate_tokens(
        model, ids, sampling, max_new_tokens, seed=seed, finished=finished, batch_size=batch_size
    )
    return [
        Completion("".join(part) + text.rest(), text.end(max_new_tokens), text.tokens)
        for part, text in zip(pieces, texts, strict=True)
    ]


def generate(
    model: Llama | Decoder, tokenizer: Tokenizer, prompt: str | Sequence[str], **settings: object
) -> str | list[str]:
    """The text that follows ``prompt``, without the prompt; a list for a list of prompts.

    ``settings`` and errors are those of ``stream``, for a list those of ``complete``.
    """
    if isinstance(prompt, str):
        return "".join(stream(model, tokenizer, prompt, **settings))
    return [each.text for each in complete(model, tokenizer, prompt, **settings)]
