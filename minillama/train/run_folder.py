"""A run is a folder: config.toml, tokenizer.model, metrics.jsonl and checkpoints/."""

import shutil

from minillama.corpus.token_files import Corpus
from minillama.errors import CheckpointError
from minillama.files import atomic_path, remove
from minillama.train import checkpoint
from minillama.train.backend import LocalBackend
from minillama.train.config import TrainConfig, check_same_run, read_config, write_config
from minillama.train.log import rewind_metrics


def open_run(config: TrainConfig, corpus: Corpus, backend: LocalBackend) -> int:
    """Create the run folder, or check that it is this run's; return the step to go on from.

    Raises:
        ConfigError: the folder holds a run with other settings.
        CheckpointError: another tokenizer, or another corpus than it was trained on so far.
    """
    run = config.run
    check_vocabulary_fits(config, corpus)
    if (run / "config.toml").exists() and (run / "metrics.jsonl").exists():
        check_same_run(read_config(run / "config.toml"), config, run)  # it took a step
    saved = checkpoint.steps(run)
    facts = {"the corpus": corpus.fingerprint[:12], f"the checkpoints of {run}": saved}
    backend.agree(facts)
    start = backend.last_good(run) or 0
    if not start and saved:  # what is left may still be of use to somebody
        hint = "delete the folder to begin again, or use another --name"
        raise CheckpointError(f"every checkpoint of {run} is damaged", hint)
    if start and checkpoint.load_state(run, start)["data"] != corpus.fingerprint:
        hint = "restore that corpus, or use another --name for a new run"
        raise CheckpointError(f"{run} was trained on another build of {config.corpus}", hint)
    backend.barrier()
    if backend.is_main:
        tidy_run(config, corpus, start)
    backend.barrier()
    return start


def check_vocabulary_fits(config: TrainConfig, corpus: Corpus) -> None:
    """Raise ``CheckpointError`` unless corpus and model have the same number of pieces."""
    if corpus.vocab_size != config.model.vocab_size:
        pieces = f"{corpus.tokenizer_path} has {corpus.vocab_size} pieces"
        raise CheckpointError(
            f"{pieces} but the model has {config.model.vocab_size}",
            "use the tokenizer that the model was trained with",
        )


def tidy_run(config: TrainConfig, corpus: Corpus, start: int) -> None:
    """Write what a run begins with, and delete what lies beyond the step it goes on from."""
    run = config.run
    run.mkdir(parents=True, exist_ok=True)
    with atomic_path(run / "tokenizer.model") as tmp:
        shutil.copyfile(corpus.tokenizer_path, tmp)
    for step in checkpoint.steps(run):
        if step > start:  # damaged: the run writes it again
            checkpoint.delete(checkpoint.folder(run, step))
    for tmp in (*run.glob(".*.tmp"), *run.glob("checkpoints/.*.tmp")):
        remove(tmp)  # a crash left it half written
    checkpoint.prune(run, keep=config.milestone_steps())
    rewind_metrics(run, start)
    write_config(run / "config.toml", config)
