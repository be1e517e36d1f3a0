"""Hugging Face's format: the same weights under other names, with rotary pairs laid out otherwise.

Meta's code, and minillama, turn neighboring features (2i, 2i + 1) of a head; Hugging Face turns
feature i with i + head_dim / 2. The rows of wq and wk are therefore reordered, which changes no
attention score: queries and keys are reordered alike.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from minillama.config import ModelConfig
from minillama.files import write_json
from minillama.interop import shards
from minillama.interop.common import (
    assemble_model,
    check_llama_vocabulary,
    check_tensors,
    explained_write,
    model_shapes,
    read_object,
    read_tokenizer,
    whole_folder,
)
from minillama.interop.huggingface_config import config_from_huggingface, config_to_huggingface
from minillama.interop.tokenizer_json import MARKS, fast_tokenizer, tokenizer_config
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

OUTER_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
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
"""Meta's name of each weight, outside and inside the layers, and Hugging Face's."""


def tensor_names(n_layers: int) -> dict[str, str]:
    """Return Meta's and Hugging Face's name of every tensor, in the order of the latter's files."""
    names = {"tok_embeddings.weight": "model.embed_tokens.weight"}
    for i in range(n_layers):
        for meta, other in LAYER_NAMES.items():
            names[f"layers.{i}.{meta}.weight"] = f"model.layers.{i}.{other}.weight"
    for meta, other in OUTER_NAMES.items():
        names[f"{meta}.weight"] = f"{other}.weight"
    return names


def pairs_to_halves(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows of wq or wk ``(dim, dim)`` from Meta's rotary layout to Hugging Face's."""
    return rearrange(weight, "(head pair two) dim -> (head two pair) dim", head=n_heads, two=2)


def halves_to_pairs(weight: Tensor, n_heads: int) -> Tensor:
    """Reorder the rows back: the inverse of ``pairs_to_halves``."""
    return rearrange(weight, "(head two pair) dim -> (head pair two) dim", head=n_heads, two=2)


def is_rotated(name: str) -> bool:
    """Whether the rows of a weight, by Meta's name, stand in rotary pairs."""
    return name.endswith(("wq.weight", "wk.weight"))


def to_huggingface(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return a ``Llama`` state dict as ``LlamaForCausalLM`` names it and lays it out."""
    result = {}
    for meta, other in tensor_names(config.n_layers).items():
        weight = state[meta]
        result[other] = pairs_to_halves(weight, config.n_heads) if is_rotated(meta) else weight
    return result


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
    check_llama_vocabulary(tokenizer, config, folder)
    state = model.state_dict()
    meta_names = {other: meta for meta, other in tensor_names(config.n_layers).items()}

    def tensor(name: str) -> Tensor:
        weight = state[meta_names[name]].detach().cpu()
        if is_rotated(meta_names[name]):
            weight = pairs_to_halves(weight, config.n_heads)
        return weight.clone(memory_format=torch.contiguous_format)  # tied ones are written twice

    sizes = {other: state[meta].nbytes for other, meta in meta_names.items()}
    plan = shards.plan_shards(sizes, max_shard_bytes)
    dtype = str(model.output.weight.dtype).removeprefix("torch.")
    settings = {
        "config.json": {**config_to_huggingface(config), "dtype": dtype, "torch_dtype": dtype},
        "generation_config.json": {
            "bos_token_id": Tokenizer.bos_id,
            "eos_token_id": Tokenizer.eos_id,
        },
        "tokenizer_config.json": tokenizer_config(config.max_seq_len),
        "special_tokens_map.json": MARKS,
    }
    fast = fast_tokenizer(tokenizer)
    files = {*plan.filename_to_tensors, *([shards.INDEX] if plan.is_sharded else [])}
    with (
        explained_write(folder),
        whole_folder(folder, ".safetensors*", files, "config.json") as tmp,
    ):
        shards.write_shards(tmp, plan, tensor)
        tokenizer.save(tmp / "tokenizer.model")
        fast.save(str(tmp / "tokenizer.json"))
        for name, content in settings.items():
            write_json(tmp / name, content)
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
    path = folder / "config.json"
    config = config_from_huggingface(read_object(path), str(path))
    tokenizer = read_tokenizer(folder / "tokenizer.model")
    check_llama_vocabulary(tokenizer, config, folder)

    # Look at names, shapes and types before any memory is taken.
    files = shards.find_tensors(folder)
    headers = {}
    for name, path in files.items():
        if not name.endswith("rotary_emb.inv_freq"):  # old files hold them; they follow from config
            headers[name] = shards.read_tensor(path, name).to("meta")
    names, shapes = tensor_names(config.n_layers), model_shapes(config)
    expected = {other: shapes[meta] for meta, other in names.items()}
    check_tensors(headers, expected, "the checkpoint")

    # The weights, each copied from the pages of its file.
    state = {}
    for meta, other in names.items():
        weight = shards.read_tensor(files[other], other)
        if is_rotated(meta):
            weight = halves_to_pairs(weight, config.n_heads)
        state[meta] = weight.clone(memory_format=torch.contiguous_format)
    return assemble_model(config, state), tokenizer
