"""Models go to Hugging Face's format and back, and whatever cannot is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TinyCorpus
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from minillama.config import ModelConfig, RopeScaling
from minillama.errors import CheckpointError, ConfigError
from minillama.interop import huggingface
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

CONFIG = ModelConfig(dim=24, n_layers=2, n_heads=2, vocab_size=320, multiple_of=24, max_seq_len=20,
                     norm_eps=1e-5, rope_theta=5000.0)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def new_model(dtype: torch.dtype = torch.float32, seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    model = Llama(CONFIG)
    for weight in model.parameters():  # the rotary table keeps its 32 bits, as it does in `load`
        weight.data = weight.data.to(dtype)
    return model


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    return huggingface.save(new_model(), tokenizer, tmp_path_factory.mktemp("saved") / "a model")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def change(path: Path, **settings: object) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: v for key, v in content.items() if v is not None}))


@pytest.mark.parametrize("heads, size", [(1, 2), (3, 4), (2, 10)])
def test_rows_move_as_described_and_back(heads, size):
    weight = torch.arange(heads * size * 3.0).reshape(heads * size, 3)
    halves = huggingface.pairs_to_halves(weight, heads)
    for head in range(heads):
        for i in range(size // 2):
            row = head * size
            assert torch.equal(halves[row + i], weight[row + 2 * i])
            assert torch.equal(halves[row + i + size // 2], weight[row + 2 * i + 1])
    assert torch.equal(huggingface.halves_to_pairs(halves, heads), weight)


def test_state_dict_goes_there_and_back():
    state = new_model().state_dict()
    there = huggingface.to_huggingface(state, CONFIG)
    assert len(there) == len(state)
    names = huggingface.tensor_names(CONFIG.n_layers)
    assert names.keys() == state.keys()
    for name, other in names.items():
        back = there[other]
        if huggingface.is_rotated(name):
            back = huggingface.halves_to_pairs(back, CONFIG.n_heads)
        assert torch.equal(back, state[name])
    moved = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(there[moved], state["layers.0.attention.wq.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_saved_and_loaded_is_the_same(dtype, tokenizer, tmp_path):
    model = new_model(dtype)
    huggingface.save(model, tokenizer, tmp_path)
    again, pieces = huggingface.load(tmp_path)
    assert again.config == CONFIG
    assert pieces.model == tokenizer.model
    state = again.state_dict()
    assert all(torch.equal(state[name], weight) and state[name].dtype == dtype
               for name, weight in model.state_dict().items())  # fmt: skip
    tokens = torch.randint(320, (2, 20))
    assert torch.equal(again(tokens, targets=tokens), model(tokens, targets=tokens))
    again(tokens, targets=tokens).backward()  # it can be trained further


def test_hugging_face_loads_the_folder(saved):
    theirs = AutoModelForCausalLM.from_pretrained(saved)
    assert type(theirs) is LlamaForCausalLM
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (1, 2)
    assert theirs.config.rope_parameters["rope_theta"] == 5000.0
    tokens = torch.randint(320, (2, 20))
    expected = theirs(tokens).logits
    assert (new_model()(tokens) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_a_folder_that_hugging_face_saved(shard_size, tokenizer, tmp_path):
    torch.manual_seed(1)
    theirs = LlamaForCausalLM(LlamaConfig(
        hidden_size=24, intermediate_size=70, num_hidden_layers=3, num_attention_heads=3,
        vocab_size=320, max_position_embeddings=16, rms_norm_eps=1e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 777.0},
    ))  # fmt: skip
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    tokenizer.save(tmp_path / "tokenizer.model")
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "1GB")
    ours, _ = huggingface.load(tmp_path)
    assert (ours.config.hidden_dim, ours.config.rope_theta, ours.config.norm_eps) == (70, 777, 1e-4)
    tokens = torch.randint(320, (2, 16))
    expected = theirs(tokens).logits
    assert (ours(tokens) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_settings_of_older_versions_are_read(folder):
    change(folder / "config.json", rope_parameters=None, num_key_value_heads=None, multiple_of=None)
    model, _ = huggingface.load(folder)
    assert model.config.rope_theta == 5000.0
    assert model.config.hidden_dim == CONFIG.hidden_dim
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(weights, folder / "model.safetensors")
    huggingface.load(folder)


@pytest.mark.parametrize("name", list(ModelConfig.__dataclass_fields__))
def test_every_setting_goes_there_and_back(name):
    other = {"dim": 48, "n_layers": 5, "n_heads": 6, "vocab_size": 99, "multiple_of": 7,
             "max_seq_len": 64, "norm_eps": 0.25, "rope_theta": 12.5,
             "rope_scaling": RopeScaling("yarn", 2.0, 10, 8.0, 0.5, 1.25)}[name]  # fmt: skip
    config = ModelConfig(**{**CONFIG.__dict__, name: other})
    given = json.loads(json.dumps(huggingface.config_to_huggingface(config)))
    assert huggingface.config_from_huggingface(given) == config


@pytest.mark.parametrize("settings, said", [
    ({"num_key_value_heads": 1}, "num_key_value_heads = 1 instead of 2"),
    ({"attention_bias": True}, "attention_bias = True"),
    ({"mlp_bias": True}, "mlp_bias = True"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings = True"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ({"model_type": "mistral"}, "model_type = 'mistral'"),
    ({"head_dim": 8}, "head_dim"),
    ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_type = 'longrope'"),
    ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate = False"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type = 'llama3'"),
    ({"intermediate_size": 63}, "intermediate_size = 63 is less than"),
    ({"hidden_size": 25}, "not a multiple of n_heads"),
])  # fmt: skip
def test_other_architectures_are_refused(folder, settings, said):
    change(folder / "config.json", **settings)
    with pytest.raises(ConfigError, match=said):
        huggingface.load(folder)


@pytest.mark.parametrize("settings, said", [
    ({"hidden_size": None}, "config.json lacks 'hidden_size'"),
    ({"vocab_size": "many"}, "config.json is malformed"),
    ({"num_hidden_layers": 2.5}, "config.json is malformed"),
    ({"rope_parameters": [1]}, "config.json is malformed"),
    ({"vocab_size": 321}, "the tokenizer has 320 pieces but the model has 321"),
    ({"num_hidden_layers": 3}, r"lacks the tensor 'model.layers.2"),
    ({"num_hidden_layers": 1}, r"has an unknown tensor 'model.layers.1"),
    ({"intermediate_size": 96, "multiple_of": None}, r"gate_proj.weight' is \(72, 24\)"),
])  # fmt: skip
def test_files_that_do_not_fit_are_named(folder, settings, said):
    change(folder / "config.json", **settings)
    with pytest.raises(CheckpointError, match=said):
        huggingface.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_a_missing_or_damaged_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\xff\xfe" * 50):
        (folder / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name):
            huggingface.load(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        huggingface.load(folder)


def test_settings_that_are_no_object(folder):
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds no settings"):
        huggingface.load(folder)


def test_a_pickle_is_not_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="Only safetensors are read"):
        huggingface.load(folder)


def test_whole_numbers_are_no_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="lm_head.weight.*int8"):
        huggingface.load(folder)


def test_another_models_tokenizer_is_not_saved(tokenizer, tmp_path):
    other = Llama(ModelConfig(dim=8, n_layers=1, n_heads=1, vocab_size=321))
    with pytest.raises(CheckpointError, match="320 pieces but the model has 321"):
        huggingface.save(other, tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_cannot_be_written(tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        huggingface.save(new_model(), tokenizer, tmp_path / "file")
