"""HellaSwag's speed: minillama's scoring against lm-evaluation-harness's Hugging Face backend.

All have the same weights and questions, zero-shot, and answer in turn; what is timed is from text
to log-likelihoods, tokenizing included.
"""

import tempfile
from collections.abc import Sequence
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


def score_choices(model: Llama, tokenizer: Tokenizer, questions: Sequence[Question]) -> Scores:
    """log P of the choices after their question, which is all that the harness works out."""
    pairs = [request for question in questions for request in question.requests]
    encoded = [encode(tokenizer, pair) for pair in pairs]
    return by_question(questions, log_likelihoods(model, encoded))


def score_by_harness(lm: object, questions: Sequence[Question]) -> Scores:
    """What a model of the harness answers to the same requests."""
    from lm_eval.api.instance import Instance

    pairs = [request for question in questions for request in question.requests]
    instances = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    answers = lm.loglikelihood(instances, disable_tqdm=True)
    return by_question(questions, [value for value, _ in answers])


def by_question(questions: Sequence[Question], values: Sequence[float]) -> Scores:
    """Cut one list of values into those of each question's choices."""
    rest = iter(values)
    return [list(islice(rest, len(question.requests))) for question in questions]


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
    base = next(iter(results.values()))
    result = results[name]
    scores = result.outputs[-1]
    # The share of right answers, and how far its log-likelihoods are from the first one's.
    credits = 0.0
    for question, values in zip(questions, scores, strict=True):
        credits += credit(values, question.answer)
    gaps = np.abs(np.concatenate(scores) - np.concatenate(base.outputs[-1]))
    rate = len(questions) / result.median
    ratio = base.slower_than(result)
    return EvaluateRow(name, rate, ratio, credits / len(questions), gaps.max())


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
        contestants = {
            "harness, Hugging Face": partial(score_by_harness, reference, chosen),
            "harness, minillama": lambda: score_by_harness(HarnessModel(pair), chosen),
            "minillama": partial(score_choices, *pair, chosen),
        }
        results = race(contestants, rounds)
    rows = [summarize(name, chosen, results) for name in contestants]
    size, threads = pair[0].config.num_parameters(), torch.get_num_threads()
    print(f"HellaSwag, {len(chosen)} questions, zero-shot; {size:,} parameters")
    print(f"CPU, float32, {threads} threads; Hugging Face's backend in batches of {batch_size}")
    print(table_of(rows, COLUMNS))
    print("furthest: largest difference of a log-likelihood, in nats")
    return rows
