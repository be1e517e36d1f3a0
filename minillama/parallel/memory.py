"""Arithmetic for training a model on a cluster: FLOP, memory, days, energy (Sections 2.4 and 6).

Everything here is a formula on the configuration; nothing is allocated or measured. Memory leaves
out kernels' workspace and fragmentation, so keep a tenth of the GPU free.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from minillama.config import ModelConfig
from minillama.efficient.recompute import Recompute
from minillama.errors import ConfigError
from minillama.model.loss import chunk_rows
from minillama.paper import KG_CO2EQ_PER_KWH, PARAMETERS, PUE, SPEED, TABLE2, TABLE15
from minillama.tables import text_table

Kept = Recompute | Literal["by_hand"]
"""What decides how much of a block's forward waits for its backward."""
GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """A GPU's peak FLOP/s in dense 16-bit products, its memory in GiB and its power in watts."""

    peak: float
    memory: float
    power: float


GPUS: dict[str, GPU] = {  # from the makers' data sheets; float16 for V100 and T4, else bfloat16
    "v100-32gb": GPU(125e12, 32, 300),
    "t4": GPU(65e12, 16, 70),
    "a100-40gb": GPU(312e12, 40, 400),
    "a100-80gb": GPU(312e12, 80, 400),
    "rtx-4090": GPU(165e12, 24, 450),
    "h100": GPU(989e12, 80, 700),
    "h200": GPU(989e12, 140, 700),
    "b200": GPU(2250e12, 180, 1000),
}


def recognize_gpu(device_name: str) -> str | None:
    """The key in ``GPUS`` of what torch calls, say, "NVIDIA A100-SXM4-80GB"; None if unknown."""
    words = set(re.split(r"[\s-]+", device_name.lower()))
    return next((key for key in GPUS if words.issuperset(key.split("-"))), None)


def flops_per_token(config: ModelConfig, seq_len: int, embedding: bool = True) -> float:
    """FLOP that train on one token: 6 N + 12 L d T / 2.

    Each parameter takes a multiplication and an addition forward and twice that backward: 6. The
    scores Q K^T and their product with V take 2 x 2 T d a layer forward, 12 T d with the backward;
    half of them are masked and skipped. Recomputation is left out: a cost and not work.

    Args:
        config: the model.
        seq_len: T.
        embedding: count the input embedding in N, as is the custom, though it is only looked up
            (1.9% of 7B, 0.4% of 65B); without it, what is really multiplied.
    """
    looked_up = 0 if embedding else config.vocab_size * config.dim
    parameters = config.num_parameters() - looked_up
    return 6 * parameters + 12 * config.n_layers * config.dim * seq_len / 2


def layer_numbers(
    config: ModelConfig, recompute: Kept = "none", tensor: int = 1, sequence: bool = True
) -> float:
    """Numbers that wait for the backward, for a token in one layer; see ``activation_bytes``."""
    d, f, heads = config.dim, config.hidden_dim, config.n_heads
    if recompute == "by_hand" and tensor > 1:  # keeps v and the sum: else wo's is sent once more
        between, whole, within = 2 * d, 0, 4 * d + 2 * f + heads
    else:
        between, whole, within = {
            "none": (4 * d, 2 * d, 4 * d + 4 * f + heads),
            "selective": (d, d, 4 * d + 2 * f + heads),
            "by_hand": (d, 0, 3 * d + 2 * f + heads),
            "full": (d, 0, 0),
        }[recompute]
    return between / (tensor if sequence else 1) + whole + within / tensor


