"""Hugging Face's format: the same weights under other names, with rotary pairs laid out otherwise.

Meta's code, and minillama, turn neighboring features (2i, 2i + 1) of a head; Hugging Face turns
feature i with i + head_dim / 2. The rows of wq and wk are therefore reordered, which changes no
attention score: queries and keys are reordered alike.
"""

import operator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from minillama.config import ModelConfig, RopeScaling
from minillama.errors import CheckpointError, ConfigError
from minillama.files import write_json
from minillama.interop import shards
from minillama.interop.common import (
    FLOATS,
    MEND,
    assemble,
    blank,
    check_size,
    check_vocabulary,
    read_object,
    read_tokenizer,
    whole_folder,
)
from minillama.interop.tokenizer_json import MARKS, tokenizer_config, tokenizer_json
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Meta's name of each weight, and Hugging Face's."""

OUTER = ("tok_embeddings", "norm", "output")
"""Those that are not in a layer."""

FIELDS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_seq_len": "max_position_embeddings",
}
"""``ModelConfig``'s name of each whole-number setting, and ``config.json``'s."""

YARN = {
    "original_max_seq_len": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}
"""``RopeScaling``'s name of each of YaRN's settings, and ``rope_parameters``'s."""

SHARED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
"""What all models of the paper have in common. Other values describe another architecture."""

ROPE = {"partial_rotary_factor": 1.0, "truncate": True, "mscale": None, "mscale_all_dim": None}
"""What all rotary settings that can be read have in common."""
ROPE_TYPES = ("default", "linear", "dynamic", "yarn")


def names(n_layers: int) -> dict[str, str]:
    """Meta's and Hugging Face's name of every tensor, in the order of the latter's files."""
    outer = {f"{meta}.weight": f"{NAMES[meta]}.weight" for meta in OUTER}
    layers = {
        f"layers.{i}.{meta}.weight": f"model.layers.{i}.{other}.weight"
        for i in range(n_layers)
        for meta, other in NAMES.items()
        if meta not in OUTER
    }
    embeddings = "tok_embeddings.weight"
    return {embeddings: outer[embeddings], **layers, **outer}


def pairs_to_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of wq or wk ``(dim, dim)`` from Meta's rotary layout to Hugging Face's."""
    rows = weight.unflatten(0, (n_heads, -1, 2))  # (heads, head_dim / 2, 2, dim)
    return rows.transpose(1, 2).reshape(weight.shape)


def halves_to_pairs(weight: Tensor, n_heads: int) -> Tensor:
    """The inverse of ``pairs_to_halves``."""
    rows = weight.unflatten(0, (n_heads, 2, -1))  # (heads, 2, head_dim / 2, dim)
    return rows.transpose(1, 2).reshape(weight.shape)


def to_huggingface(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A ``Llama`` state dict as ``LlamaForCausalLM`` names it and lays it out."""
    return {
        other: pairs_to_halves(state[meta], config.n_heads) if _turned(meta) else state[meta]
        for meta, other in names(config.n_layers).items()
    }


def from_huggingface(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of ``to_huggingface``.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    _check(state, config)
    return {
        meta: halves_to_pairs(state[other], config.n_heads) if _turned(meta) else state[other]
        for meta, other in names(config.n_layers).items()
    }


def _check(state: dict[str, Tensor], config: ModelConfig) -> None:
    # Old files also hold the rotary frequencies, which follow from the configuration.
    given = {name for name in state if not name.endswith("rotary_emb.inv_freq")}
    table = names(config.n_layers)
    shapes = {name: weight.shape for name, weight in blank(config).state_dict().items()}
    fit = "it is not the model that its config.json describes"
    if wrong := sorted(given ^ set(table.values())):
        problem = "has an unknown tensor" if wrong[0] in given else "lacks the tensor"
        raise CheckpointError(f"the checkpoint {problem} '{wrong[0]}'", fit)
    for meta, other in table.items():
        weight, shape = state[other], shapes[meta]
        if weight.shape != shape or weight.dtype not in FLOATS:
            found = f"{tuple(weight.shape)} {weight.dtype}, not {tuple(shape)} of a float type"
            raise CheckpointError(f"the checkpoint's tensor '{other}' is {found}", fit)


def _turned(name: str) -> bool:
    return name.endswith(("wq.weight", "wk.weight"))


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The content of ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        **SHARED,
        **{other: getattr(config, field) for field, other in FIELDS.items()},
        "rms_norm_eps": config.norm_eps,
        "intermediate_size": config.hidden_dim,
        "multiple_of": config.multiple_of,  # Hugging Face ignores it; here it comes back
        "num_key_value_heads": config.n_heads,
        **_rope_to_huggingface(config),
        "bos_token_id": Tokenizer.bos_id,
        "eos_token_id": Tokenizer.eos_id,
    }


