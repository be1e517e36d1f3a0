"""HellaSwag's speed: minillama's scoring against lm-evaluation-harness's Hugging Face backend.

All have the same weights and questions, zero-shot, and answer in turn; what is timed is from text
to log-likelihoods, tokenizing included.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from minillama.bench.race import Columns, Result, race, table_of
from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.evaluate.multiple_choice import encode, log_likelihoods
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
    texts = []
    for question in questions:
        texts += [context + completion for context, completion in question.requests]
    tokenizer = train_tokenizer(texts, folder / "tokenizer.model", VOCAB)
    torch.manual_seed(0)
    config = ModelConfig(256, LAYERS, 4, VOCAB, multiple_of=32, max_seq_len=512)
    return Llama(config).eval(), tokenizer


Ask = Callable[[list[tuple[str, str]]], list[float]]
"""From pairs of question and choice to log P of each choice after its question."""


def ask_minillama(model: Llama, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[float]:
    """What our own evaluations work out."""
    return log_likelihoods(model, [encode(tokenizer, pair) for pair in pairs])


def ask_harness(lm: object, pairs: list[tuple[str, str]]) -> list[float]:
    """What a model of the harness answers."""
    from lm_eval.api.instance import Instance

    instances = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    return [value for value, _ in lm.loglikelihood(instances, disable_tqdm=True)]


def score_choices(ask: Ask, questions: Sequence[Question]) -> Scores:
    """log P of each question's choices."""
    pairs = [pair for question in questions for pair in question.requests]
    values = iter(ask(pairs))
    return [list(islice(values, len(question.requests))) for question in questions]


@dataclass(frozen=True)
class EvaluateRow:
    """One contestant."""

    name: str
    rate: float  # questions per second: the median of the rounds
    ratio: float  # of its rate to the Hugging Face backend's: the median of the paired ratios
    accuracy: float  # by log P
    furthest: float  # the largest difference of a log-likelihood from that backend's, in nats


COLUMNS: Columns = {
    "": lambda row: row.name,
    "questions/s": lambda row: f"{row.rate:.1f}",
    "ratio": lambda row: f"{row.ratio:.2f}x",
    "acc": lambda row: f"{row.accuracy:.4f}",
    "furthest": lambda row: f"{row.furthest:.1e}",
}


def summarize(name: str, questions: Sequence[Question], results: dict[str, Result]) -> EvaluateRow:
    """A contestant's row; the first of ``results`` is what the others are compared with."""
    base, result = next(iter(results.values())), results[name]
    scores, reference = result.outputs[-1], base.outputs[-1]
    right = 0.0
    for question, values in zip(questions, scores, strict=True):
        right += credit(values, question.answer)
    gaps = np.concatenate(scores) - np.concatenate(reference)
    return EvaluateRow(
        name,
        rate=len(questions) / result.median,
        ratio=base.slower_than(result),
        accuracy=right / len(questions),
        furthest=np.abs(gaps).max(),
    )


def bench_evaluate(
    run: Path | None = None, questions: int = 200, rounds: int = 3, batch_size: int = 16
) -> list[EvaluateRow]:
    """Compare the speed of HellaSwag with lm-evaluation-harness, and print the table.

    Args:
        run: a run folder; by default a random model of 6.9M parameters.
        questions: of the validation set, spread evenly.
        rounds: how often each contestant answers all of them, in turn.
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
    chosen = load_questions(find_task(TASK), library, questions)
    with tempfile.TemporaryDirectory() as folder:
        if run:
            pair = load_model(run)
        else:
            everything = load_questions(find_task(TASK), library, max(questions, 3_000))
            pair = random_model(Path(folder), everything)
        exported = huggingface.save(*pair, Path(folder) / "exported")
        reference = HFLM(str(exported), device="cpu", dtype="float32", batch_size=batch_size)
        asks = {
            "harness, Hugging Face": partial(ask_harness, reference),
            "harness, minillama": lambda pairs: ask_harness(HarnessModel(pair), pairs),
            "minillama": partial(ask_minillama, *pair),
        }
        turns = {name: partial(score_choices, ask, chosen) for name, ask in asks.items()}
        results = race(turns, rounds)
    rows = [summarize(name, chosen, results) for name in results]
    size, threads = pair[0].config.num_parameters(), torch.get_num_threads()
    print(f"HellaSwag, {len(chosen)} questions, zero-shot; {size:,} parameters")
    print(f"CPU, float32, {threads} threads; Hugging Face's backend in batches of {batch_size}")
    print(table_of(rows, COLUMNS))
    print("furthest: largest difference of a log-likelihood, in nats")
    return rows
