"""The command line: ``minillama <verb>``. Errors become one line here, and nowhere else."""

import contextlib
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from minillama.errors import ConfigError, MinillamaError, nearest

HELP = ("-h", "--help", "help")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OF_PATHS = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST,
            errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG)  # fmt: skip


def train(arguments: Sequence[str]) -> None:
    """Train a model: --preset NAME, then any field as a flag."""
    from minillama.train.config import TrainConfig, load_preset, presets, read_config

    dry, arguments = "--dry-run" in arguments, [a for a in arguments if a != "--dry-run"]
    world = take_flag(arguments, "--world") if dry else None
    preset, file = take_flag(arguments, "--preset"), take_flag(arguments, "--config")
    if preset and file:
        raise ConfigError("--preset and --config both name a whole configuration", "give one")
    if not (preset or file or arguments):
        raise ConfigError("nothing to train", "say --preset NAME; try --preset nano-7b, or --help")
    default = load_preset(preset) if preset else TrainConfig()
    if file:
        default = read_config(Path(file))
    description = (
        "Train one run, or go on with it. --preset NAME or --config FILE sets the defaults shown "
        f"here. Presets: {', '.join(presets())}. --dry-run only shows what each process would hold "
        "and send, on --world of them."
    )
    config = tyro.cli(
        TrainConfig, args=arguments, default=default, prog="minillama train",
        description=description,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )  # fmt: skip
    main_rank = os.environ.get("RANK", "0") == "0"
    if dry:
        from minillama.scale.dry_run import dry_run, world_of

        return show(dry_run(config, world_of(config, preset, world))) if main_rank else None
    from minillama.train.loop import train

    run = train(config)
    if main_rank:
        print(run)


def take_flag(arguments: list[str], flag: str) -> str | None:
    """Remove ``flag VALUE`` or ``flag=VALUE`` from the arguments and return the value."""
    for i, argument in enumerate(arguments):
        if argument == flag:
            if i + 1 == len(arguments):
                raise ConfigError(f"{flag} has no value", f"write {flag} NAME")
            value = arguments[i + 1]
            del arguments[i : i + 2]
            return value
        if argument.startswith(flag + "="):
            del arguments[i]
            return argument[len(flag) + 1 :]
    return None


def subcommands(verb: str, table: dict[str, str], arguments: Sequence[str]) -> None:
    """A verb with verbs of its own, such as ``minillama data fetch``: name to module:function."""
    if not arguments or arguments[0] in HELP:
        lines = (f"  {name:<9} {summary(find(path))}" for name, path in table.items())
        print(f"usage: minillama {verb} <{'|'.join(table)}> [--help]", "", sep="\n")
        print(VERBS[verb].__doc__, "", *lines, sep="\n")
        return
    if arguments[0] not in table:
        raise ConfigError(f"unknown verb '{verb} {arguments[0]}'", nearest(arguments[0], table))
    single(f"minillama {verb} {arguments[0]}", find(table[arguments[0]]))(arguments[1:])


def find(path: str) -> Callable[..., Any]:
    """Import ``module:function``; only what a verb needs is ever imported."""
    module, function = path.split(":")
    return getattr(importlib.import_module(f"minillama.{module}"), function)