def _rope_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """Rotary settings; NTK, a change of base, goes there as one (see ``ModelConfig.rope_base``)."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind in ("ntk", "dynamic"):
        plain = {"rope_type": "default", "rope_theta": config.rope_base}
        return {"rope_theta": config.rope_base, "rope_parameters": plain}
    rope: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": config.rope_theta}
    rope["factor"] = float(scaling.factor)
    if scaling.kind == "yarn":
        rope |= {other: getattr(scaling, field) for field, other in YARN.items()}
        if not scaling.attention_factor:
            del rope["attention_factor"]  # then Hugging Face takes the paper's as well
    # Versions before 5 read the first two, later ones the third.
    return {"rope_theta": config.rope_theta, "rope_scaling": rope, "rope_parameters": rope}


def _rope_from_huggingface(given: dict[str, Any]) -> dict[str, Any]:
    """The inverse: ``rope_theta``, ``rope_scaling`` and, if that grows with it, ``max_seq_len``."""
    rope = given.get("rope_scaling") or given.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = float(rope.get("rope_theta", given.get("rope_theta", 10_000.0)))
    if kind == "default":
        return {"rope_theta": theta}
    context = operator.index(given[FIELDS["max_seq_len"]])
    values = {"kind": kind, "factor": float(rope["factor"])}
    if kind == "yarn":
        told = {field: rope[other] for field, other in YARN.items() if rope.get(other) is not None}
        values |= {"original_max_seq_len": context} | told
    if kind == "dynamic":  # whose factor says how far beyond its max_position_embeddings one reads
        values |= {"original_max_seq_len": context}
        context = round(context * values["factor"])
    return {"rope_theta": theta, "rope_scaling": RopeScaling(**values), "max_seq_len": context}


def config_from_huggingface(given: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """The inverse of ``config_to_huggingface``; ``source`` is named in errors.

    Raises:
        CheckpointError: a setting is missing, or larger than any model's.
        ConfigError: the model is not one of the paper's architecture.
    """
    try:
        _reject_other_architectures(given, source)
        settings = {field: operator.index(given[other]) for field, other in FIELDS.items()}
        settings["norm_eps"] = float(given["rms_norm_eps"])
        settings |= _rope_from_huggingface(given)
        hidden_dim = operator.index(given["intermediate_size"])
        powers = (2**n for n in range(8, -1, -1))
        for multiple in (given.get("multiple_of", 256), *powers, hidden_dim):
            config = ModelConfig(**settings, multiple_of=multiple)
            if config.hidden_dim == hidden_dim:
                return check_size(config, source)
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error}", MEND) from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{source} is malformed ({error})", "fetch it again") from None
    raise ConfigError(
        f"{source}: intermediate_size = {hidden_dim} is less than 8/3 of hidden_size",
        "only models of the paper's shape can be loaded",
    )


def _reject_other_architectures(given: dict[str, Any], source: str) -> None:
    heads = given.get("num_attention_heads")
    rope = given.get("rope_scaling") or given.get("rope_parameters") or {}
    found = {
        **{key: (given.get(key, value), value) for key, value in SHARED.items()},
        "num_key_value_heads": (given.get("num_key_value_heads") or heads, heads),
        **{key: (rope.get(key, value), value) for key, value in ROPE.items()},
    }
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        found["rope_type"] = (kind, " or ".join(ROPE_TYPES))
    if heads and "hidden_size" in given and given.get("head_dim"):
        found["head_dim * num_attention_heads"] = (given["head_dim"] * heads, given["hidden_size"])
    for key, (value, expected) in found.items():
        if value != expected:
            raise ConfigError(
                f"{source}: {key} = {value!r} instead of {expected!r}",
                "only models of the paper's architecture can be loaded",
            )


def save(
    model: Llama,
    tokenizer: Tokenizer,
    folder: str | Path,
    max_shard_bytes: int = shards.MAX_BYTES,
) -> Path:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` read.

    Weights keep their dtype. Files of the same names are replaced, when all others are written.

    Raises:
        CheckpointError: the tokenizer is another model's, the folder holds other weights, or it
            cannot be written.
    """
    folder, config = Path(folder), model.config
    check_vocabulary(tokenizer, config, folder)
    state = model.state_dict()
    metas = {other: meta for meta, other in names(config.n_layers).items()}

    def tensor(other: str) -> Tensor:
        weight = state[metas[other]].detach().cpu()
        if _turned(metas[other]):
            weight = pairs_to_halves(weight, config.n_heads)
        return weight.clone(memory_format=torch.contiguous_format)  # tied ones are written twice

    sizes = {other: state[meta].nbytes for other, meta in metas.items()}
    files = shards.plan(sizes, max_shard_bytes)
    dtype = str(model.output.weight.dtype).removeprefix("torch.")
    marks = {"bos_token_id": Tokenizer.bos_id, "eos_token_id": Tokenizer.eos_id}
    settings = {
        "config.json": {**config_to_huggingface(config), "dtype": dtype, "torch_dtype": dtype},
        "generation_config.json": marks,
        "tokenizer.json": tokenizer_json(tokenizer),
        "tokenizer_config.json": tokenizer_config(config.max_seq_len),
        "special_tokens_map.json": MARKS,
    }
    written = {*files, *([shards.INDEX] if len(files) > 1 else [])}
    try:
        with whole_folder(folder, ".safetensors*", written, "config.json") as aside:
            shards.write(aside, files, sizes, tensor)
            tokenizer.save(aside / "tokenizer.model")
            for name, content in settings.items():
                write_json(aside / name, content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}", "name another folder") from error
    return folder


def load(folder: str | Path) -> tuple[Llama, Tokenizer]:
    """Read a model and its tokenizer; the weights keep their dtype.

    Only safetensors files are read, whole or in shards: other formats can run code. Beside the
    weights, memory holds one tensor at most.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not fit one another.
        ConfigError: the model is not one of the paper's architecture.
    """
    folder = Path(folder)
    given = read_object(folder / "config.json")
    config = config_from_huggingface(given, str(folder / "config.json"))
    tokenizer = read_tokenizer(folder / "tokenizer.model")
    check_vocabulary(tokenizer, config, folder)
    files = shards.find(folder)
    headers = {path: shards.header(path) for path in set(files.values())}
    _check({name: headers[path][name] for name, path in files.items()}, config)
    state = {}
    for meta, other in names(config.n_layers).items():
        on_file = shards.read(files[other], other)
        weight = halves_to_pairs(on_file, config.n_heads) if _turned(meta) else on_file
        is_view = weight.data_ptr() == on_file.data_ptr()
        state[meta] = weight.clone() if is_view else weight
    return assemble(config, state), tokenizer
