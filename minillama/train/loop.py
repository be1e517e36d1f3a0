"""The training loop of Section 2.3: read a batch, follow the gradient, write down what happened.

A run is a folder: config.toml, tokenizer.model, metrics.jsonl and checkpoints/. Killed at any
moment and started again, it ends with the same losses and the same weights, bit for bit: step s
depends on the checkpoint before it and on the batch, which is a function of s alone.
"""

import math
import shutil
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from minillama.corpus.token_files import Corpus, open_corpus
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import CheckpointError
from minillama.files import atomic_path, remove, sha256
from minillama.model import Llama
from minillama.parallel.fsdp import parallelize, send_gradients
from minillama.parallel.initialize import initialize
from minillama.parallel.mesh import check_mesh
from minillama.scale import distributed_checkpoint
from minillama.scale.agreement import facts
from minillama.scale.crew import Crew
from minillama.scale.meeting import meet
from minillama.scale.runtime import World, join_world, leave_world
from minillama.tokenizer import Tokenizer
from minillama.train import checkpoint
from minillama.train.allocator import keep_freed_memory
from minillama.train.config import TrainConfig, check_same_run, read_config, write_config
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.log import append_metrics, rewind_metrics
from minillama.train.optimizer import build_optimizer, clip_gradients, learning_rate
from minillama.train.stop import Interrupted, StopRequest
from minillama.train.validation import validate


def train(config: TrainConfig) -> Path:
    """Train, or go on training, the run that ``config`` describes; returns its folder.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is changed.
        Interrupted: after Ctrl-C or SIGTERM, with the last step saved.
        SystemExit: another process of the run has told what is wrong.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_freed_memory()
    crew = Crew(meet(), config.hang_seconds)
    with crew.on_duty():
        crew.agree("start", facts(config))
        world = join_world(config.device, config.parallel, crew)
        try:
            with StopRequest() as stop:
                _train(config, world, stop)
        except Interrupted:  # all of them; after a failure of one the others would wait here
            leave_world()
            raise
        leave_world()
    return config.run


def _train(config: TrainConfig, world: World, stop: StopRequest) -> None:
    corpus = open_corpus(config.corpus)
    order = StatelessDataLoader(corpus, config.seq_len, config.batch_sequences, config.seed)
    order.share(world.data_size)  # complain before anything is written
    check_mesh(config.parallel, config.model, world.size, config.seq_len)
    start = open_run(config, corpus, world)
    total = config.total_steps
    if start == total:
        if world.is_main:
            print(f"{config.run} is complete ({total} steps)")
        return
    model, step_model = build_model(config, world)
    optimizer = build_optimizer(model, config.optimizer)
    if start:
        distributed_checkpoint.restore(config.run, start, model, optimizer)
    saver = distributed_checkpoint.Saver(
        config.run, config.milestone_steps(), world, config.async_save
    )
    bar = progress_bar(config, start, world)
    for step in range(start + 1, total + 1):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, config.optimizer)
        batch = order.batch(step - 1, world.data_rank, world.data_size).to(world.device)
        loss = backward(step_model, batch, config)
        grad_norm = clip_gradients(model, config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told = torch.cat((loss[None], loss.new_tensor([saver.failed, *stop.votes()])))
        loss, failed, *votes = world.mean(told).tolist()
        stopping = stop.decide(votes)
        seconds = time.perf_counter() - began
        check_finite(loss, grad_norm, step, config)
        if failed:
            saver.wait()  # raises what went wrong, on all ranks

        saving = step % config.save_every == 0 or step in config.milestone_steps()
        validating = step % config.eval_every == 0 or step in config.milestone_steps()
        measured = {}
        if (validating or step == total) and (world.is_main or world.mesh):
            measured = validate(model, corpus, config, world)
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
            append_metrics(config.run, record | measured)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(config.batch_tokens)
        if saving or step == total or stopping:
            state = {"data": corpus.fingerprint, "tokens": step * config.batch_tokens}
            state["tokenizer"] = sha256(corpus.tokenizer_path)
            saver.save(step, model, optimizer, state)
        if stopping and step < total:
            saver.wait()
            world.barrier()
            bar.close()
            del step_model  # else the exception keeps it beyond its process group: may never end
            raise Interrupted(stopping, step)
        world.crew.beat(step)
    saver.wait()
    world.barrier()
    bar.close()


def backward(model: nn.Module, batch: Tensor, config: TrainConfig) -> Tensor:
    """Accumulate the gradient of the mean loss over ``batch (sequences, seq_len + 1)``.

    The batch goes through in micro-batches, each weighted by its share, so that the sum is the
    gradient of the whole batch however it is cut. Returns the mean loss, detached.
    """
    total = torch.zeros((), device=batch.device)
    parts = batch.split(config.micro_batch)
    lower = config.dtype == "bfloat16" and not isinstance(model, FSDPModule)  # it lowers by itself
    for i, part in enumerate(parts):
        sending = send_gradients(model, config.parallel, last=i == len(parts) - 1)
        with sending, torch.autocast(batch.device.type, torch.bfloat16, enabled=lower):
            loss = model(part[:, :-1], targets=part[:, 1:]) * (len(part) / len(batch))
            loss.backward()
        total += loss.detach()
    return total


def build_model(config: TrainConfig, world: World) -> tuple[Llama, nn.Module]:
    """The model with its initial weights, and what wraps it to compute a step's gradients.

    Same seed, same weights, on whatever mesh. Both are one and the same on a mesh.
    """
    if world.mesh:
        with torch.device("meta"):
            model = Llama(config.model)
        by_hand = config.backward == "by_hand"
        parallelize(model, config.parallel, world.mesh, config.dtype, config.compile, by_hand)
        initialize(model, world.device, config.seed)
        return model, model
    torch.manual_seed(config.seed)
    model = Llama(config.model).to(world.device)
    return model, wrap(model, config, world)


def wrap(model: Llama, config: TrainConfig, world: World) -> nn.Module:
    """Choose the backward, compile if asked, and average gradients over several processes."""
    if config.backward == "by_hand":
        differentiate_by_hand(model)
    recompute_blocks(model, config.parallel.recompute)
    module: nn.Module = torch.compile(model) if config.compile else model
    if world.size == 1:
        return module
    ids = [world.device.index] if world.device.type == "cuda" else None
    with warnings.catch_warnings():  # torch 2.13 has another name for it, which 2.9 does not know
        warnings.filterwarnings("ignore", ".*broadcast_buffers")
        return DistributedDataParallel(
            module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )


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
    steps = {f"the checkpoints of {run}": checkpoint.steps(run)}
    world.crew.agree("run", {"the corpus": corpus.fingerprint[:12]} | steps)
    start = distributed_checkpoint.last_good(run, world) or 0
    if not start and checkpoint.steps(run):  # what is left may still be of use to somebody
        raise CheckpointError(
            f"every checkpoint of {run} is damaged",
            "delete the folder to begin again, or use another --name",
        )
    if start and checkpoint.load_state(run, start)["data"] != corpus.fingerprint:
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
    world.crew.log.open(run)
    world.crew.log.write(f"{world.describe()}; goes on from step {start}")
    return start


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
