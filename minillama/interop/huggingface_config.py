"""``config.json`` of Hugging Face's LLaMA, from and to ``ModelConfig``."""

import operator
from typing import Any

from minillama.config import ModelConfig, RopeScaling
from minillama.errors import CheckpointError, ConfigError
from minillama.interop.common import FETCH_AGAIN, check_size
from minillama.tokenizer import Tokenizer

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


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """Return the content of ``config.json``."""
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
    rope: dict[str, Any] = {
        "rope_type": scaling.kind,
        "rope_theta": config.rope_theta,
        "factor": float(scaling.factor),
    }
    if scaling.kind == "yarn":
        for field, other in YARN.items():
            rope[other] = getattr(scaling, field)
        if not scaling.attention_factor:
            del rope["attention_factor"]  # then Hugging Face takes the paper's as well
    # Versions before 5 read the first two, later ones the third.
    return {"rope_theta": config.rope_theta, "rope_scaling": rope, "rope_parameters": rope}


def config_from_huggingface(given: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """Return the configuration that ``config.json`` describes; ``source`` is named in errors.

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
        # Any multiple that gives this hidden width will do; the largest power of two, if not told.
        powers = [2**n for n in range(8, -1, -1)]
        for multiple in (given.get("multiple_of", 256), *powers, hidden_dim):
            config = ModelConfig(**settings, multiple_of=multiple)
            if config.hidden_dim == hidden_dim:
                return check_size(config, source)
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error}", FETCH_AGAIN) from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{source} is malformed ({error})", "fetch it again") from None
    raise ConfigError(
        f"{source}: intermediate_size = {hidden_dim} is less than 8/3 of hidden_size",
        "only models of the paper's shape can be loaded",
    )


def _rope_settings(given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The rotary settings wherever a version keeps them, and their kind."""
    rope = given.get("rope_scaling") or given.get("rope_parameters") or {}
    return rope, rope.get("rope_type", rope.get("type", "default"))


def _rope_from_huggingface(given: dict[str, Any]) -> dict[str, Any]:
    """``rope_theta``, ``rope_scaling`` and, if that grows with it, ``max_seq_len``."""
    rope, kind = _rope_settings(given)
    theta = float(rope.get("rope_theta", given.get("rope_theta", 10_000.0)))
    if kind == "default":
        return {"rope_theta": theta}
    context = operator.index(given[FIELDS["max_seq_len"]])
    values = {"kind": kind}
    values["factor"] = float(rope["factor"])
    if kind == "yarn":
        values["original_max_seq_len"] = context
        for field, other in YARN.items():
            if rope.get(other) is not None:
                values[field] = rope[other]
    if kind == "dynamic":  # whose factor says how far beyond its max_position_embeddings one reads
        values["original_max_seq_len"] = context
        context = round(context * values["factor"])
    return {"rope_theta": theta, "rope_scaling": RopeScaling(**values), "max_seq_len": context}


def _reject_other_architectures(given: dict[str, Any], source: str) -> None:
    """Raise ``ConfigError`` that names the first setting in which the model is not LLaMA's."""
    heads = given.get("num_attention_heads")
    rope, kind = _rope_settings(given)
    # Each setting: as it is, and as it is in the paper's models.
    found = {key: (given.get(key, value), value) for key, value in SHARED.items()}
    kv_heads = given.get("num_key_value_heads") or heads
    found["num_key_value_heads"] = (kv_heads, heads)
    for key, value in ROPE.items():
        found[key] = (rope.get(key, value), value)
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
