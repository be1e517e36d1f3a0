"""The verbs that open one model: ``minillama generate``, ``chat`` and ``convert``."""

import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from minillama.apps.chat import chat_by_turns, write_stream
from minillama.apps.cli import replace_errors
from minillama.inference.decoder import Decoder
from minillama.inference.quantize import quantized
from minillama.inference.text import Settings, stream
from minillama.interop import formats
from minillama.train.allocator import keep_freed_memory
from minillama.train.checkpoint import load_model


@dataclass(frozen=True)
class Opening:
    """Which model is opened, and how."""

    quantize: Literal["int8"] | None = None
    """Round the weights to 8 bits."""
    step: int | None = None
    """The checkpoint of a run; the last by default."""
    max_seq_len: int = 2048
    """The context length, which Meta's format does not tell."""

    def load(self, source: Path) -> Any:
        """Load the model of a run or of any other format, ready to generate, and its tokenizer."""
        keep_freed_memory()
        found = formats.load(source, self.max_seq_len)
        model, tokenizer = found or load_model(source, self.step)
        if self.quantize:
            return quantized(model), tokenizer
        return Decoder(model), tokenizer


@dataclass(frozen=True)
class Writing(Settings):
    """How it writes."""

    stop: tuple[str, ...] = ()
    """End before the first of these strings."""


SAME_LEVEL = tyro.conf.arg(name="")
"""The fields of a parameter are flags of the verb itself: --seed, not --settings.seed."""


def generate(
    source: Positional[Path],
    prompt: Positional[str] = "",
    settings: Annotated[Writing, SAME_LEVEL] = Writing(),  # noqa: B008
    opening: Annotated[Opening, SAME_LEVEL] = Opening(),  # noqa: B008
) -> None:
    """Complete a prompt, as it is generated; how fast, and why it ended, goes to stderr.

    Args:
        source: the run folder, or a model in another format that `minillama convert` reads.
        prompt: the text to go on from.
        settings: how it writes.
        opening: which model, and how.
    """
    texts = stream(*opening.load(source), prompt, **asdict(settings))
    print_at_once(prompt)
    report = write_stream(texts, print_at_once)
    print(flush=True)
    print(report, file=sys.stderr)


def chat(
    source: Positional[Path],
    settings: Annotated[Writing, SAME_LEVEL] = Writing(max_new_tokens=64),  # noqa: B008
    opening: Annotated[Opening, SAME_LEVEL] = Opening(),  # noqa: B008
) -> None:
    """Complete each line that is typed. The model goes on with a text; it does not answer.

    Args:
        source: the run folder, or a model in another format that `minillama convert` reads.
        settings: how it writes.
        opening: which model, and how.
    """
    replace_errors(sys.stdin)
    lines = (line.rstrip("\n") for line in sys.stdin)
    chat_by_turns(*opening.load(source), lines, print_at_once, **asdict(settings))


print_at_once = partial(print, end="", flush=True)
"""Prints a piece of text without waiting for the end of its line."""


def convert(
    source: Positional[Path],
    to: str,
    out: Path,
    shards: int = 1,
    shard_gb: float | None = None,
    dtype: str | None = None,
    max_seq_len: int = 2048,
    step: int | None = None,
) -> str:
    """Write the model of a run, or of a folder or file in one format, in another format.

    Args:
        source: the run folder; or a folder in Meta's or Hugging Face's format; or a file of
            llama2.c's (.bin) or GGUF (.gguf), or a folder with model.bin or model.gguf.
        to: huggingface, meta, llama2c or gguf.
        out: the folder to write.
        shards: 1, 2, 4 or 8 files, for Meta's format only.
        shard_gb: the largest size of a file, for Hugging Face's format only; 5 by default.
        dtype: float32, float16 or bfloat16; as the weights are by default.
        max_seq_len: the context length, which Meta's format does not tell.
        step: the checkpoint of a run; the last by default.
    """
    formats.check_format(to)
    model, tokenizer = formats.load(source, max_seq_len) or load_model(source, step)
    return f"wrote {formats.save(model, tokenizer, to, out, shards, shard_gb, dtype)}"
