"""A text that a reader and a model write by turns, in the terminal.

The models of the paper complete text; none was taught to answer. So there are no roles here: what
both wrote so far is the prompt of the next turn.
"""

import time
from collections.abc import Callable, Iterable

from minillama.errors import DataError
from minillama.inference.decoder import Decoder
from minillama.inference.text import Stream, stream
from minillama.tokenizer import Tokenizer

WELCOME = (
    "This model completes text; it is not an assistant. Begin a text, and it writes on. An empty "
    "line lets it go on, /new begins another text, Ctrl-D ends."
)
WHY = {
    "end": "the model ended the text",
    "stop": "a stop string came",
    "length": "the number of tokens asked for is reached",
    "context": "the context is full",
}


def write_stream(pieces: Stream, out: Callable[[str], object]) -> str:
    """Hand every piece of text to ``out`` as it comes; return how fast, and why it ended."""
    began = time.perf_counter()
    for text in pieces:
        out(text)
    seconds = time.perf_counter() - began
    rate = pieces.tokens / seconds
    return f"[{pieces.tokens} tokens, {rate:.1f} tokens/s; {WHY[pieces.finish]}]"


def chat_by_turns(
    decoder: Decoder,
    tokenizer: Tokenizer,
    lines: Iterable[str],
    out: Callable[[str], object],
    **settings: object,
) -> None:
    """Complete what ``lines`` begin, until they end or the reader interrupts.

    Args:
        decoder: the model.
        tokenizer: its tokenizer.
        lines: what the reader types, without line ends.
        out: is handed all text.
        settings: those of ``stream``; every turn has a seed of its own, from ``seed`` on.
    """
    context, seed = decoder.config.max_seq_len, int(settings.pop("seed", 0))
    text = ""
    out(WELCOME + "\n> ")
    try:
        for turn, line in enumerate(lines):
            if line.strip() == "/new":
                text = ""
                out("> ")
                continue
            try:
                pieces = stream(decoder, tokenizer, text + line, seed=seed + turn, **settings)
                report = write_stream(pieces, out)
            except DataError as error:
                out(f"{error}\n> ")
                continue
            text += line + pieces.text + "\n"
            if pieces.finish == "context" or len(tokenizer.encode(text, bos=True)) > context:
                text = ""
                report += f"\n[the context of {context} tokens is full: the next line begins anew]"
            out(f"\n{report}\n> ")
    except KeyboardInterrupt:
        pass
    out("\n")
