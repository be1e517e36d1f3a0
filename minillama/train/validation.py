"""The validation loss of a model in training, also of one that is spread over processes."""

import numpy as np
import torch
import torch.distributed as dist

from minillama.corpus.token_files import Corpus
from minillama.evaluate.perplexity import batches, score, valid_bits_per_byte
from minillama.model import Llama
from minillama.scale.runtime import World
from minillama.train.config import TrainConfig


def validate(model: Llama, corpus: Corpus, config: TrainConfig, world: World) -> dict:
    """Loss in nats per token and bits per byte on the held-out documents, by slice and in all.

    A model that is spread over a mesh answers only if all of its processes ask: then every process
    must call this. They share the documents, and all of them get the result.
    """
    if world.mesh is None:
        result = valid_bits_per_byte(model, corpus, config.eval_tokens, config.seq_len)
    else:
        model.eval()
        result = score(
            corpus,
            lambda parts: shared_log_prob(model, parts, world),
            config.eval_tokens,
            config.seq_len,
        )
        model.train()
    return {
        "valid_loss": result["loss"],
        "valid_bpb": result["bpb"],
        "valid_bpb_by_slice": result["bpb_by_slice"],
    }


@torch.no_grad()
def shared_log_prob(model: Llama, parts: list[np.ndarray], world: World) -> float:
    """Total log-probability in nats of the windows' targets; each data rank scores some windows.

    Every forward pass is a collective operation, so ranks that have fewer batches than others fill
    up with passes over nothing.
    """
    mine = list(batches(parts[world.data_rank :: world.data_size]))
    rounds = torch.tensor(len(mine), device=world.device)
    dist.all_reduce(rounds, dist.ReduceOp.MAX)
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    mine += [(nothing, nothing - 100)] * (int(rounds) - len(mine))
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    for tokens, targets in mine:
        loss = model(tokens.to(world.device), targets=targets.to(world.device))
        total -= loss * int((targets != -100).sum())
    dist.all_reduce(total)
    return float(total) * world.data_size / world.size
