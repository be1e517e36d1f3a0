"""HellaSwag's speed: minillama's scoring against lm-evaluation-harness's Hugging Face backend.

The same weights, the same questions, zero-shot, and the same accuracies; the contenders answer in
turn, so that a machine whose speed drifts slows all. What is timed is from text to log-likelihoods,
tokenizing included, and neither the loading of the model nor the harness's building of prompts.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.evaluate.multiple_choice import Requests, encode, log_likelihoods
from minillama.evaluate.scoring import credit
from minillama.evaluate.tasks import Question, find_task, load_questions, open_library
from minillama.interop import huggingface
from minillama.model import Llama
from minillama.tokenizer import Tokenizer, train_tokenizer
from minillama.train.checkpoint import load_model

TASK = "hellaswag"
VOCAB, LAYERS = 4096, 6
Scores = list[list[float]]
"""log P of each question's choices."""


def random_model(folder: Path, questions: Sequence[Question]) -> tuple[Llama, Tokenizer]:
    """A model of 6.9M random parameters, and a tokenizer of 4,096 pieces made of the questions."""
    texts = [context + completion for q in questions for context, completion in q.requests]
    tokenizer = train_tokenizer(texts, folder / "tokenizer.model", VOCAB)
    torch.manual_seed(0)
    config = ModelConfig(dim=256, n_layers=LAYERS, n_heads=4, vocab_size=VOCAB, multiple_of=32,
                         max_seq_len=512)  # fmt: skip
    return Llama(config).eval(), tokenizer


def ours(model: Llama, tokenizer: Tokenizer, questions: Sequence[Question]) -> Scores:
    """log P of the choices after their question, which is all that the harness works out."""
    encoded = [encode(tokenizer, request) for q in questions for request in q.requests]
    values = iter(log_likelihoods(model, encoded))
    return [[next(values) for _ in question.requests] for question in questions]


def ours_in_full(model: Llama, tokenizer: Tokenizer, questions: Sequence[Question]) -> Scores:
    """As ``minillama evaluate`` does it: also log P after a bare "Answer:"."""
    requests = Requests(tokenizer, questions)
    values = log_likelihoods(model, requests.encoded)
    return [row["log_likelihoods"] for row in requests.rows(TASK, values)]


def through_harness(lm: object, questions: Sequence[Question]) -> Scores:
    """What a model of the harness answers to the same requests."""
    from lm_eval.api.instance import Instance

    pairs = [request for question in questions for request in question.requests]
    instances = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    values = iter(lm.loglikelihood(instances, disable_tqdm=True))
    return [[next(values)[0] for _ in question.requests] for question in questions]


def accuracies(questions: Sequence[Question], scores: Scores) -> tuple[float, float]:
    """By log P, and by log P over characters."""
    raw = sum(credit(s, q.answer) for q, s in zip(questions, scores, strict=True))
    normalized = sum(
        credit([v / len(text[1:]) for v, (_, text) in zip(s, q.requests, strict=True)], q.answer)
        for q, s in zip(questions, scores, strict=True)
    )
    return raw / len(questions), normalized / len(questions)


@dataclass(frozen=True)
class Row:
    """One contender."""

    name: str
    rate: float
    """Questions per second: the median of the rounds."""
    ratio: float
    """Its rate over the Hugging Face backend's: the median of the paired ratios."""
    accuracy: float
    accuracy_norm: float
    furthest: float
    """The largest difference of a log-likelihood from the Hugging Face backend's, in nats."""


def bench_evaluate(
    run: Path | None = None, questions: int = 200, rounds: int = 3, batch_size: int = 16
) -> list[Row]:
    """Compare the speed of HellaSwag with lm-evaluation-harness, and print the table.

    Args:
        run: a run folder; by default a random model of 6.9M parameters.
        questions: of the validation set, spread evenly.
        rounds: how often each contender answers all of them, in turn.
        batch_size: of the harness's Hugging Face backend.

    Raises:
        ConfigError: the harness or transformers is not installed.
    """
    try:
        from lm_eval.models.huggingface import HFLM

        from minillama.interop.lm_eval import HarnessModel
    except ImportError as error:
        raise ConfigError(f"nothing to compare with ({error})", "pip install lm-eval") from None
    library = open_library()
    asked = load_questions(find_task(TASK), library, questions)
    with tempfile.TemporaryDirectory() as folder:
        everything = load_questions(find_task(TASK), library, max(questions, 3_000))
        model, tokenizer = load_model(run) if run else random_model(Path(folder), everything)
        exported = huggingface.save(model, tokenizer, Path(folder) / "exported")
        theirs = HFLM(str(exported), device="cpu", dtype="float32", batch_size=batch_size)
        contenders: dict[str, Callable[[], Scores]] = {
            "harness, Hugging Face": lambda: through_harness(theirs, asked),
            "harness, minillama": lambda: through_harness(HarnessModel((model, tokenizer)), asked),
            "minillama": lambda: ours(model, tokenizer, asked),
            "minillama, all rules": lambda: ours_in_full(model, tokenizer, asked),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        scores: dict[str, Scores] = {}
        for _ in range(rounds):
            for name, answer in contenders.items():
                began = time.perf_counter()
                scores[name] = answer()
                times[name].append(time.perf_counter() - began)
    rows = [summarize(name, asked, times, scores) for name in contenders]
    show(rows, model, len(asked), batch_size)
    return rows


def summarize(
    name: str,
    questions: Sequence[Question],
    times: dict[str, list[float]],
    scores: dict[str, Scores],
) -> Row:
    """A contender's row; the first of ``times`` is what the others are compared with."""
    base = next(iter(times))
    gaps = [
        abs(a - b)
        for mine, theirs in zip(scores[name], scores[base], strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]
    return Row(
        name,
        len(questions) / statistics.median(times[name]),
        statistics.median(b / a for a, b in zip(times[name], times[base], strict=True)),
        *accuracies(questions, scores[name]),
        max(gaps),
    )


def show(rows: list[Row], model: Llama, questions: int, batch_size: int) -> None:
    """Print the table, and whether all contenders agree."""
    print(f"HellaSwag, {questions} questions, zero-shot; {model.config.num_parameters():,} "
          f"parameters; CPU, float32, {torch.get_num_threads()} threads; the Hugging Face "
          f"backend in batches of {batch_size}")  # fmt: skip
    print(f"{'':<24}{'questions/s':>12}{'ratio':>8}{'acc':>8}{'acc_norm':>10}{'furthest':>11}")
    for row in rows:
        print(f"{row.name:<24}{row.rate:>12.1f}{row.ratio:>7.2f}x{row.accuracy:>8.4f}"
              f"{row.accuracy_norm:>10.4f}{row.furthest:>11.1e}")  # fmt: skip
    equal = len({(row.accuracy, row.accuracy_norm) for row in rows}) == 1
    print(f"accuracies are {'equal' if equal else 'NOT equal'}; furthest: largest difference of a "
          "log-likelihood, in nats")  # fmt: skip
