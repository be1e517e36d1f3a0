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
from minillama.interop import huggingface
from minillama.interop.common import MEND, assemble, blank, check_vocabulary
from minillama.interop.vocabulary import Piece, pieces, tokenizer_of
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

TYPES = {torch.float32: Type.F32, torch.float16: Type.F16, torch.bfloat16: Type.BF16}
FILE_TYPES = {Type.F32: 0, Type.F16: 1, Type.BF16: 32}
"""GGUF's numbers for "all of this type, but for vectors"."""


def names(n_layers: int) -> dict[str, str]:
    """Meta's and GGUF's name of every tensor."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, n_layers)
    tensors = blank(ModelConfig(dim=2, n_heads=1, n_layers=n_layers, vocab_size=1)).state_dict()
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
    check_vocabulary(tokenizer, config, path)
    dtype = dtype or model.output.weight.dtype
    if dtype not in TYPES:
        raise ConfigError(f"GGUF files of {dtype}", "choose float32, float16 or bfloat16")
    state, table = model.state_dict(), names(config.n_layers)
    try:
        with atomic_path(path) as aside:
            writer = gguf.GGUFWriter(aside, "llama")
            _add_settings(writer, config, FILE_TYPES[TYPES[dtype]])
            _add_vocabulary(writer, tokenizer)
            for meta, name in table.items():
                kind = dtype if state[meta].ndim > 1 else torch.float32
                size = state[meta].numel() * kind.itemsize
                writer.add_tensor_info(
                    name, state[meta].shape, np.dtype(np.float32), size, raw_dtype=TYPES[kind]
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for meta in table:
                kind = dtype if state[meta].ndim > 1 else torch.float32
                writer.write_tensor_data(_bytes(state[meta].detach().cpu().to(kind)))
            writer.close()
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}", "name another file") from error
    return path


def _bytes(weight: Tensor) -> np.ndarray:
    return weight.contiguous().flatten().view(torch.uint8).numpy()


def _add_settings(writer: gguf.GGUFWriter, config: ModelConfig, file_type: int) -> None:
    writer.add_file_type(file_type)
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


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    texts, scores, kinds = zip(*pieces(tokenizer), strict=True)
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


def load(path: str | Path) -> tuple[Llama, Tokenizer]:
    """Read a model and its tokenizer from a file that is not quantized.

    Matrices keep their dtype, and norms, float32 in the file, take that of the matrices.

    Raises:
        CheckpointError: the file is missing or damaged, or its parts do not fit one another.
        ConfigError: the model is not one of the paper's architecture, or is quantized.
    """
    path = Path(path)
    fields, tensors = _open(path)
    config = _config(fields, path)
    tokenizer = _tokenizer(fields, path)
    check_vocabulary(tokenizer, config, path)
    table = names(config.n_layers)
    if wrong := sorted(tensors.keys() ^ set(table.values())):
        problem = "has an unknown tensor" if wrong[0] in tensors else "lacks the tensor"
        raise CheckpointError(f"{path} {problem} '{wrong[0]}'", MEND)
    dtypes = {kind: dtype for dtype, kind in TYPES.items()}
    dtype = dtypes.get(tensors[table["output.weight"]].tensor_type, torch.float32)
    state = {}
    for meta, weight in blank(config).state_dict().items():
        given = tensors[table[meta]]
        shape = tuple(int(n) for n in reversed(given.shape))
        if given.tensor_type not in dtypes:
            raise ConfigError(f"{path}: '{given.name}' is {given.tensor_type.name}", "take a file "
                              "of F32, F16 or BF16")  # fmt: skip
        if shape != weight.shape:
            raise CheckpointError(
                f"{path}: '{given.name}' is {shape}, not {tuple(weight.shape)}", MEND
            )
        # Read anew: pages of the reader's map that have been read would count as memory.
        bits = np.fromfile(path, np.uint8, given.n_bytes, offset=given.data_offset)
        state[meta] = torch.from_numpy(bits).view(dtypes[given.tensor_type]).view(shape).to(dtype)
    return assemble(config, state), tokenizer


class _Reader(gguf.GGUFReader):
    """The public reader, which of itself would read on and on where a length is a lie."""

    def _get(self, offset: int, dtype: Any, count: int = 1, *more: Any, **others: Any) -> Any:
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it ends too early")
        return super()._get(offset, dtype, count, *more, **others)


def _open(path: Path) -> tuple[Mapping[str, Any], dict[str, gguf.ReaderTensor]]:
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


def _config(fields: Mapping[str, Any], path: Path) -> ModelConfig:
    if (given := fields.get("general.architecture")) != "llama":
        raise ConfigError(f"{path}: the architecture is {given!r}", "only 'llama' can be loaded")
    if (kind := fields.get("llama.rope.scaling.type", "none")) != "none":
        raise ConfigError(f"{path}: rope.scaling.type = {kind!r}", "only 'none' can be loaded")
    keys = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "max_position_embeddings": "context_length",
        "intermediate_size": "feed_forward_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
    }
    settings = {key: fields.get(f"llama.{other}") for key, other in keys.items()}
    settings["vocab_size"] = len(fields.get("tokenizer.ggml.tokens") or ())
    settings["multiple_of"] = fields.get("minillama.multiple_of")
    settings = {key: value for key, value in settings.items() if value is not None}
    for key in ("rms_norm_eps", "rope_theta"):  # 1e-6 is not 9.99999997e-07
        if isinstance(settings.get(key), float):
            settings[key] = float(np.format_float_scientific(np.float32(settings[key])))
    return huggingface.config_from_huggingface(settings, str(path))


def _tokenizer(fields: Mapping[str, Any], path: Path) -> Tokenizer:
    if (kind := fields.get("tokenizer.ggml.model")) != "llama":
        raise ConfigError(f"{path}: the tokenizer is {kind!r}", "only 'llama' can be loaded")
    if fields.get("tokenizer.ggml.add_space_prefix") is False:
        raise ConfigError(f"{path}: add_space_prefix = False", "only True, LLaMA's, can be loaded")
    for mark, own in (("bos", Tokenizer.bos_id), ("eos", Tokenizer.eos_id)):
        if (given := fields.get(f"tokenizer.ggml.{mark}_token_id", own)) != own:
            raise ConfigError(f"{path}: {mark}_token_id = {given!r}", f"only {own} can be loaded")
    columns = [fields.get(f"tokenizer.ggml.{key}") for key in ("tokens", "scores", "token_type")]
    try:
        entries = [Piece(*entry) for entry in zip(*columns, strict=True)]
    except (TypeError, ValueError):
        raise CheckpointError(f"{path} holds no SentencePiece vocabulary", MEND) from None
    return tokenizer_of(entries, path)