def summary(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring."""
    return (function.__doc__ or "").strip().split("\n")[0]


def single(prog: str, function: Callable[..., Any]) -> Callable[[Sequence[str]], None]:
    """A verb that is one function; its parameters are the flags."""

    def run(arguments: Sequence[str]) -> None:
        show(tyro.cli(function, args=list(arguments), prog=prog))

    return run


def show(result: Any) -> None:
    """Print what a verb returns, if it is text or draws itself as text."""
    if isinstance(result, str) or hasattr(result, "render"):
        print(result if isinstance(result, str) else result.render())


def data(arguments: Sequence[str]) -> None:
    """Fetch, build, extend and trace the corpus (Section 2.1)."""
    table = {
        "fetch": "scale.sources:fetch",
        "build": "scale.build_corpus:build",
        "add": "scale.user_texts:add_texts",
        "trace": "corpus.trace:trace",
        "verify": "corpus.token_files:verify_corpus",
        "datatrove": "scale.datatrove:run_datatrove",
        "full": "scale.redpajama:build_full",
    }
    subcommands("data", table, arguments)


def tokenizer(arguments: Sequence[str]) -> None:
    """Train a tokenizer, or encode and decode with one (Section 2.1)."""
    table = {name: f"corpus.vocabulary:{name}" for name in ("train", "encode", "decode")}
    subcommands("tokenizer", table, arguments)


def evaluate(arguments: Sequence[str]) -> None:
    """Score a run on benchmarks (Section 3)."""
    single("minillama evaluate", find("apps.evaluate:evaluate"))(arguments)


def harness(arguments: Sequence[str]) -> None:
    """Run any task of lm-evaluation-harness on a run (needs the extra lm-eval)."""
    single("minillama harness", find("interop.lm_eval:harness"))(arguments)


def report(arguments: Sequence[str]) -> None:
    """Tables 3-9 of the paper with runs of ours beside (Section 3)."""
    single("minillama report", find("apps.report:report_runs"))(arguments)


def figures(arguments: Sequence[str]) -> None:
    """Draw Figures 1 and 2 from runs (Section 3.7)."""
    single("minillama figures", find("figures.draw:figures"))(arguments)


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
        """The model of a run or of any other format, ready to generate, and its tokenizer."""
        from minillama.inference.decoder import Decoder
        from minillama.inference.quantize import quantized
        from minillama.interop import formats
        from minillama.train.allocator import keep_freed_memory
        from minillama.train.checkpoint import load_model

        keep_freed_memory()
        model, pieces = formats.load(source, self.max_seq_len) or load_model(source, self.step)
        return quantized(model) if self.quantize else Decoder(model), pieces


@dataclass(frozen=True)
class Writing:
    """How it writes: what ``stream`` takes."""

    max_new_tokens: int = 128
    """Stop after so many tokens."""
    temperature: float = 0.8
    """0 takes the likeliest token every time."""
    top_k: int | None = None
    """Keep only the k likeliest tokens."""
    top_p: float | None = 0.95
    """Keep the likeliest tokens that hold this much probability (Meta's rule)."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that are there already become less likely."""
    seed: int = 0
    """Same seed and prompts, same text."""
    stop: tuple[str, ...] = ()
    """End before any of these strings."""


SAME_LEVEL = tyro.conf.arg(name="")
"""The fields of a parameter are flags of the verb itself: --seed, not --writing.seed."""


def generate(arguments: Sequence[str]) -> None:
    """Complete a prompt with a model."""
    from minillama.apps.chat import write
    from minillama.inference.engine import stream

    def generate(
        source: tyro.conf.Positional[Path],
        prompt: tyro.conf.Positional[str] = "",
        writing: Annotated[Writing, SAME_LEVEL] = Writing(),  # noqa: B008
        opening: Annotated[Opening, SAME_LEVEL] = Opening(),  # noqa: B008
    ) -> None:
        """Complete a prompt, as it is generated; how fast, and why it ended, goes to stderr.

        Args:
            source: the run folder, or a model in another format that `minillama convert` reads.
            prompt: the text to go on from.
            writing: how it writes.
            opening: which model, and how.
        """
        texts = stream(*opening.load(source), prompt, **asdict(writing))
        print(prompt, end="", flush=True)
        _, told = write(texts, lambda text: print(text, end="", flush=True))
        print(flush=True)
        print(told, file=sys.stderr)

    single("minillama generate", generate)(arguments)


def chat(arguments: Sequence[str]) -> None:
    """Write a text by turns with a model, in the terminal."""
    from minillama.apps.chat import chat as write_by_turns

    def chat(
        source: tyro.conf.Positional[Path],
        writing: Annotated[Writing, SAME_LEVEL] = Writing(max_new_tokens=64),  # noqa: B008
        opening: Annotated[Opening, SAME_LEVEL] = Opening(),  # noqa: B008
    ) -> None:
        """Complete each line that is typed. The model goes on with a text; it does not answer.

        Args:
            source: the run folder, or a model in another format that `minillama convert` reads.
            writing: how it writes.
            opening: which model, and how.
        """
        decoder, pieces = opening.load(source)
        replace_errors(sys.stdin)
        write_by_turns(
            decoder, pieces, (line.rstrip("\n") for line in sys.stdin),
            lambda text: print(text, end="", flush=True), **asdict(writing),
        )  # fmt: skip

    single("minillama chat", chat)(arguments)


def serve(arguments: Sequence[str]) -> None:
    """Show a run's model on a web page of this machine."""
    single("minillama serve", find("apps.serve.start:serve"))(arguments)


def convert(arguments: Sequence[str]) -> None:
    """Write a model in the format of another project, or read it from one."""
    from minillama.interop import formats
    from minillama.train.checkpoint import load_model

    def convert(
        source: tyro.conf.Positional[Path],
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
        model, pieces = formats.load(source, max_seq_len) or load_model(source, step)
        return f"wrote {formats.save(model, pieces, to, out, shards, shard_gb, dtype)}"

    single("minillama convert", convert)(arguments)


def plan(arguments: Sequence[str]) -> None:
    """Parameters, FLOP, memory and days of any model on any cluster (Section 2.4)."""
    single("minillama plan", find("parallel.memory:plan"))(arguments)


def bench(arguments: Sequence[str]) -> None:
    """Compare speed with other implementations, side by side."""
    names = ("data", "train", "mfu", "attention", "block", "generate", "evaluate")
    subcommands("bench", {name: f"bench.{name}:bench_{name}" for name in names}, arguments)


def reproduce(arguments: Sequence[str]) -> None:
    """Everything, from raw text to both figures."""
    single("minillama reproduce", find("apps.reproduce:reproduce"))(arguments)


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    verb.__name__: verb
    for verb in (reproduce, data, tokenizer, train, evaluate, report, harness, figures, generate)
    + (chat, serve, convert, plan, bench)
}


def usage() -> str:
    """The help page of ``minillama`` itself."""
    lines = (f"  {name:<10} {verb.__doc__}" for name, verb in VERBS.items())
    return "\n".join([
        "usage: minillama <verb> [--help]", "",
        "The LLaMA paper as one executable course.", "", *lines,
    ])  # fmt: skip


def run(arguments: Sequence[str]) -> None:
    """Find the verb and call it."""
    if not arguments or arguments[0] in HELP:
        print(usage())
        return
    if arguments[0] not in VERBS:
        raise ConfigError(f"unknown verb '{arguments[0]}'", nearest(arguments[0], VERBS))
    VERBS[arguments[0]](arguments[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit with 1 for an error the user can mend, 128 + n after signal n."""
    warnings.showwarning = lambda message, *_: print(f"{tag()}warning: {message}", file=sys.stderr)
    arguments = sys.argv[1:] if arguments is None else arguments
    replace_errors(sys.stdout)
    try:
        run(arguments)
        sys.stdout.flush()
    except MinillamaError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("stopped", 130)
    except BrokenPipeError:  # the reader of our output has left
        drop_output()
        sys.exit(141)
    except OSError as error:
        where = error.filename or "while writing"
        if error.errno in DISK_FULL:
            drop_output()
            fail(f"the disk is full ({where}). Make room and run again.", 1)
        if error.errno not in OF_PATHS:
            raise
        fail(f"{where}: {error.strerror}. Check the path and its permissions.", 1)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        fail(str(error), error.exit_code)


def replace_errors(stream: Any) -> None:
    """Read bytes that are no text, and write what an encoding lacks, as marks and not as errors."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


def drop_output() -> None:
    """What could not be printed is not tried again at the end of the process."""
    with contextlib.suppress(OSError):  # output that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tag() -> str:
    """What a line begins with under torchrun: the rank that it is from."""
    return f"[rank {os.environ['RANK']}] " if "RANK" in os.environ else ""


def fail(message: str, code: int) -> None:
    """Print one line and exit; of several ranks only the first to come here prints."""
    if "tqdm" in sys.modules:  # bars end before the error's line begins
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
    if "WORLD_SIZE" in os.environ:
        from minillama.scale.meeting import first_to_tell

        if not first_to_tell(message):
            sys.exit(code)
    print(f"{tag()}error: {message}", file=sys.stderr)
    sys.exit(code)
