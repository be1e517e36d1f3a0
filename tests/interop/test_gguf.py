"""GGUF files, read by three programs that are not ours: the public reader, transformers, llama.cpp.

The last runs if ``llama_cpp`` can be imported, here or by the Python that LLAMA_CPP_PYTHON names.
"""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf as public
import numpy as np
import pytest
import sentencepiece
import torch
from tiny import TinyCorpus, code, prose
from transformers import AutoModelForCausalLM

from minillama import teach
from minillama.config import ModelConfig, RopeScaling
from minillama.errors import CheckpointError, ConfigError
from minillama.interop import gguf
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

CONFIG = ModelConfig(dim=64, n_layers=2, n_heads=4, vocab_size=320, multiple_of=24, max_seq_len=256,
                     norm_eps=1e-6, rope_theta=5000.0)  # fmt: skip
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TEXTS = [
    "", "a", " a", "a ", "  two  spaces  ", "\n\n river\n", "tab\tand\r\n", "1066 12.50 007", "<s>",
    "a <s> b</s><unk>", "<0x41>", "żółw", "🐢🐢 boat", "ﬁ ① Å e\u0301", "x" * 50, "ab" * 30,
    *(prose(seed) for seed in range(8)), code(2),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def new_model(config: ModelConfig = CONFIG, dtype: torch.dtype = torch.float32) -> Llama:
    """Of weights large enough that the text it writes is no repetition; norms are not all one."""
    torch.manual_seed(0)
    model = Llama(config)
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight) * (0.3 if name.endswith("norm.weight") else 0.05)
        weight.data = (weight.data + noise).to(dtype)
    return model


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    return gguf.save(new_model(), tokenizer, tmp_path_factory.mktemp("saved") / "model.gguf")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_public_reader_finds_every_weight(dtype, tokenizer, tmp_path):
    model = new_model()
    with torch.no_grad():
        model.layers[1].feed_forward.w2.weight[3, 5] = torch.nan
    reader = public.GGUFReader(gguf.save(model, tokenizer, tmp_path / "model.gguf", dtype))
    found = {tensor.name: tensor for tensor in reader.tensors}
    state = model.state_dict()
    names = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
    inner = {"attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v",
             "attention.wo": "attn_output", "feed_forward.w1": "ffn_gate",
             "feed_forward.w2": "ffn_down", "feed_forward.w3": "ffn_up",
             "attention_norm": "attn_norm", "ffn_norm": "ffn_norm"}  # fmt: skip
    names |= {f"layers.{i}.{a}": f"blk.{i}.{b}" for i in range(2) for a, b in inner.items()}
    assert len(found) == len(state) == len(names)
    for meta, name in names.items():
        weight, tensor = state[f"{meta}.weight"], found[f"{name}.weight"]
        kind = dtype if weight.ndim == 2 else torch.float32
        assert tuple(reversed(tensor.shape)) == weight.shape
        assert tensor.tensor_type.name == {torch.float32: "F32", torch.float16: "F16",
                                           torch.bfloat16: "BF16"}[kind]  # fmt: skip
        assert tensor.data.tobytes() == weight.to(kind).view(torch.uint8).numpy().tobytes(), name


def test_the_public_reader_finds_settings_and_vocabulary(saved, tokenizer):
    fields = {name: field.contents() for name, field in public.GGUFReader(saved).fields.items()}
    for key, value in {
        "general.architecture": "llama", "general.file_type": 0, "llama.vocab_size": 320,
        "llama.context_length": 256, "llama.embedding_length": 64, "llama.block_count": 2,
        "llama.feed_forward_length": 192, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4, "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 5000.0, "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False, "tokenizer.ggml.add_space_prefix": True,
    }.items():  # fmt: skip
        assert fields[key] == value, key
    assert np.float32(fields["llama.attention.layer_norm_rms_epsilon"]) == np.float32(1e-6)
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    assert fields["tokenizer.ggml.tokens"] == [processor.id_to_piece(i) for i in range(320)]
    assert fields["tokenizer.ggml.scores"] == [processor.get_score(i) for i in range(320)]
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[:3] == [2, 3, 3] and set(kinds[3:259]) == {6} and set(kinds[259:]) == {1}


