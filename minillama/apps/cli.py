"""The command line: ``minillama <verb>``. Errors become one line here, and nowhere else.

Most verbs are one function somewhere in the package, whose parameters are the flags.
"""

import contextlib
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from minillama.errors import ConfigError, MinillamaError, nearest

HELP = ("-h", "--help", "help")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATH_ERRORS = (
    errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST,
    errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip

VERBS: dict[str, tuple[str, str | dict[str, str]]] = {
    "reproduce": ("Everything, from raw text to both figures.", "apps.reproduce:reproduce"),
    "data": (
        "Fetch, build, extend and trace the corpus (Section 2.1).",
        {
            "fetch": "scale.sources:fetch",
            "build": "scale.build_corpus:build",
            "add": "scale.user_texts:add_texts",
            "list": "scale.user_texts:list_texts",
            "remove": "scale.user_texts:remove_texts",
            "hub": "scale.hub:build_hub",
            "trace": "corpus.trace:trace",
            "verify": "corpus.token_files:verify_corpus",
            "datatrove": "scale.datatrove:run_datatrove",
            "full": "scale.redpajama:build_full",
        },
    ),
    "tokenizer": (
        "Train a tokenizer, or encode and decode with one (Section 2.1).",
        {name: f"corpus.vocabulary:{name}" for name in ("train", "encode", "decode")},
    ),
    "train": ("Train a model: --preset NAME, then any field as a flag.", "apps.cli:train"),
    "evaluate": ("Score a run on benchmarks (Section 3).", "apps.evaluate:evaluate"),
    "report": (
        "Tables 3-9 of the paper with runs of ours beside (Section 3).",
        "apps.report:report_runs",
    ),
    "harness": (
        "Run any task of lm-evaluation-harness on a run (needs the extra lm-eval).",
        "interop.lm_eval:harness",
    ),
    "figures": ("Draw Figures 1 and 2 from runs (Section 3.7).", "figures.draw:draw_figures"),
    "generate": ("Complete a prompt with a model.", "apps.generate:generate"),
    "chat": ("Write a text by turns with a model, in the terminal.", "apps.generate:chat"),
    "serve": ("Show a run's model on a web page of this machine.", "apps.serve.start:serve"),
    "convert": (
        "Write a model in the format of another project, or read it from one.",
        "apps.generate:convert",
    ),
    "plan": (
        "Parameters, FLOP, memory and days of any model on any cluster (Section 2.4).",
        "parallel.memory:plan",
    ),
    "bench": (
        "Compare speed with other implementations, side by side.",
        {
            "data": "bench.data:bench_data",
            "train": "bench.train:bench_train",
            "mfu": "bench.train:bench_mfu",
            "attention": "bench.memory:bench_attention",
            "block": "bench.memory:bench_block",
            "generate": "bench.generate:bench_generate",
            "evaluate": "bench.evaluate:bench_evaluate",
        },
    ),
}
"""Verb -> what it does, and its module:function, or those of its own verbs. Only what a verb needs
is ever imported."""


def run(arguments: Sequence[str]) -> None:
    """Find the verb and call it."""
    if not arguments or arguments[0] in HELP:
        print("usage: minillama <verb> [--help]\n\nThe LLaMA paper as one executable course.\n")
        print_verbs({name: text for name, (text, _) in VERBS.items()})
        return
    verb, *rest = arguments
    if verb not in VERBS:
        raise ConfigError(f"unknown verb '{verb}'", nearest(verb, VERBS))
    _, target = VERBS[verb]
    if isinstance(target, dict):
        run_verb_of(verb, target, rest)
    elif verb == "train":  # its defaults depend on its flags
        train(rest)
    else:
        run_function(f"minillama {verb}", find_function(target), rest)


def run_verb_of(verb: str, table: dict[str, str], arguments: Sequence[str]) -> None:
    """Call a verb of a verb, such as ``minillama data fetch``."""
    if not arguments or arguments[0] in HELP:
        print(f"usage: minillama {verb} <{'|'.join(table)}> [--help]\n\n{VERBS[verb][0]}\n")
        functions = {name: find_function(path) for name, path in table.items()}
        print_verbs({name: first_line(function) for name, function in functions.items()})
        return
    name, *rest = arguments
    if name not in table:
        raise ConfigError(f"unknown verb '{verb} {name}'", nearest(name, table))
    run_function(f"minillama {verb} {name}", find_function(table[name]), rest)


def run_function(prog: str, function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Call a function with its parameters from flags; print the text that it returns."""
    print_result(tyro.cli(function, args=list(arguments), prog=prog))


def print_result(result: Any) -> None:
    """Print what a verb returns, if it is text or draws itself as text."""
    if isinstance(result, str):
        print(result)
    elif hasattr(result, "render"):
        print(result.render())


def find_function(path: str) -> Callable[..., Any]:
    """Import ``module:function``."""
    module, function = path.split(":")
    return getattr(importlib.import_module(f"minillama.{module}"), function)


def first_line(function: Callable[..., Any]) -> str:
    """Return the first line of a function's docstring."""
    return (function.__doc__ or "").strip().split("\n")[0]


def print_verbs(texts: dict[str, str]) -> None:
    """Print verbs and what they do, a line each."""
    for name, text in texts.items():
        print(f"  {name:<10} {text}")


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

        if main_rank:
            print_result(dry_run(config, world_of(config, preset, world)))
        return
    from minillama.scale.runtime import train_distributed

    run = train_distributed(config)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    exit_on_error(lambda: run(sys.argv[1:] if arguments is None else arguments))


def exit_on_error(work: Callable[[], None]) -> None:
    """Do the work; exit with 1 for an error the user can mend, 128 + n after signal n."""
    warnings.showwarning = lambda message, *_: print(f"{tag()}warning: {message}", file=sys.stderr)
    replace_errors(sys.stdout)
    try:
        work()
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
        if error.errno not in PATH_ERRORS:
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
        from minillama.scale.rendezvous import first_to_report

        if not first_to_report():
            sys.exit(code)
    print(f"{tag()}error: {message}", file=sys.stderr)
    sys.exit(code)
