"""The 5-gram baseline: a model that knows nothing but counts of our own training text.

What a Transformer gains over it is what attention and depth are worth. On the benchmarks it is the
line to beat: it has read what the model has read and sees four pieces back, so it cannot answer a
question. Where it is above chance, the length or the wording of the choices alone can be.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minillama.corpus.ngram import BORDER, NGram
from minillama.corpus.token_files import Corpus, open_corpus
from minillama.errors import MinillamaError
from minillama.evaluate.generation import scored_bytes
from minillama.evaluate.multiple_choice import encode
from minillama.evaluate.scoring import record_name
from minillama.evaluate.task_run import TaskRun
from minillama.files import read_json, sha256, write_json
from minillama.tokenizer import Tokenizer
from minillama.train.config import TrainConfig, read_config
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.validation import score

ORDER = 5
REQUESTS_AT_ONCE = 4_096
KEPT = ("n", "accuracy", "se", "accuracies", "gold_bpb", "context_gain", "groups")


def training_tokens(
    corpus: Corpus, seen: StatelessDataLoader | None = None, steps: int = 0
) -> np.ndarray:
    """The text to count: every training document once, or what a run has read in its steps.

    What a run reads again in a later epoch is counted once. It is no new text, and counts that are
    all doubled leave no n-gram that occurred once, from which Kneser-Ney judges what is new.
    """
    parts = []
    if seen is None:
        for file in corpus.train.values():
            parts += [file.document(i) for i in range(file.n_documents)]
        return np.concatenate(parts).astype(np.int32)
    # A window may begin inside a document: a border keeps its n-grams from the one before.
    border = np.array([BORDER])
    for sequence in range(steps * seen.batch_sequences):
        name, number = seen.locate(sequence)
        if number < seen.windows_per_epoch(name):
            window = seen.window(name, number)[:-1]
            parts += [border, window]
    return np.concatenate(parts).astype(np.int32)


def ngram_bits_per_byte(
    corpus: Corpus,
    max_tokens: int,
    seq_len: int,
    order: int = ORDER,
    seen: StatelessDataLoader | None = None,
    steps: int = 0,
) -> dict:
    """As ``score`` on the validation text, and under ``test`` on the test text."""
    model = NGram(training_tokens(corpus, seen, steps), corpus.vocab_size, order)
    result = score(corpus, model.log_prob, max_tokens, seq_len)
    return result | {"test": score(corpus, model.log_prob, max_tokens, seq_len, "test")}


def ladder_baselines(config: TrainConfig) -> dict[str, Any]:
    """The 5-gram models that a ladder is compared with, for RUNS/LADDER-5gram.json.

    For 60M tokens of 4,096 pieces it takes about 6 minutes and 5 GiB.

    Args:
        config: of the largest size, which reads most.

    Returns:
        ``data`` (the corpus's fingerprint), and as ``score`` returns it with the ``tokens`` read:
        ``bytes`` and ``all`` (of bytes and of pieces, all training text), ``curve`` (of pieces, a
        list: the text read up to each milestone), and ``seen``, its end.
    """
    corpus = open_corpus(config.corpus)
    loader = StatelessDataLoader(corpus, config.seq_len, config.batch_sequences, config.seed)
    settings = (corpus, config.eval_tokens, config.seq_len)
    curve = []
    for step in sorted(config.milestone_steps()):
        counted = ngram_bits_per_byte(*settings, seen=loader, steps=step)
        curve.append({"tokens": step * config.batch_tokens} | counted)
    tokens = {"tokens": sum(file.tokens for file in corpus.train.values())}
    return {
        "data": corpus.fingerprint,
        "bytes": tokens | byte_ngram_bits_per_byte(*settings),
        "all": tokens | ngram_bits_per_byte(*settings),
        "seen": curve[-1],
        "curve": curve,
    }


def byte_symbols(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The bytes that pieces stand for, each plus 2, with 1 for <s>: ``(bytes,)`` uint16."""
    spelled = []
    for piece in tokenizer.piece_bytes:
        symbols = np.frombuffer(piece, np.uint8).astype(np.uint16)
        spelled.append(symbols + 2)
    spelled[Tokenizer.bos_id] = np.array([Tokenizer.bos_id], np.uint16)
    sizes = np.array([len(symbols) for symbols in spelled])
    begins = np.cumsum(sizes) - sizes  # of each piece when all pieces are laid end to end
    # Two pieces of 2 and 3 bytes that begin at 10 and 40 lie at 10 11 40 41 42, which is
    # arange 0 1 2 3 4 plus the shift 10 10 38 38 38.
    lengths = sizes[ids]
    written = np.cumsum(lengths) - lengths  # where each piece begins in the text
    shift = np.repeat(begins[ids] - written, lengths)
    laid = np.concatenate(spelled)
    return laid[np.arange(len(shift)) + shift]


def byte_ngram_bits_per_byte(
    corpus: Corpus, max_tokens: int, seq_len: int, order: int = ORDER
) -> dict:
    """As ``ngram_bits_per_byte`` on all training text, with n-grams of bytes, not of pieces."""
    tokenizer = corpus.tokenizer()
    model = NGram(byte_symbols(training_tokens(corpus), tokenizer), 258, order)

    def log_prob(parts: list[np.ndarray]) -> float:
        total = 0.0
        for part in parts:
            context = len(byte_symbols(part[:1], tokenizer))  # the first piece is context only
            p = model.probabilities(byte_symbols(part, tokenizer))
            total += np.log(p[context - 1 :]).sum()
        return float(total)

    result = score(corpus, log_prob, max_tokens, seq_len)
    return result | {"test": score(corpus, log_prob, max_tokens, seq_len, "test")}


def request_log_likelihoods(model: NGram, requests: Sequence[tuple[list[int], int]]) -> list[float]:
    """log P(completion | context) in nats, as ``multiple_choice.log_likelihoods`` of a Llama."""
    totals: list[float] = []
    for first in range(0, len(requests), REQUESTS_AT_ONCE):
        # All requests in one array, apart by borders, which no n-gram crosses.
        ids, places = [], []
        for request, start in requests[first : first + REQUESTS_AT_ONCE]:
            seen = min(start, model.order - 1)
            ids += [BORDER, *request[start - seen :]]
            end = len(ids)
            begin = end - (len(request) - start)
            places.append((begin, end))
        # A token's probability stands one place earlier.
        log_p = np.log(model.probabilities(np.array(ids)))
        for begin, end in places:
            total = log_p[begin - 1 : end - 1].sum()
            totals.append(float(total))
    return totals


def baseline_results(
    run: Path, task_runs: Sequence[TaskRun], settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The n-gram model's results by task; none if the run's corpus is not here any more.

    They depend on the text and the questions, not on the run, so they are kept beside the runs, in
    RUNS/CORPUS-null[.limit-L].json, where the other sizes of a ladder find them.
    """
    corpus = corpus_of(run)
    if corpus is None:
        return {}
    name = Path(read_config(run / "config.toml").corpus).name
    path = run.parent / f"{record_name(f'{name}-null', settings)}.json"
    settings = settings | {"order": ORDER, "corpus": corpus.fingerprint}
    stored = read_json(path) if path.exists() else {}
    results = stored["tasks"] if stored.get("settings") == settings else {}
    missing = [task_run for task_run in task_runs if task_run.key not in results]
    if missing:
        # The longest n-grams, up to 5, of which one fits into 64 bits.
        order = min(ORDER, 64 // int(corpus.vocab_size - 1).bit_length())
        model = NGram(training_tokens(corpus), corpus.vocab_size, order)
        for task_run in missing:
            results[task_run.key] = baseline_result(model, task_run)
        write_json(path, {"settings": settings, "tasks": results})
    return {task_run.key: results[task_run.key] for task_run in task_runs}


def baseline_result(model: NGram, task_run: TaskRun) -> dict[str, Any]:
    """What the n-gram model scores on one task.

    Where a model writes, bits per byte of the right answers alone: counts that see four pieces
    back write none.
    """
    if task_run.task.kind == "generation":
        problems = task_run.questions
        requests = [(problem.prompt, problem.completion) for problem in problems]
        encoded = [encode(task_run.tokenizer, request) for request in requests]
        values = request_log_likelihoods(model, encoded)
        bits = -sum(values) / math.log(2)
        size = sum(map(scored_bytes, problems))
        return {"n": len(problems), "accuracy": None, "gold_bpb": bits / size}
    requests = task_run.requests
    values = request_log_likelihoods(model, requests.encoded)
    result = task_run.summarize(requests.rows(task_run.key, values))
    return {key: result[key] for key in KEPT}


def corpus_of(run: Path) -> Corpus | None:
    """The corpus that a run was trained on, if it is there and cut into the run's pieces."""
    try:
        corpus = open_corpus(read_config(run / "config.toml").corpus)
        same = sha256(corpus.tokenizer_path) == sha256(run / "tokenizer.model")
    except (MinillamaError, OSError):
        return None
    return corpus if same else None
