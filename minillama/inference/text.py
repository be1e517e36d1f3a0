"""Text from a model: one token at a time, out as soon as it is certain.

Two things may hold text back: a character whose bytes are not all there yet (an unknown character
is written in up to four pieces), and the beginning of what may become a stop string.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.inference.engine import Engine, generate_tokens
from minillama.inference.sampling import Sampling
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

Finish = Literal["end", "stop", "length", "context"]
"""Why a text ends: the model's end mark, a stop string, ``max_new_tokens``, or a full context."""


@dataclass(frozen=True)
class Settings(Sampling):
    """How a text is written. Raises ``ConfigError`` if a value is out of range."""

    max_new_tokens: int = 128
    """End after so many tokens."""
    seed: int = 0
    """Same seed, same text."""
    stop: str | Sequence[str] = ()
    """End before the first of these strings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "" in self.stop_strings:
            raise ConfigError("a stop string is empty", "leave it out")
        if self.max_new_tokens < 0:
            raise ConfigError(f"max_new_tokens = {self.max_new_tokens}", "choose 0 or more")

    @property
    def stop_strings(self) -> list[str]:
        """All strings that end a text."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)


class StopAt:
    """Passes text on up to the first stop string, never a part of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self.stop = sorted(stop, key=len, reverse=True)
        self.held = ""
        """What may be the beginning of a stop string."""
        self.found = False

    def feed(self, text: str) -> str:
        """Add text; return what is certain not to belong to a stop string."""
        certain = ""
        for character in text:
            self.held += character
            for stop in self.stop:  # the longest of those that are complete here
                if self.held.endswith(stop):
                    certain += self.held.removesuffix(stop)
                    self.held, self.found = "", True
                    return certain
            while self.held and not any(stop.startswith(self.held) for stop in self.stop):
                certain += self.held[0]
                self.held = self.held[1:]
        return certain


class Completion:
    """The text of a sequence of ids, cut at a stop string or the end mark.

    Args:
        tokenizer: whose pieces the ids are.
        settings: with what ends the text.
        prompt: the ids before; a text from its beginning loses the space that the tokenizer puts
            there.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Settings, prompt: Sequence[int]) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.begins = len(prompt) == 1
        self.stop = StopAt(settings.stop_strings)
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.text = ""
        """Without the prompt."""
        self.finish: Finish | None = None
        """Why it ended; None while it has not."""
        self.tokens = 0
        """How many ids there were, the end mark and those of a stop string among them."""

    def feed(self, token: int) -> str:
        """Add an id; return the text that is now certain, and set ``finish`` if it ends here."""
        self.tokens += 1
        if token == self.tokenizer.eos_id:
            return self.end("end")
        piece = self.decoder.decode(self.tokenizer.piece_bytes[token])
        if self.begins and piece:
            piece, self.begins = piece.removeprefix(" "), False
        piece = self.stop.feed(piece)
        self.text += piece
        if self.stop.found:
            self.finish = "stop"
        return piece

    def end(self, finish: Finish | None = None) -> str:
        """No token comes any more: set ``finish`` and return what was held back."""
        full = self.tokens < self.settings.max_new_tokens
        self.finish = self.finish or finish or ("context" if full else "length")
        piece, self.stop.held = self.stop.held, ""
        self.text += piece
        return piece


class Stream(Completion):
    """A completion that is written while it is iterated over; yields text as it is certain."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, settings: Settings, prompt: Sequence[int]
    ) -> None:
        super().__init__(tokenizer, settings, prompt)
        self.engine = engine

    def __iter__(self) -> Iterator[str]:
        for _ in range(self.settings.max_new_tokens):
            [token] = self.engine.step()
            if piece := self.feed(token):
                yield piece
            if self.finish:
                return
            if self.engine.is_full(0):
                break
        if piece := self.end():
            yield piece


def encode_prompt(model: Llama, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt, begin mark first; a hopelessly long one is refused unread.

    Raises:
        CheckpointError: the tokenizer has another vocabulary than the model.
        DataError: the prompt is longer than the context.
    """
    pieces, vocabulary = tokenizer.vocab_size, model.config.vocab_size
    if pieces != vocabulary:
        raise CheckpointError(
            f"the tokenizer has {pieces} pieces but the model has {vocabulary}",
            "use the tokenizer that the model was trained with",
        )
    context = model.config.max_seq_len
    longest_piece = max(map(len, tokenizer.piece_bytes))
    tokens = len(prompt.encode("utf-8", "replace")) // longest_piece  # or more
    if tokens <= context:
        ids = tokenizer.encode(prompt, bos=True)
        tokens = len(ids)
    if tokens > context:
        raise DataError(
            f"the prompt of {tokens} tokens or more exceeds the context of {context}",
            "shorten the prompt, or use a model with a larger max_seq_len",
        )
    return ids


def stream(model: Llama, tokenizer: Tokenizer, prompt: str, **settings: object) -> Stream:
    """Iterate over the text that follows ``prompt``, as it is generated.

    It ends after ``max_new_tokens``, at the model's end mark, before a stop string, or when the
    context is full; ``finish`` of what is returned says which. An unfinished character at the end
    is left out.

    Args:
        model: the model, on any device; or a ``Decoder`` of it, which is ready at once.
        tokenizer: the one that the model was trained with.
        prompt: the text to go on from; the begin mark is put before it.
        settings: the fields of ``Settings``.

    Raises:
        ConfigError: a setting is out of range.
        CheckpointError: the tokenizer has another vocabulary than the model.
        DataError: the prompt is longer than the model's context.
    """
    settings = Settings(**settings)
    ids = encode_prompt(model, tokenizer, prompt)
    engine = Engine(model, [ids], settings, [settings.seed], settings.max_new_tokens)
    return Stream(engine, tokenizer, settings, ids)


def complete(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    batch_size: int = 16,
    **settings: object,
) -> list[Completion]:
    """Complete many prompts, in batches; settings and errors are those of ``stream``.

    Each text is the one that its prompt has alone, with the seed ``row_seed(seed, its place)``.
    """
    settings = Settings(**settings)
    ids = [encode_prompt(model, tokenizer, prompt) for prompt in prompts]
    completions = [Completion(tokenizer, settings, prompt) for prompt in ids]

    def finished(row: int, new: list[int]) -> bool:
        completions[row].feed(new[-1])
        return completions[row].finish is not None

    options = {"seed": settings.seed, "finished": finished, "batch_size": batch_size}
    generate_tokens(model, ids, settings, settings.max_new_tokens, **options)
    for completion in completions:
        completion.end()
    return completions


def generate(
    model: Llama, tokenizer: Tokenizer, prompt: str | Sequence[str], **settings: object
) -> str | list[str]:
    """The text that follows ``prompt``, without the prompt; a list for a list of prompts.

    ``settings`` and errors are those of ``stream``, for a list those of ``complete``.
    """
    if isinstance(prompt, str):
        return "".join(stream(model, tokenizer, prompt, **settings))
    return [each.text for each in complete(model, tokenizer, prompt, **settings)]
