"""The null line: what a 5-gram model of our own training text scores on the benchmarks.

It has read what the model has read and sees four pieces back, so it cannot answer a question. Where
it is above chance, the benchmark can be beaten by the length or the wording of the choices alone.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minillama.corpus.token_files import Corpus, open_corpus
from minillama.errors import MinillamaError
from minillama.evaluate.generation import scored_bytes
from minillama.evaluate.multiple_choice import encode
from minillama.evaluate.ngram_baseline import NGram, request_log_likelihoods, training_tokens
from minillama.evaluate.scoring import record_name
from minillama.evaluate.task_run import Exam
from minillama.files import read_json, sha256, write_json
from minillama.tokenizer import Tokenizer
from minillama.train.config import read_config

ORDER = 5
KEPT = ("n", "accuracy", "se", "accuracies", "gold_bpb", "context_gain", "groups")


def null_lines(
    run: Path, exams: Sequence[Exam], tokenizer: Tokenizer, settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The n-gram model's results by task; none if the run's corpus is not here any more.

    They depend on the text and the questions, not on the run, so they are kept beside the runs, in
    RUNS/CORPUS-null[.limit-L].json, where the other sizes of a ladder find them.

    Args:
        run: the run folder, whose corpus is counted.
        exams: what to ask. Of generation tasks, bits per byte of the right answers alone: counts
            that see four pieces back write none.
        tokenizer: the run's.
        settings: what is asked and how.
    """
    corpus = corpus_of(run)
    if corpus is None:
        return {}
    text = Path(read_config(run / "config.toml").corpus).name
    path = run.parent / f"{record_name(f'{text}-null', settings)}.json"
    settings = settings | {"order": ORDER, "corpus": corpus.fingerprint}
    known = read_json(path) if path.exists() else {}
    told = known["tasks"] if known.get("settings") == settings else {}
    if missing := [exam for exam in exams if exam.key not in told]:
        model = NGram(training_tokens(corpus), corpus.vocab_size, order(corpus.vocab_size))
        for exam in missing:
            told[exam.key] = null_line(model, tokenizer, exam)
        write_json(path, {"settings": settings, "tasks": told})
    return {exam.key: told[exam.key] for exam in exams}


def null_line(model: NGram, tokenizer: Tokenizer, exam: Exam) -> dict[str, Any]:
    """What the n-gram model scores on one exam."""
    if exam.task.kind == "generation":
        gold = [encode(tokenizer, (p.prompt, p.completion)) for p in exam.questions]
        nats = -sum(request_log_likelihoods(model, gold))
        size = sum(map(scored_bytes, exam.questions))
        return {"n": len(gold), "accuracy": None, "gold_bpb": nats / math.log(2) / size}
    requests = exam.requests(tokenizer, exam.questions)
    result = exam.summarize(
        requests.rows(exam.key, request_log_likelihoods(model, requests.encoded))
    )
    return {key: result[key] for key in KEPT}


def corpus_of(run: Path) -> Corpus | None:
    """The corpus that a run was trained on, if it is there and cut into the run's pieces."""
    try:
        corpus = open_corpus(read_config(run / "config.toml").corpus)
        same = sha256(corpus.tokenizer_path) == sha256(run / "tokenizer.model")
    except (MinillamaError, OSError):
        return None
    return corpus if same else None


def order(vocab_size: int) -> int:
    """The longest n-grams, up to 5, of which one fits into 64 bits."""
    return min(ORDER, 64 // int(vocab_size - 1).bit_length())