def activation_bytes(
    config: ModelConfig,
    tokens: int,
    recompute: Kept = "none",
    number: int = 2,
    tensor: int = 1,
    sequence: bool = True,
) -> float:
    """Bytes that the forward pass of ``tokens`` tokens leaves for the backward.

    Numbers kept for a token in one layer, of width d with a feed-forward of width f:

    - ``none``: of both norms the input, the normalized vector and the output 6d; q k v 3d; the
      attention's output d; w1 x, SiLU(w1 x), w3 x and their product 4f. That is what autograd
      keeps in ``minillama.model``.
    - ``selective``, the paper's choice: the outputs of linear layers and of the attention, with
      the residual sum in place of each branch's last output: 6d + 2f. Norms, SiLU and the product
      are computed again.
    - ``by_hand``: ``efficient.block_backward``, which leaves v and the residual sum out too: 4d +
      2f. (With ``tensor`` it keeps them: else the product with wo would be sent once more.)
    - ``full``: the layer's input d; the rest is computed again, one layer at a time.

    Attention keeps no T x T table but one number for each head, and the loss no logits (see
    ``model.loss``). A number has ``number`` bytes: 4 in float32; 2 if the residual stream is
    bfloat16 too, as in Meta's code and in FSDP's mixed precision (autocast, which leaves it in
    float32, takes about a third more).

    Tensor parallelism splits what matrices compute over ``tensor`` processes, and with
    ``sequence`` the rest too, along the sequence. Whole on each stay what is sent: the outputs of
    both norms with ``none``, the product with wo with ``selective``.
    """
    layer = layer_numbers(config, recompute, tensor, sequence)
    last = 3 * config.dim / (tensor if sequence else 1)  # the last norm's two, the loss's gradient
    return number * tokens * (config.n_layers * layer + last)


def working_bytes(
    config: ModelConfig,
    tokens: int,
    recompute: Kept = "none",
    number: int = 2,
    tensor: int = 1,
    device: str = "cuda",
) -> float:
    """Bytes that one block's backward, or the loss, needs for a moment beside what waits.

    In a block: what is computed again, and the gradients that pass through, 2f + d by autograd and
    3f + 8d by hand, less the 3d that the end of the model has freed by then. In the loss: the
    logits of a chunk of positions and their logarithms.
    """
    d, f = config.dim, config.hidden_dim
    again = layer_numbers(config) - layer_numbers(config, recompute)
    block = 3 * f + 7 * d if recompute == "by_hand" else again + 2 * f - 2 * d
    vocab = config.vocab_size / tensor
    logits = 2 * 4 * vocab * min(tokens, chunk_rows(int(vocab), device))
    return max(number * tokens * block / tensor, logits)


def memory_per_gpu(
    config: ModelConfig,
    gpus: int = 1,
    tensor_parallel: int = 1,
    micro_batch: int = 1,
    recompute: Kept = "selective",
    sharded: bool = True,
    passes: int = 2,
    products: Literal["bfloat16", "float32"] = "bfloat16",
    device: str = "cuda",
    sequence: bool = True,
    gather: Literal["micro_batch", "step"] = "micro_batch",
) -> dict[str, float]:
    """Bytes on each GPU at the highest moment of a step, by what they hold.

    Weights are float32: 4 bytes a parameter, 4 for its gradient, 8 for Adam's two moments. Tensor
    parallelism (with ``sequence``) divides everything by its degree, sharding (FSDP) those 16 bytes
    by all GPUs. In exchange it gathers copies in the dtype of the products: all along those of the
    embeddings and the output with its gradient; of layers the one in use and the next, one of them
    twice while it arrives, and the gradients of one in float32. With ``gather = "step"`` they are
    those of the whole model. Without sharding the whole model is copied unless products are
    float32, and the new gradients of a layer stand beside their sum.

    With several ``passes`` (micro-batches) in a step, the sums of gradients are there while the
    activations are. With one, gradients come as activations go: the highest moment is either the
    beginning of the backward or its end.
    """
    number = {"bfloat16": 2, "float32": 4}[products]
    parameters = config.num_parameters()
    outside = 2 * config.vocab_size * config.dim + config.dim
    layer, output = (parameters - outside) / config.n_layers, outside / 2
    owned = parameters / (gpus if sharded else tensor_parallel)
    tokens = micro_batch * config.max_seq_len
    activations = activation_bytes(config, tokens, recompute, number, tensor_parallel, sequence)
    freed = activations / config.n_layers * tensor_parallel
    gradients = 4 * owned
    new = layer if recompute == "by_hand" else config.dim * config.hidden_dim
    if passes == 1:
        begin = (activations, gradients * (output + new) / parameters)
        end = (activations / config.n_layers, gradients)
        activations, gradients = max(begin, end, key=sum)
    if sharded and gpus > 1:
        copies = number * (outside + output + 4 * layer) + max(0, 4 * layer - freed) * (passes > 1)
        if gather == "step":
            copies = number * (parameters + output)
            gradients *= gpus / tensor_parallel if passes > 1 else 1
    else:
        copies = number * (parameters * (number == 2) + max(new, output) * (passes > 1))
    return {
        "weights": 4 * owned,
        "gradients": gradients,
        "Adam's moments": 8 * owned,
        f"{products} copies": copies / tensor_parallel,
        "activations": activations,
        "at work": working_bytes(config, tokens, recompute, number, tensor_parallel, device),
    }


