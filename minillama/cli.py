"""The command line: ``minillama <verb>``. Errors become one line here, and nowhere else."""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from minillama.errors import ConfigError, MinillamaError, nearest


def train(arguments: Sequence[str]) -> None:
    """Train a model: --preset NAME, then any field as a flag."""
    from minillama.train.config import TrainConfig, load_preset, read_config
    from minillama.train.loop import train

    arguments = list(arguments)
    default = TrainConfig()
    for flag, load in (("--preset", load_preset), ("--config", lambda p: read_config(Path(p)))):
        value = take_flag(arguments, flag)
        if value is not None:
            default = load(value)
    if not arguments and default == TrainConfig():
        raise ConfigError("nothing to train", "say --preset NAME; try --preset nano-7b, or --help")
    description = "Train one run; --preset NAME (or --config FILE) sets the defaults shown here."
    config = tyro.cli(
        TrainConfig, args=arguments, default=default, prog="minillama train",
        description=description, config=(tyro.conf.FlagConversionOff,),
    )  # fmt: skip
    print(train(config))


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


def subcommands(prog: str, table: dict[str, Callable[..., Any]]) -> Callable[[Sequence[str]], None]:
    """A verb with verbs of its own, such as ``minillama data fetch``."""

    def run(arguments: Sequence[str]) -> None:
        show(tyro.extras.subcommand_cli_from_dict(table, args=list(arguments), prog=prog))

    return run


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
    from minillama.corpus import build

    table = {"fetch": build.fetch, "build": build.build, "add": build.add, "trace": build.trace}
    subcommands("minillama data", table)(arguments)


def tokenizer(arguments: Sequence[str]) -> None:
    """Train a tokenizer, or encode and decode with one."""
    from minillama.corpus import build

    table = {"train": build.train, "encode": build.encode, "decode": build.decode}
    subcommands("minillama tokenizer", table)(arguments)


def evaluate(arguments: Sequence[str]) -> None:
    """Score a run on benchmarks (Section 3)."""
    from minillama.evaluate.run import evaluate

    single("minillama evaluate", evaluate)(arguments)


def figures(arguments: Sequence[str]) -> None:
    """Draw Figures 1 and 2 from runs (Section 3.7)."""
    from minillama.analysis.figures import figures

    single("minillama figures", figures)(arguments)


def generate(arguments: Sequence[str]) -> None:
    """Complete a prompt with a run's model."""
    from minillama.generate.engine import stream
    from minillama.train.checkpoint import load_model

    def generate(
        run: tyro.conf.Positional[Path],
        prompt: tyro.conf.Positional[str] = "",
        max_new_tokens: int = 128,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = 0.95,
        seed: int = 0,
        step: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> None:
        """Complete a prompt with the model of a run, as it is generated.

        Args:
            run: the run folder.
            prompt: the text to go on from.
            max_new_tokens: stop after so many tokens.
            temperature: 0 takes the likeliest token every time.
            top_k: keep only the k likeliest tokens.
            top_p: keep the likeliest tokens that hold this much probability (Meta's rule).
            seed: same seed, same text.
            step: the checkpoint; the last by default.
            stop: end before any of these strings.
        """
        model, pieces = load_model(run, step)
        print(prompt, end="", flush=True)
        for text in stream(
            model, pieces, prompt, max_new_tokens=max_new_tokens, temperature=temperature,
            top_k=top_k, top_p=top_p, seed=seed, stop=stop,
        ):  # fmt: skip
            print(text, end="", flush=True)
        print()

    single("minillama generate", generate)(arguments)


def plan(arguments: Sequence[str]) -> None:
    """Parameters, FLOP, memory and days of any model on any cluster (Section 2.4)."""
    from minillama.parallel.memory import plan

    single("minillama plan", plan)(arguments)


def bench(arguments: Sequence[str]) -> None:
    """Compare speed with other implementations, side by side."""
    from minillama.bench.generate import bench_generate
    from minillama.bench.train import bench_train

    table = {"train": bench_train, "generate": bench_generate}
    subcommands("minillama bench", table)(arguments)


def reproduce(arguments: Sequence[str]) -> None:
    """Everything, from raw text to both figures."""
    from minillama.reproduce import reproduce

    single("minillama reproduce", reproduce)(arguments)


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    verb.__name__: verb
    for verb in (reproduce, data, tokenizer, train, evaluate, figures, generate, plan, bench)
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
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] not in VERBS:
        raise ConfigError(f"unknown verb '{arguments[0]}'", nearest(arguments[0], VERBS))
    VERBS[arguments[0]](arguments[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error the user can mend, 128 + n after signal n."""
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        run(arguments)
    except MinillamaError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("stopped", 130)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        fail(f"the disk is full ({error.filename or 'while writing'}). Make room and run again.", 1)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        fail(str(error), error.exit_code)


def fail(message: str, code: int) -> None:
    """Print one line and exit; under torchrun each line says which rank it is from."""
    rank = os.environ.get("RANK")
    print(f"{f'[rank {rank}] ' if rank else ''}error: {message}", file=sys.stderr)
    sys.exit(code)
