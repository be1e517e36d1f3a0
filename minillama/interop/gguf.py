"""GGUF, the format of llama.cpp and what is built on it: weights, settings, vocabulary in one file.

llama.cpp turns neighboring features of a head, as Meta's code and minillama do, so wq and wk are
written as they are. (Its converter from Hugging Face's format puts their rows back in that order.)
Vectors are float32 in every file, since llama.cpp multiplies by norms in float32 only.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError
from minillama.files import atomic_path
from minillama.interop.common import (
    FETCH_AGAIN,
    assemble_model,
    check_llama_vocabulary,
    check_tensors,
    explained_write,
    model_shapes,
)
from minillama.interop.huggingface_config import config_from_huggingface
from minillama.interop.vocabulary import Piece, read_pieces, tokenizer_of
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

TYPES = {torch.float32: Type.F32, torch.float16: Type.F16, torch.bfloat16: Type.BF16}
DTYPES = {kind: dtype for dtype, kind in TYPES.items()}
FILE_TYPES = {Type.F32: 0, Type.F16: 1, Type.BF16: 32}
"""GGUF's numbers for "all of this type, but for vectors"."""

SETTINGS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "intermediate_size": "feed_forward_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
"""Hugging Face's name of each setting, and GGUF's after "llama."."""


def gguf_names(n_layers: int) -> dict[str, str]:
    """Return Meta's and GGUF's name of every tensor."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, n_layers)
    tensors = model_shapes(ModelConfig(dim=2, n_heads=1, n_layers=n_layers, vocab_size=1))
    return {name: table.get_name(name, try_suffixes=(".weight",)) for name in tensors}


def save(
    model: Llama, tokenizer: Tokenizer, path: str | Path, dtype: torch.dtype | None = None
) -> Path:
    """Write one ``.gguf`` file, tensor by tensor.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        path: the file.
        dtype: float32, float16 or bfloat16 for the matrices; by default, they keep theirs.

    Raises:
        CheckpointError: the tokenizer is another model's, or the file cannot be written.
        ConfigError: the dtype or the scaling of the rotary angles has no field in GGUF.
    """
    path, config = Path(path), model.config
    check_llama_vocabulary(tokenizer, config, path)
    dtype = dtype or model.output.weight.dtype
    if dtype not in TYPES:
        raise ConfigError(f"GGUF files of {dtype}", "choose float32, float16 or bfloat16")
    table = gguf_names(config.n_layers)
    weights = [
        (table[name], weight.detach(), dtype if weight.ndim > 1 else torch.float32)
        for name, weight in model.state_dict().items()
    ]
    with explained_write(path), atomic_path(path) as tmp:
        writer = gguf.GGUFWriter(tmp, "llama")
        # Settings.
        writer.add_file_type(FILE_TYPES[TYPES[dtype]])
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_seq_len)
        writer.add_embedding_length(config.dim)
        writer.add_block_count(config.n_layers)
        writer.add_feed_forward_length(config.hidden_dim)
        writer.add_head_count(config.n_heads)
        writer.add_head_count_kv(config.n_heads)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_base)
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_uint32("minillama.multiple_of", config.multiple_of)  # others pass it over
        # The vocabulary.
        texts, scores, kinds = zip(*read_pieces(tokenizer), strict=True)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(texts)
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
        writer.add_unk_token_id(Tokenizer.unk_id)
        writer.add_bos_token_id(Tokenizer.bos_id)
        writer.add_eos_token_id(Tokenizer.eos_id)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(True)
        # The weights: first what they are, then, one at a time, their numbers.
        for name, weight, kind in weights:
            size = weight.numel() * kind.itemsize
            form = np.dtype(np.float32)  # of what it describes; the raw type says what is written
            writer.add_tensor_info(name, weight.shape, form, size, raw_dtype=TYPES[kind])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, weight, kind in weights:
            numbers = weight.cpu().to(kind).contiguous().flatten()
            writer.write_tensor_data(numbers.view(torch.uint8).numpy())
        writer.close()
    return path


def load(path: str | Path) -> tuple[Llama, Tokenizer]:
    """Read a model and its tokenizer from a file that is not quantized.

    Matrices keep their dtype, and norms, float32 in the file, take that of the matrices.

    Raises:
        CheckpointError: the file is missing or damaged, or its parts do not fit one another.
        ConfigError: the model is not one of the paper's architecture, or is quantized.
    """
    path = Path(path)
    fields, tensors = _open_gguf(path)
    config = _read_config(fields, path)
    tokenizer = _read_tokenizer(fields, path)
    check_llama_vocabulary(tokenizer, config, path)

    # Names, shapes and types, before any memory is taken.
    for tensor in tensors.values():
        if tensor.tensor_type not in DTYPES:
            what = f"{path}: '{tensor.name}' is {tensor.tensor_type.name}"
            raise ConfigError(what, "take a file of F32, F16 or BF16")
    shapes, names = model_shapes(config), gguf_names(config.n_layers)
    headers = {name: _header(tensor) for name, tensor in tensors.items()}
    expected = {names[meta]: shape for meta, shape in shapes.items()}
    check_tensors(headers, expected, path)

    # The weights, all in the type of the matrices.
    dtype = headers[names["output.weight"]].dtype
    state = {}
    for meta, shape in shapes.items():
        tensor = tensors[names[meta]]
        # Read anew: pages of the reader's map that have been read would count as memory.
        bits = np.fromfile(path, np.uint8, tensor.n_bytes, offset=tensor.data_offset)
        numbers = torch.from_numpy(bits).view(DTYPES[tensor.tensor_type])
        state[meta] = numbers.view(shape).to(dtype)
    return assemble_model(config, state), tokenizer


def _header(tensor: gguf.ReaderTensor) -> Tensor:
    """A tensor's shape and type; GGUF counts dimensions from the last."""
    shape = [int(n) for n in reversed(tensor.shape)]
    return torch.empty(shape, dtype=DTYPES[tensor.tensor_type], device="meta")