def energy_mwh(gpu_hours: float, watts: float) -> float:
    """Energy of a run by Section 6: GPU-hours x power x PUE."""
    return gpu_hours * watts * PUE / 1e6


@dataclass(frozen=True)
class Plan:
    """What a training run would take; ``str(plan)`` is the table that ``minillama plan`` prints."""

    name: str
    config: ModelConfig
    gpu: str
    gpus: int
    tokens: float
    batch_tokens: int
    accumulation: int
    """Forward passes of one GPU in a step."""
    flops_per_token: float
    mfu: float
    memory: dict[str, float]
    """Bytes on each GPU, by what they hold."""

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """The assumed share (MFU) of peak FLOP/s, over the FLOP of a token."""
        return self.mfu * GPUS[self.gpu].peak / self.flops_per_token

    @property
    def gpu_hours(self) -> float:
        """Hours that all GPUs together spend."""
        return self.tokens / self.tokens_per_s_per_gpu / 3600

    @property
    def days(self) -> float:
        """Days from start to end."""
        return self.gpu_hours / self.gpus / 24

    @property
    def mwh(self) -> float:
        """Energy, with the data center's share."""
        return energy_mwh(self.gpu_hours, GPUS[self.gpu].power)

    @property
    def tco2eq(self) -> float:
        """Tonnes of CO2-equivalent at the US average of 0.385 kg a kWh."""
        return self.mwh * KG_CO2EQ_PER_KWH

    @property
    def fits(self) -> bool:
        """Whether a GPU's memory suffices."""
        return sum(self.memory.values()) <= GPUS[self.gpu].memory * GIB

    def paper(self) -> dict[str, str]:
        """What the paper prints about this model, or what follows from it; empty for others."""
        if self.name not in TABLE2 or self.config != ModelConfig.from_name(self.name):
            return {}
        row, cost = TABLE2[self.name], TABLE15[self.name]
        speed = row["tokens"] / cost["gpu_hours"] / 3600
        facts = {
            "parameters": row["parameters"],
            "training tokens": f"{row['tokens'] / 1e12:.1f}T",
            "tokens a step": f"{row['batch_tokens'] // 2**20}M",
            "tokens/s/GPU": f"{speed:,.0f}*",
            "MFU": f"{speed * self.flops_per_token / GPUS['a100-80gb'].peak:.0%}*",
            "GPU-hours": f"{cost['gpu_hours']:,}",
            "MWh": f"{cost['mwh']}",
            "tCO2eq": f"{cost['tco2eq']}",
        }
        if self.name == SPEED["model"]:
            facts["tokens/s/GPU"] = f"{SPEED['tokens_per_s_per_gpu']}"
            facts["days"] = f"{SPEED['days']} on {SPEED['gpus']:,}"
        return facts

    def render(self) -> str:
        """The plan as a table, with the paper's own figures beside it where it has them."""
        paper = self.paper()
        estimate = {
            "parameters": f"{self.config.num_parameters():,}",
            "FLOP per token": f"{self.flops_per_token:.4g}",
            "training tokens": f"{self.tokens:.4g}",
            "tokens a step": f"{self.batch_tokens:,}",
            "MFU": f"{self.mfu:.0%}",
            "tokens/s/GPU": f"{self.tokens_per_s_per_gpu:,.0f}",
            "days": _short(self.days),
            "GPU-hours": _short(self.gpu_hours),
            "MWh": _short(self.mwh),
            "tCO2eq": _short(self.tco2eq),
        }
        rows = [[name, value, paper.get(name)] for name, value in estimate.items()]
        header = ["", "estimate", "the paper (A100-80GB)" if paper else None]
        lines = [f"{self.name} on {self.gpus:,} x {self.gpu}", text_table(header, rows)]
        lines += ["FLOP per token = 6 N + 12 L d T / 2; MFU is assumed, the rest follows."]
        if paper:
            lines += ["* follows from the GPU-hours of Table 15."]
        lines += ["", "memory of each GPU at the highest moment of a step"]
        if self.accumulation == 1:
            lines += ["(when the backward begins: most gradients come as activations go)"]
        rows = [[name, f"{size / GIB:.3g}", None] for name, size in self.memory.items()]
        total, limit = sum(self.memory.values()) / GIB, GPUS[self.gpu].memory
        rows += [["together", f"{total:.3g}", f"of {limit:g}"]]
        rows += [["passes a step", f"{self.accumulation:,}", None]]
        lines.append(text_table(["", "GiB", None], rows))
        if not self.fits:
            lines += [
                "It does not fit: use more GPUs, --recompute full, --tensor-parallel 8 or a "
                "smaller --micro-batch."
            ]
        return "\n".join(lines)

    __str__ = render


