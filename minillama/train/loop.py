"""The training loop of Section 2.3: read a batch, follow the gradient, write down what happened.

Killed at any moment and started again, a run ends with the same losses and the same weights, bit
for bit: step s depends on the checkpoint before it and on the batch, which is a function of s.
"""

import math
import time
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minillama.corpus.token_files import open_corpus
from minillama.errors import CheckpointError
from minillama.train.allocator import keep_freed_memory
from minillama.train.backend import LocalBackend
from minillama.train.config import TrainConfig
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.log import append_metrics
from minillama.train.optimizer import build_optimizer, clip_gradients, learning_rate
from minillama.train.run_folder import open_run
from minillama.train.stop import Interrupted, StopRequest
from minillama.train.validation import validate


def train(config: TrainConfig, backend: LocalBackend | None = None) -> Path:
    """Train, or go on training, the run that ``config`` describes; returns its folder.

    Args:
        config: all that the result depends on.
        backend: the processes that do it; by default this one alone.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is changed.
        Interrupted: after Ctrl-C or SIGTERM, with the last step saved.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    with StopRequest() as stop:
        step = run_steps(config, backend or LocalBackend(config.device), stop)
    if stop.agreed and step < config.total_steps:
        raise Interrupted(stop.agreed, step)
    return config.run


def run_steps(config: TrainConfig, backend: LocalBackend, stop: StopRequest) -> int:
    """Take step after step, to the end or until a request to stop; returns the last one."""
    # Data: the batch of a step is a function of its number.
    corpus = open_corpus(config.corpus)
    loader = StatelessDataLoader(corpus, config.seq_len, config.batch_sequences, config.seed)
    loader.share(backend.data_size)  # complains before anything is written
    backend.check(config)

    # Run folder: the step to go on from, 0 at first.
    start, total = open_run(config, corpus, backend), config.total_steps
    if start == total:
        if backend.is_main:
            print(f"{config.run} is complete ({total} steps)")
        return total

    # Model, and around it what computes its gradients, perhaps on many processes.
    model, module = backend.build_model(config)

    # Optimizer: AdamW. The checkpoint has its moments, too.
    optimizer = build_optimizer(model, config.optimizer)
    if start:
        backend.restore(config.run, start, model, optimizer)
    saver = backend.saver(config)
    state = {"data": corpus.fingerprint, "tokenizer": corpus.manifest["tokenizer_sha256"]}

    # Loop.
    batches = loader.batches(start, total, backend.data_rank, backend.data_size)
    with closing(batches), progress_bar(config, start, backend) as bar:
        for step in range(start + 1, total + 1):
            # One update: (sequences, seq_len + 1) tokens in, the mean loss of this process out.
            began = time.perf_counter()
            rate = learning_rate(step, total, config.optimizer)
            batch = next(batches).to(backend.device)
            loss = backward(module, batch, config, backend)
            norm = clip_gradients(model, config.optimizer.clip)
            update(optimizer, rate)

            # Of all processes: the mean loss, who could not save, who got a signal.
            flags = loss.new_tensor([saver.failed, *stop.received()])
            loss, failed, *signals = backend.mean(torch.cat((loss[None], flags))).tolist()
            seconds = time.perf_counter() - began
            check_finite(loss, norm, step, config)
            if failed:
                saver.wait()  # raises what went wrong, on all processes

            # Measure, and write down.
            milestone = step in config.milestone_steps()
            record = {
                "step": step,
                "tokens": step * config.batch_tokens,
                "loss": loss,
                "lr": rate,
                "grad_norm": norm,
                "tokens_per_s": round(config.batch_tokens / seconds, 1),
                "seconds": round(seconds, 4),
            }
            if milestone or step % config.eval_every == 0 or step == total:
                record |= validate(model, corpus, config, backend)
            if backend.is_main:
                append_metrics(config.run, record)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(config.batch_tokens)

            # Save.
            stopping = stop.agree(signals)
            if milestone or step % config.save_every == 0 or step == total or stopping:
                saver.save(step, model, optimizer, state | {"tokens": record["tokens"]})
            if stopping:
                break
            backend.beat()
        saver.wait()
        backend.barrier()
    return step


def backward(
    module: nn.Module, batch: Tensor, config: TrainConfig, backend: LocalBackend
) -> Tensor:
    """Accumulate the gradient of the mean loss over ``batch (sequences, seq_len + 1)``.

    The batch goes through in micro-batches, each weighted by its share, so that the sum is the
    gradient of the whole batch however it is cut. Returns the mean loss, detached.
    """
    total = torch.zeros((), device=batch.device)
    parts = batch.split(config.micro_batch)
    for part in parts:
        inputs, targets = part[:, :-1], part[:, 1:]  # (micro_batch, seq_len) each
        share = len(part) / len(batch)
        with backend.micro_batch(module, config, last=part is parts[-1]):
            loss = module(inputs, targets=targets) * share
            loss.backward()
        total += loss.detach()
    return total


def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One step of the optimizer at this learning rate; gradients are freed."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def check_finite(loss: float, norm: float, step: int, config: TrainConfig) -> None:
    """Stop a run whose loss or gradient is no number, before it overwrites a good checkpoint."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise CheckpointError(
            f"step {step} has a loss of {loss} and a gradient of norm {norm}",
            f"lower optimizer.lr (now {config.optimizer.lr}) or lengthen the warm-up",
        )


def progress_bar(config: TrainConfig, start: int, backend: LocalBackend) -> tqdm:
    """Tokens done, tokens a second and time left, on the main process."""
    return tqdm(
        total=config.total_steps * config.batch_tokens,
        initial=start * config.batch_tokens,
        desc=config.name,
        unit="tok",
        unit_scale=True,
        disable=not backend.is_main,
        mininterval=0.5,
        dynamic_ncols=True,
    )
