"""Reading beyond the trained context: loss against length under each rotary scaling.

    python -m minillama.apps.long_context runs/nano-65b

writes RUN/long_context.json: what a trained model loses when it reads 2, 4 or 8 times further than
in training, as it is and with its angles rescaled (Chen et al., 2023; bloc97, 2023; Peng et al.,
2023). Nothing is trained: the weights stay, only the table of angles changes.
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from minillama.config import RopeScaling
from minillama.corpus.token_files import Corpus, open_corpus
from minillama.errors import CheckpointError, ConfigError, DataError, MinillamaError
from minillama.files import read_json, sha256, write_json
from minillama.interop.common import assemble_model
from minillama.model import Llama
from minillama.tables import text_table
from minillama.train import checkpoint
from minillama.train.config import read_config
from minillama.train.validation import BATCH_TOKENS, target_bytes

METHODS = ("none", "linear", "ntk", "dynamic", "yarn")
LENGTHS = (64, 128, 256, 512, 1024, 2048)
ATTENTION_FACTORS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)
"""YaRN's temperature is tried out at these; the paper has 0.1 ln(s) + 1."""
SCORED = 64
"""Tokens at the end of a stretch that are scored at every length: always the same ones."""


def scaling_for(method: str, trained: int, length: int) -> RopeScaling | None:
    """The scaling that lets a model trained on ``trained`` tokens read ``length``, if need be."""
    if method == "none" or length <= trained:
        return None
    return RopeScaling(method, length / trained, original_max_seq_len=trained)


def rescaled(model: Llama, scaling: RopeScaling | None, max_seq_len: int) -> Llama:
    """The same weights, not copied, with another table of angles, for so many positions."""
    config = dataclasses.replace(model.config, rope_scaling=scaling, max_seq_len=max_seq_len)
    return assemble_model(config, model.state_dict()).to(model.output.weight.device)