def test_transformers_reads_it(saved):
    """Which puts the rows of wq and wk into the order of Hugging Face's format."""
    theirs = AutoModelForCausalLM.from_pretrained(saved.parent, gguf_file=saved.name)
    tokens = torch.randint(320, (2, 40), generator=torch.Generator().manual_seed(1))
    expected = theirs(tokens).logits
    assert (new_model()(tokens) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saved_and_loaded_is_the_same(dtype, tokenizer, tmp_path):
    model = new_model(dtype=dtype)
    with torch.no_grad():
        model.layers[1].feed_forward.w2.weight[3, 5] = torch.nan
    again, pieces = gguf.load(gguf.save(model, tokenizer, tmp_path / "model.gguf"))
    assert again.config == CONFIG
    state = again.state_dict()
    for name, weight in model.state_dict().items():
        assert state[name].dtype == dtype
        assert torch.equal(state[name].view(torch.uint8), weight.view(torch.uint8)), name
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert pieces.encode(text) == ids and pieces.decode(ids) == text
    second = gguf.save(again, pieces, tmp_path / "second.gguf")
    assert second.read_bytes() == (tmp_path / "model.gguf").read_bytes()


def test_a_change_of_base_is_written_and_other_scaling_is_refused(tokenizer, tmp_path):
    ntk = ModelConfig(**{**CONFIG.__dict__, "rope_scaling": RopeScaling("ntk", 2.0)})
    model = new_model(ntk)
    again, _ = gguf.load(gguf.save(model, tokenizer, tmp_path / "ntk.gguf"))
    assert torch.allclose(again.rotary, model.rotary, atol=1e-4)
    linear = ModelConfig(**{**CONFIG.__dict__, "rope_scaling": RopeScaling("linear", 2.0)})
    with pytest.raises(ConfigError, match="linear"):
        gguf.save(new_model(linear), tokenizer, tmp_path / "linear.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["ntk.gguf"]


@pytest.mark.parametrize("keep", [0, 3, 12, 30, 200, 5000, 12_000, 60_000, -1])
def test_a_truncated_file(keep, saved, tmp_path):
    path = tmp_path / "short.gguf"
    path.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="short.gguf is damaged") as told:
        gguf.load(path)
    assert "\n" not in str(told.value)


def test_counts_that_no_file_can_hold(saved, tmp_path):
    """A length of 2^60 must not be believed."""
    content = bytearray(saved.read_bytes())
    for at in (8, 16):
        damaged = content.copy()
        damaged[at : at + 8] = struct.pack("<Q", 2**60)
        (tmp_path / "model.gguf").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            gguf.load(tmp_path / "model.gguf")
    at = content.index(b"tokenizer.ggml.scores") + len("tokenizer.ggml.scores") + 8
    content[at : at + 8] = struct.pack("<Q", 2**60)
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        gguf.load(tmp_path / "model.gguf")


def write(path: Path, fields: dict, tensors: dict[str, np.ndarray]) -> Path:
    writer = public.GGUFWriter(path, fields.get("general.architecture", "llama"))
    for key, value in fields.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
               str: writer.add_string, list: writer.add_array}[type(value)]  # fmt: skip
        if not key.startswith(("GGUF", "general.architecture")):
            add(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("fields, tensors, kind, said", [
    ({"general.architecture": "gpt2"}, {}, ConfigError, "architecture = 'gpt2'"),
    ({"llama.attention.head_count_kv": 2}, {}, ConfigError, "num_key_value_heads = 2"),
    ({"llama.rope.scaling.type": "yarn"}, {}, ConfigError, "rope.scaling.type = 'yarn'"),
    ({"llama.block_count": None}, {}, CheckpointError, "lacks 'num_hidden_layers'"),
    ({"llama.block_count": 3}, {}, CheckpointError, "lacks the tensor 'blk.2"),
    ({"llama.block_count": 1}, {}, CheckpointError, "has an unknown tensor 'blk.1"),
    ({"llama.embedding_length": "x"}, {}, CheckpointError, "malformed"),
    ({"llama.feed_forward_length": 240, "minillama.multiple_of": None}, {}, CheckpointError,
     r"'blk.0.ffn_gate.weight' is .*192, 64.*, not .240, 64"),
    ({"tokenizer.ggml.model": "gpt2"}, {}, ConfigError, "tokenizer.ggml.model = 'gpt2'"),
    ({"tokenizer.ggml.bos_token_id": 2}, {}, ConfigError, "bos_token_id = 2"),
    ({"tokenizer.ggml.add_space_prefix": False}, {}, ConfigError, "add_space_prefix = False"),
    ({"tokenizer.ggml.scores": None}, {}, CheckpointError, "no SentencePiece vocabulary"),
    ({"tokenizer.ggml.scores": [0.5]}, {}, CheckpointError, "no SentencePiece vocabulary"),
    ({"tokenizer.ggml.tokens": ["a"] * 320}, {}, CheckpointError, "no SentencePiece vocabulary"),
    ({}, {"output_norm.weight": np.zeros(63, np.float32)}, CheckpointError, r"is \(63,\)"),
    ({}, {"output.weight": np.zeros((320, 64), np.int8)}, ConfigError, "'output.weight' is I8"),
])  # fmt: skip
def test_files_of_other_models_are_refused_by_name(fields, tensors, kind, said, saved, tmp_path):
    reader = public.GGUFReader(saved)
    here = {name: field.contents() for name, field in reader.fields.items()} | fields
    weights = {tensor.name: np.array(tensor.data) for tensor in reader.tensors} | tensors
    here = {name: value for name, value in here.items() if value is not None}
    path = write(tmp_path / "other.gguf", here, weights)
    with pytest.raises(kind, match=said) as told:
        gguf.load(path)
    assert "\n" not in str(told.value) and "other.gguf" in str(told.value)


def test_what_cannot_be_saved(tokenizer, tmp_path):
    other = Llama(ModelConfig(dim=8, n_layers=1, n_heads=1, vocab_size=321))
    with pytest.raises(CheckpointError, match="320 pieces but the model has 321"):
        gguf.save(other, tokenizer, tmp_path / "m" / "model.gguf")
    with pytest.raises(ConfigError, match="float64"):
        gguf.save(new_model(), tokenizer, tmp_path / "m" / "model.gguf", torch.float64)
    assert not (tmp_path / "m").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        gguf.save(new_model(), tokenizer, tmp_path / "file" / "model.gguf")


def test_a_full_disk_leaves_the_old_file(saved, tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(saved.read_bytes())

    def full(writer: object, tensor: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(CheckpointError, match="No space left"):
        gguf.save(new_model(), tokenizer, path)
    assert path.read_bytes() == saved.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


LLAMA_CPP = """
import json, sys
import numpy as np
from llama_cpp import Llama

path, given = sys.argv[1], json.load(sys.stdin)
model = Llama(path, n_ctx=256, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1,
              type_k=0, type_v=0)  # keys and values in float32
ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in given["texts"]]
tokens = list(given["prompt"])
model.eval(tokens)
for _ in range(given["count"]):
    tokens.append(int(np.argmax(model.scores[len(tokens) - 1])))
    model.eval(tokens[-1:])
rows = model.scores[: len(tokens)].tolist()
print(json.dumps({"ids": ids, "tokens": tokens, "logits": rows}))
"""


@pytest.fixture(scope="module")
def llama_cpp() -> str:
    """The Python that has llama.cpp's binding."""
    named = os.environ.get("LLAMA_CPP_PYTHON")
    if not named and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed and LLAMA_CPP_PYTHON names no Python that has it")
    return named or sys.executable


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-4), (torch.float16, 0.02)], ids=str)
def test_llama_cpp_runs_it(dtype, limit, llama_cpp, tokenizer, tmp_path):
    """Pieces of all texts, 200 greedy tokens, and the logits of every position of them."""
    model = new_model()
    path = gguf.save(model, tokenizer, tmp_path / "model.gguf", dtype)
    prompt = tokenizer.encode("the old miller", bos=True)
    given = json.dumps({"texts": TEXTS, "prompt": prompt, "count": 200})
    done = subprocess.run([llama_cpp, "-c", LLAMA_CPP, str(path)], input=given, text=True,
                          capture_output=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs["ids"] == [tokenizer.encode(text) for text in TEXTS]
    tokens = torch.tensor([theirs["tokens"]])
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(dtype))
        logits = model(tokens)[0]
    error = teach.relative_error(torch.tensor(theirs["logits"]), logits)
    print(f"{dtype}: logits differ by {error:.1e} of the largest")
    assert error < limit
    if dtype == torch.float32:
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == theirs["tokens"][len(prompt) :]
        assert len(set(theirs["tokens"])) > 20  # text that an error would change