class _Reader(gguf.GGUFReader):
    """The public reader, which of itself would read on and on where a length is a lie."""

    def _get(self, offset: int, dtype: Any, count: int = 1, *more: Any, **others: Any) -> Any:
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it ends too early")
        return super()._get(offset, dtype, count, *more, **others)


def _open_gguf(path: Path) -> tuple[Mapping[str, Any], dict[str, gguf.ReaderTensor]]:
    """Fields and tensors; the latter are pages of the file."""
    logging.getLogger("gguf").setLevel(logging.ERROR)
    try:
        reader = _Reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        return fields, {tensor.name: tensor for tensor in reader.tensors}
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", "check the path") from None
    except Exception as error:  # what damaged files raise is not documented
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} is damaged ({reason})", "fetch it again") from None


def _read_config(fields: Mapping[str, Any], path: Path) -> ModelConfig:
    _expect(fields, "general.architecture", "llama", path)
    _expect(fields, "llama.rope.scaling.type", "none", path, default="none")
    # Under Hugging Face's names, so that the same rules hold.
    settings: dict[str, Any] = {}
    for key, name in SETTINGS.items():
        value = fields.get(f"llama.{name}")
        if isinstance(value, float):  # 1e-6 is stored as a float32, and is not 9.99999997e-07
            value = float(np.format_float_scientific(np.float32(value)))
        if value is not None:
            settings[key] = value
    settings["vocab_size"] = len(fields.get("tokenizer.ggml.tokens") or ())
    if "minillama.multiple_of" in fields:
        settings["multiple_of"] = fields["minillama.multiple_of"]
    return config_from_huggingface(settings, str(path))


def _read_tokenizer(fields: Mapping[str, Any], path: Path) -> Tokenizer:
    _expect(fields, "tokenizer.ggml.model", "llama", path)
    _expect(fields, "tokenizer.ggml.add_space_prefix", True, path, default=True)
    for mark, own in (("bos", Tokenizer.bos_id), ("eos", Tokenizer.eos_id)):
        _expect(fields, f"tokenizer.ggml.{mark}_token_id", own, path, default=own)
    columns = [fields.get(f"tokenizer.ggml.{key}") for key in ("tokens", "scores", "token_type")]
    try:
        entries = [Piece(*entry) for entry in zip(*columns, strict=True)]
    except (TypeError, ValueError):
        raise CheckpointError(f"{path} holds no SentencePiece vocabulary", FETCH_AGAIN) from None
    return tokenizer_of(entries, path)


def _expect(
    fields: Mapping[str, Any], key: str, expected: Any, path: Path, default: Any = None
) -> None:
    """Raise ``ConfigError`` unless a field, or its default, has the only value we can load."""
    found = fields.get(key, default)
    if found != expected:
        raise ConfigError(f"{path}: {key} = {found!r}", f"only {expected!r} can be loaded")