def _short(value: float) -> str:
    """Three digits, or all whole ones."""
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def plan(
    model: Positional[str] = "65b",
    gpus: int = 2048,
    gpu: str = "a100-80gb",
    tokens: float | None = None,
    batch_tokens: int | None = None,
    mfu: float = 0.5,
    micro_batch: int = 1,
    tensor_parallel: int = 1,
    recompute: Kept = "selective",
    sharded: bool = True,
    dim: int | None = None,
    n_layers: int | None = None,
    n_heads: int | None = None,
    vocab_size: int | None = None,
    seq_len: int | None = None,
) -> Plan:
    """Parameters, FLOP, memory, days and energy of training a model on a cluster.

    Args:
        model: a named size, such as 65b or mini-7b; the fields below change it.
        gpus: how many GPUs.
        gpu: what kind; an unknown name lists them.
        tokens: training tokens; by default as many for each parameter as Table 2 has.
        batch_tokens: tokens a step; 4M (4 x 2^20) by default, as in the paper.
        mfu: the share of peak FLOP/s that training reaches; the paper's runs reach 45 to 53%.
        micro_batch: sequences in one forward pass.
        tensor_parallel: GPUs that split each matrix among them.
        recompute: what is computed again in the backward pass to save memory; by_hand is the
            hand-written backward, with parallel.recompute = none.
        sharded: divide weights, gradients and moments over all GPUs (FSDP).
        dim: width.
        n_layers: layers.
        n_heads: attention heads.
        vocab_size: pieces of the tokenizer.
        seq_len: context length.

    Raises:
        ConfigError: an unknown model or GPU, or settings that do not fit together.
    """
    config, name = ModelConfig.from_name(model), model.lower()
    changes = dict(dim=dim, n_layers=n_layers, n_heads=n_heads, vocab_size=vocab_size,
                   max_seq_len=seq_len)  # fmt: skip
    config = dataclasses.replace(config, **{k: v for k, v in changes.items() if v is not None})
    rung = TABLE2[name.split("-")[-1]]
    if tokens is None:
        tokens = config.num_parameters() / PARAMETERS[name.split("-")[-1]] * rung["tokens"]
    batch_tokens = rung["batch_tokens"] if batch_tokens is None else batch_tokens
    _check(config, gpus, gpu, tokens, mfu, tensor_parallel, micro_batch)
    together = gpus // tensor_parallel * micro_batch * config.max_seq_len
    if together > batch_tokens:
        raise ConfigError(
            f"one pass of all GPUs reads {together:,} tokens, a step only {batch_tokens:,}",
            "use fewer GPUs, a smaller --micro-batch, more --tensor-parallel or --batch-tokens",
        )
    passes = -(-batch_tokens // together)
    return Plan(
        name=name, config=config, gpu=gpu, gpus=gpus, tokens=tokens, batch_tokens=batch_tokens,
        accumulation=passes, mfu=mfu,
        flops_per_token=flops_per_token(config, config.max_seq_len),
        memory=memory_per_gpu(config, gpus, tensor_parallel, micro_batch, recompute, sharded,
                              passes),
    )  # fmt: skip


def _check(
    config: ModelConfig, gpus: int, gpu: str, tokens: float, mfu: float, tensor: int, micro: int
) -> None:
    if gpu not in GPUS:
        raise ConfigError(f"unknown GPU '{gpu}'", f"choose one of: {', '.join(GPUS)}")
    if min(gpus, tensor, micro) < 1 or not 1 <= tokens < float("inf"):
        raise ConfigError("gpus, tokens, tensor_parallel and micro_batch must be at least 1")
    if not 0 < mfu <= 1:
        raise ConfigError(f"mfu = {mfu}", "it is a share of the peak, above 0 and at most 1")
    if gpus % tensor or config.n_heads % tensor:
        raise ConfigError(
            f"tensor_parallel = {tensor} does not divide {gpus} GPUs and {config.n_heads} heads",
            "choose a divisor of both",
        )
