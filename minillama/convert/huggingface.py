"""Hugging Face's format: the same weights under other names, with rotary pairs laid out otherwise.

Meta's code, and minillama, turn neighbouring features (2i, 2i + 1) of a head; Hugging Face turns
feature i with i + head_dim / 2. The rows of wq and wk are therefore reordered, which changes no
attention score: queries and keys are reordered alike.
"""

import operator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minillama.config import ModelConfig
from minillama.convert.parts import (
    MEND,
    assemble,
    blank,
    check_vocabulary,
    read_object,
    read_tokenizer,
)
from minillama.errors import CheckpointError, ConfigError
from minillama.files import atomic_path, write_json
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
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
"""Meta's name of each weight, and Hugging Face's."""

FIELDS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_seq_len": "max_position_embeddings",
}
"""``ModelConfig``'s name of each whole-number setting, and ``config.json``'s."""

SHARED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}
"""What all models of the paper have in common. Other values describe another architecture."""


def names(n_layers: int) -> dict[str, str]:
    """Meta's and Hugging Face's name of every tensor of a model with so many layers."""
    table = {}
    for meta, other in NAMES.items():
        if meta in ("tok_embeddings", "norm", "output"):
            table[f"{meta}.weight"] = f"{other}.weight"
        else:
            for i in range(n_layers):
                table[f"layers.{i}.{meta}.weight"] = f"model.layers.{i}.{other}.weight"
    return table


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
        if weight.shape != shape or not weight.is_floating_point():
            found = f"{tuple(weight.shape)} {weight.dtype}, not {tuple(shape)} of a float type"
            raise CheckpointError(f"the checkpoint's tensor '{other}' is {found}", fit)
    return {
        meta: halves_to_pairs(state[other], config.n_heads) if _turned(meta) else state[other]
        for meta, other in table.items()
    }


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
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "bos_token_id": Tokenizer.bos_id,
        "eos_token_id": Tokenizer.eos_id,
    }


def config_from_huggingface(given: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """The inverse of ``config_to_huggingface``; ``source`` is named in errors.

    Raises:
        CheckpointError: a setting is missing.
        ConfigError: the model is not one of the paper's architecture.
    """
    try:
        _reject_other_architectures(given, source)
        rope = given.get("rope_parameters") or given
        settings = {field: operator.index(given[other]) for field, other in FIELDS.items()}
        settings["norm_eps"] = float(given["rms_norm_eps"])
        settings["rope_theta"] = float(rope.get("rope_theta", 10_000.0))
        hidden_dim = operator.index(given["intermediate_size"])
        powers = (2**n for n in range(8, -1, -1))
        for multiple in (given.get("multiple_of", 256), *powers, hidden_dim):
            config = ModelConfig(**settings, multiple_of=multiple)
            if config.hidden_dim == hidden_dim:
                return config
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error}", MEND) from None
    except (TypeError, ValueError, AttributeError) as error:
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
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
    }
    if heads and "hidden_size" in given and given.get("head_dim"):
        found["head_dim * num_attention_heads"] = (given["head_dim"] * heads, given["hidden_size"])
    for key, (value, expected) in found.items():
        if value != expected:
            raise ConfigError(
                f"{source}: {key} = {value!r} instead of {expected!r}",
                "only models of the paper's architecture can be loaded",
            )


def save(model: Llama, tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Write a folder that ``LlamaForCausalLM.from_pretrained`` reads.

    Weights keep their dtype. Files of the same names are replaced.

    Raises:
        CheckpointError: the tokenizer is another model's, or the folder cannot be written.
    """
    folder = Path(folder)
    check_vocabulary(tokenizer, model.config, folder)
    state = to_huggingface(model.state_dict(), model.config)
    state = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
    dtype = str(model.output.weight.dtype).removeprefix("torch.")
    marks = {"bos_token_id": Tokenizer.bos_id, "eos_token_id": Tokenizer.eos_id}
    try:
        with atomic_path(folder / "model.safetensors") as aside:
            save_file(state, aside, metadata={"format": "pt"})
        tokenizer.save(folder / "tokenizer.model")
        write_json(folder / "tokenizer_config.json", _tokenizer_config(model.config))
        write_json(folder / "generation_config.json", marks)
        config = {**config_to_huggingface(model.config), "dtype": dtype, "torch_dtype": dtype}
        write_json(folder / "config.json", config)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}", "name another folder") from error
    return folder


def _tokenizer_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_seq_len,
    }


def load(folder: str | Path) -> tuple[Llama, Tokenizer]:
    """Read a model and its tokenizer; the weights keep their dtype.

    Only safetensors files are read, whole or in shards: other formats can run code.

    Raises:
        CheckpointError: a file is missing or damaged, or the files do not fit one another.
        ConfigError: the model is not one of the paper's architecture.
    """
    folder = Path(folder)
    given = read_object(folder / "config.json")
    config = config_from_huggingface(given, str(folder / "config.json"))
    tokenizer = read_tokenizer(folder / "tokenizer.model")
    check_vocabulary(tokenizer, config, folder)
    state = from_huggingface(_read_tensors(folder), config)
    return assemble(config, state), tokenizer


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of ``model.safetensors``, or of the shards that its index names."""
    shards = {"model.safetensors"}
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = {str(name) for name in read_object(index).get("weight_map", {}).values()}
    state: dict[str, Tensor] = {}
    for name in sorted(shards):
        path = folder / name
        try:
            state |= load_file(path)
        except FileNotFoundError:
            raise CheckpointError(f"{path} does not exist", "only safetensors are read") from None
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged ({error})", "fetch it again") from None
    return state