def stretches(corpus: Corpus, length: int, most: int) -> Tensor:
    """Stretches of held-out documents, sampled evenly over all slices: ``(n, length + 1)`` int64.

    No stretch crosses documents, so slices of short documents have none. No token is a target
    twice. Raises ``DataError`` if no document is that long.
    """
    cut = []
    for file in corpus.valid.values():
        for i in range(file.n_documents):
            ids = torch.from_numpy(file.document(i).astype("int64"))
            for start in range(0, len(ids) - length, length):
                stretch = ids[start : start + length + 1]
                cut.append(stretch)
    if not cut:
        raise DataError(f"no held-out document has {length + 1} tokens", "measure shorter lengths")
    keep = min(most, len(cut))
    return torch.stack([cut[i * len(cut) // keep] for i in range(keep)])


@torch.no_grad()
def losses(model: Llama, tokens: Tensor) -> Tensor:
    """-log p in nats of every id of ``tokens (n, length + 1)`` but the first: ``(n, length)``."""
    nats = []
    for part in tokens.split(max(1, BATCH_TOKENS // tokens.shape[1])):
        part = part.to(model.output.weight.device)
        logits = model(part[:, :-1]).transpose(1, 2)  # (B, vocab_size, T)
        nats.append(F.cross_entropy(logits, part[:, 1:], reduction="none"))
    return torch.cat(nats).cpu()


def measure(
    model: Llama, tokens: Tensor, size_of: Tensor, trained: int, lengths: tuple[int, ...]
) -> dict[str, Any]:
    """Loss of the last tokens of each stretch when more and more text before them is read.

    Args:
        model: plain, or scaled: its own scaling is replaced.
        tokens: ``(n, max(lengths) + 1)`` ids.
        size_of: ``(vocab_size,)``, the UTF-8 bytes that each id stands for.
        trained: the context of training in tokens.
        lengths: how many tokens are read, the scored ones included.

    Returns:
        ``by_length``: a row for each method and length, scaled by length / trained and not below 1,
        with the loss in nats, its standard error over stretches, perplexity and bits per byte.
        ``by_position``: for each method, scaled for the longest, the mean loss of every 64 targets.
        ``by_attention_factor``: the mean loss of YaRN at the longest over all targets, by factor.

    Raises ``ConfigError`` if the lengths do not fit the stretches.
    """
    longest = tokens.shape[1] - 1
    if max(lengths) != longest or min(lengths) < SCORED:
        raise ConfigError(
            f"lengths {lengths} on stretches of {longest} tokens", f"from {SCORED} up to {longest}"
        )
    # -log p of every target, read with so much before it; what fits is read once for all.
    n_bytes = int(size_of[tokens[:, -SCORED:]].sum())
    known: dict[tuple[RopeScaling | None, int], Tensor] = {}

    def nats_of(scaling: RopeScaling | None, length: int) -> Tensor:
        key = (scaling, length)
        if key not in known:
            reader = rescaled(model, scaling, length)
            known[key] = losses(reader, tokens[:, -length - 1 :]).double()
        return known[key]

    # Over length and position.
    rows, by_position = [], {}
    for method in METHODS:
        for length in lengths:
            nats = nats_of(scaling_for(method, trained, length), length)[:, -SCORED:]
            loss = float(nats.mean())
            row = {
                "scaling": method,
                "length": length,
                "factor": max(1.0, length / trained),
                "loss": loss,
                "standard_error": float(nats.mean(1).std() / len(nats) ** 0.5),
                "perplexity": math.exp(loss),
                "bits_per_byte": float(nats.sum()) / math.log(2) / n_bytes,
            }
            rows.append(row)
        nats = nats_of(scaling_for(method, trained, longest), longest)
        by_position[method] = [float(part.mean()) for part in nats.split(64, dim=1)]
    # Over YaRN's temperature.
    by_factor = []
    for factor in ATTENTION_FACTORS if longest > trained else ():
        scaling = RopeScaling("yarn", longest / trained, trained, attention_factor=factor)
        loss = float(nats_of(scaling, longest).mean())
        by_factor.append({"attention_factor": factor, "loss": loss})
    return {"by_length": rows, "by_position": by_position, "by_attention_factor": by_factor}


def long_context(
    run: tyro.conf.Positional[Path],
    corpus: Path = Path("data/corpus/nano"),
    out: Path | None = None,
    lengths: tuple[int, ...] = LENGTHS,
    n_stretches: int = 64,
    step: int | None = None,
) -> Path:
    """Measure a run's loss beyond its trained context under each rotary scaling.

    Args:
        run: the run folder.
        corpus: the built corpus; its held-out documents are read.
        out: the file to write; RUN/long_context.json by default.
        lengths: how many tokens are read.
        n_stretches: stretches of text at most.
        step: which checkpoint; the last good one by default.

    Raises:
        CheckpointError: no such run or checkpoint, or the corpus has another tokenizer.
        DataError: no corpus, or its documents are too short.
    """
    if n_stretches < 2 or min(lengths, default=0) < SCORED:
        raise ConfigError(
            f"fewer than 2 stretches, or lengths {lengths} below {SCORED}", "ask for more"
        )
    step = checkpoint.last_good(run) if step is None else step
    model, _ = checkpoint.load_model(run, step)  # names what is wrong if step is None
    text, config = open_corpus(corpus), read_config(run / "config.toml")
    if sha256(text.tokenizer_path) != sha256(run / "tokenizer.model"):
        raise CheckpointError(f"{run} has another tokenizer than {corpus}", "name its own corpus")
    tokens = stretches(text, max(lengths), n_stretches)
    size_of = torch.from_numpy(target_bytes(text.tokenizer()))
    record = {
        "run": config.name,
        "step": step,
        "model_sha256": checkpoint.weights_digest(checkpoint.folder(run, step)),
        "command": f"python -m minillama.apps.long_context runs/{config.name}",
        "settings": {
            "trained_length": config.seq_len,
            "scored": SCORED,
            "stretches": len(tokens),
            "corpus": text.fingerprint,
            "lengths": lengths,
        },
        **measure(model, tokens, size_of, config.seq_len, lengths),
    }
    out = run / "long_context.json" if out is None else out
    write_json(out, record)
    return out


def table(record: dict[str, Any]) -> str:
    """Perplexity of the scored tokens, a line for each length, a column for each method."""
    rows: dict[int, list[Any]] = {}
    for row in record["by_length"]:  # method by method, in their order
        length = row["length"]
        cells = rows.setdefault(length, [length])
        cells.append(f"{row['perplexity']:.2f}")
    header = ["tokens read", *METHODS]
    return text_table(header, list(rows.values()))


if __name__ == "__main__":
    try:
        print(table(read_json(tyro.cli(long_context, prog="minillama.apps.long_context"))))
    except (MinillamaError, OSError) as error:
        sys.exit(f"error: {error}")
