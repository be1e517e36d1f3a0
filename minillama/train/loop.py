"""The training loop of Section 2.3: read a batch, follow the gradient, write down what happened.

A run is a folder: config.toml, tokenizer.model, metrics.jsonl and checkpoints/. Killed at any
moment and started again, it ends with the same losses and the same weights, bit for bit: step s
depends on the checkpoint before it and on the batch, which is a function of s alone.
"""

import math
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from minillama.corpus.shards import Corpus, open_corpus
from minillama.efficient import differentiate_by_hand
from minillama.errors import CheckpointError
from minillama.evaluate.perplexity import valid_bits_per_byte
from minillama.files import atomic_path, remove, sha256
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train import checkpoint
from minillama.train.allocator import keep_freed_memory
from minillama.train.config import TrainConfig, check_same_run, read_config, write_config
from minillama.train.distributed import World, join_world, leave_world
from minillama.train.log import append_metrics, rewind_metrics
from minillama.train.optimizer import build_optimizer, clip_gradients, learning_rate
from minillama.train.order import DataOrder


class Interrupted(Exception):
    """The run was asked to stop; it finished its step and saved first."""

    def __init__(self, signal_number: int, step: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped after step {step}; run the same command to go on")


class StopRequest:
    """Catches Ctrl-C and SIGTERM (preemption), so that the loop can end a step and save."""

    def __enter__(self) -> "StopRequest":
        self.number = 0
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number:  # asked twice: stop at once
            raise KeyboardInterrupt
        self.number = number


def train(config: TrainConfig) -> Path:
    """Train, or go on training, the run that ``config`` describes; returns its folder.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is changed.
        Interrupted: after Ctrl-C or SIGTERM, with the last step saved.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    world = join_world(config.device)
    try:
        with StopRequest() as stop:
            _train(config, world, stop)
        return config.run
    finally:
        leave_world()


def _train(config: TrainConfig, world: World, stop: StopRequest) -> None:
    corpus = open_corpus(config.corpus)
    order = DataOrder(corpus, config.seq_len, config.batch_sequences, config.seed)
    order.share(world.size)  # complain before anything is written
    start = open_run(config, corpus, world)
    total = config.total_steps
    if start == total:
        if world.is_main:
            print(f"{config.run} is complete ({total} steps)")
        return
    torch.manual_seed(config.seed)
    model = Llama(config.model).to(world.device)
    optimizer = build_optimizer(model, config.optimizer)
    if start:
        checkpoint.restore(config.run, start, model, optimizer)
    step_model = wrap(model, config, world)
    bar = progress_bar(config, start, world)
    for step in range(start + 1, total + 1):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, config.optimizer)
        batch = order.batch(step - 1, world.rank, world.size).to(world.device)
        loss = backward(step_model, batch, config)
        grad_norm = clip_gradients(model, config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss, stopping = world.mean(torch.stack((loss, loss.new_tensor(stop.number)))).tolist()
        seconds = time.perf_counter() - began
        check_finite(loss, grad_norm, step, config)

        saving = step % config.save_every == 0 or step in config.milestone_steps()
        if world.is_main:
            record = {
                "step": step,
                "tokens": step * config.batch_tokens,
                "loss": loss,
                "lr": learning_rate(step, total, config.optimizer),
                "grad_norm": grad_norm,
                "tokens_per_s": round(config.batch_tokens / seconds, 1),
                "seconds": round(seconds, 4),
            }
            if step % config.eval_every == 0 or step == total or step in config.milestone_steps():
                record |= validate(model, corpus, config)
            append_metrics(config.run, record)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(config.batch_tokens)
            if saving or step == total or stopping:
                state = {"data": fingerprint(corpus), "tokens": record["tokens"]}
                state["tokenizer"] = sha256(corpus.tokenizer_path)
                checkpoint.save(config.run, step, model, optimizer, state)
                checkpoint.prune(config.run, keep=config.milestone_steps())
        if stopping and step < total:
            world.barrier()
            bar.close()
            raise Interrupted(stop.number or signal.SIGTERM, step)
    world.barrier()
    bar.close()


def backward(model: nn.Module, batch: Tensor, config: TrainConfig) -> Tensor:
    """Accumulate the gradient of the mean loss over ``batch (sequences, seq_len + 1)``.

    The batch goes through in micro-batches, each weighted by its share, so that the sum is the
    gradient of the whole batch however it is cut. Returns the mean loss, detached.
    """
    total = torch.zeros((), device=batch.device)
    parts = batch.split(config.micro_batch)
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        quiet = nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()
        lower = config.dtype == "bfloat16"
        with quiet, torch.autocast(batch.device.type, torch.bfloat16, enabled=lower):
            loss = model(part[:, :-1], targets=part[:, 1:]) * (len(part) / len(batch))
            loss.backward()
        total += loss.detach()
    return total


def wrap(model: Llama, config: TrainConfig, world: World) -> nn.Module:
    """Choose the backward, compile if asked, and average gradients over several processes."""
    if config.backward == "by_hand":
        differentiate_by_hand(model)
    module: nn.Module = torch.compile(model) if config.compile else model
    if world.size == 1:
        return module
    ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids)


def open_run(config: TrainConfig, corpus: Corpus, world: World) -> int:
    """Create the run folder, or check that it is this run's; return the step to go on from.

    Raises:
        ConfigError: the folder holds a run with other settings.
        CheckpointError: another tokenizer, or another corpus than it was trained on so far.
    """
    run, told = config.run, config.run / "config.toml"
    tokenizer = Tokenizer.load(corpus.tokenizer_path)
    checkpoint.check_vocabulary(tokenizer, config.model, corpus.tokenizer_path)
    if told.exists() and (run / "metrics.jsonl").exists():  # else it never took a step
        check_same_run(read_config(told), config, run)
    start = checkpoint.last_good(run) or 0
    if start and checkpoint.load_state(run, start)["data"] != fingerprint(corpus):
        raise CheckpointError(
            f"{run} was trained on another build of {config.corpus}",
            "restore that corpus, or use another --name for a new run",
        )
    world.barrier()
    if world.is_main:
        run.mkdir(parents=True, exist_ok=True)
        with atomic_path(run / "tokenizer.model") as aside:
            shutil.copyfile(corpus.tokenizer_path, aside)
        for step in checkpoint.steps(run):
            if step > start:  # damaged: the run writes it again
                checkpoint.delete(checkpoint.folder(run, step))
        for aside in (*run.glob(".*.tmp"), *run.glob("checkpoints/.*.tmp")):
            remove(aside)  # a crash left it half written
        checkpoint.prune(run, keep=config.milestone_steps())
        rewind_metrics(run, start)
        write_config(told, config)
    world.barrier()
    return start


def fingerprint(corpus: Corpus) -> str:
    """What identifies the training tokens: the checksum of the corpus's manifest."""
    return sha256(Path(corpus.tokenizer_path).with_name("manifest.json"))


def validate(model: Llama, corpus: Corpus, config: TrainConfig) -> dict:
    """Loss in nats per token and bits per byte on the held-out documents, by slice and in all."""
    result = valid_bits_per_byte(model, corpus, config.eval_tokens, config.seq_len)
    return {
        "valid_loss": result["loss"],
        "valid_bpb": result["bpb"],
        "valid_bpb_by_slice": result["bpb_by_slice"],
    }


def check_finite(loss: float, grad_norm: float, step: int, config: TrainConfig) -> None:
    """Stop a run whose loss or gradient is no number, before it overwrites a good checkpoint."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise CheckpointError(
            f"step {step} has a loss of {loss} and a gradient of norm {grad_norm}",
            f"lower optimizer.lr (now {config.optimizer.lr}) or lengthen the warm-up",
        )


def progress_bar(config: TrainConfig, start: int, world: World) -> tqdm:
    """Tokens done, tokens a second and time left, on the main process."""
    return tqdm(
        total=config.total_steps * config.batch_tokens,
        initial=start * config.batch_tokens,
        desc=config.name,
        unit="tok",
        unit_scale=True,
        disable=not world.is_main,
        mininterval=0.5,
        dynamic_ncols=True,
    )
