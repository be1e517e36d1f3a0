"""The model against Hugging Face's Llama: logits, loss and every gradient.

Errors are relative to the largest number of the compared tensor; of gradients, to the largest of
all, since one alone may vanish.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from minillama import teach
from minillama.config import ModelConfig
from minillama.interop.huggingface import to_huggingface
from minillama.model import Llama

CONFIGS = {
    "one head": ModelConfig(dim=16, n_layers=1, n_heads=1, vocab_size=40, multiple_of=8,
                            max_seq_len=16),
    "three heads": ModelConfig(dim=48, n_layers=2, n_heads=3, vocab_size=97, multiple_of=32,
                               max_seq_len=32, norm_eps=1e-5),
    "deep": ModelConfig(dim=32, n_layers=5, n_heads=4, vocab_size=64, multiple_of=16,
                        max_seq_len=24, rope_theta=500.0),
    "odd pairs": ModelConfig(dim=60, n_layers=2, n_heads=6, vocab_size=31, multiple_of=1,
                             max_seq_len=12, norm_eps=1e-3),
}  # fmt: skip
LIMITS = {
    ("sdpa", torch.float32): 1e-5,
    ("eager", torch.float32): 1e-5,
    ("sdpa", torch.float64): 1e-12,
    ("eager", torch.float64): 1e-6,  # its softmax rounds to 32 bits whatever the input
}


def relative_error(ours: Tensor, theirs: Tensor, scale: float | None = None) -> float:
    assert ours.dtype == theirs.dtype
    return teach.relative_error(ours, theirs, scale)


def random_model(config: ModelConfig, seed: int, dtype: torch.dtype) -> Llama:
    """Larger weights than at the start of training, and norms that are not all one."""
    torch.manual_seed(seed)
    model = Llama(config).to(dtype)
    for name, weight in model.named_parameters():
        nn.init.normal_(weight, mean=float("norm" in name), std=0.1)
    return model


def their_model(ours: Llama, attention: str) -> LlamaForCausalLM:
    config = ours.config
    theirs = LlamaForCausalLM(LlamaConfig(
        hidden_size=config.dim, intermediate_size=config.hidden_dim, vocab_size=config.vocab_size,
        num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
        max_position_embeddings=config.max_seq_len, rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=False, use_cache=False, attn_implementation=attention,
    ))  # fmt: skip
    dtype = ours.output.weight.dtype
    if dtype == torch.float64:  # their norm rounds to 32 bits whatever the input; torch's does not
        for name in [n for n, m in theirs.named_modules() if type(m).__name__ == "LlamaRMSNorm"]:
            theirs.set_submodule(name, nn.RMSNorm(config.dim, config.norm_eps))
    theirs.to(dtype).load_state_dict(to_huggingface(ours.state_dict(), config))
    return theirs


def their_loss(model: LlamaForCausalLM, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and loss; their own loss function rounds to 32 bits."""
    if model.dtype == torch.float64:
        logits = model(tokens).logits
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    output = model(tokens, labels=tokens, shift_labels=targets)
    return output.logits, output.loss


@pytest.mark.parametrize("attention, dtype", LIMITS, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_loss_and_all_gradients(name, attention, dtype):
    config, limit = CONFIGS[name], LIMITS[attention, dtype]
    for seed in range(3):
        ours = random_model(config, seed, dtype)
        theirs = their_model(ours, attention)
        tokens = torch.randint(config.vocab_size, (3, config.max_seq_len))
        targets = torch.randint(config.vocab_size, (3, config.max_seq_len))
        targets[0, 5:9] = -100

        logits, loss = their_loss(theirs, tokens, targets)
        loss.backward()
        our_loss = ours(tokens, targets=targets)
        our_loss.backward()
        assert relative_error(ours(tokens), logits) < limit
        assert relative_error(our_loss, loss) < limit

        gradients = {key: weight.grad for key, weight in theirs.named_parameters()}
        assert len(gradients) == 3 + 9 * config.n_layers
        scale = max(float(gradient.abs().max()) for gradient in gradients.values())
        own = {key: weight.grad for key, weight in ours.named_parameters()}
        own = to_huggingface(own, config)  # gradients permute as their weights do
        for key, gradient in own.items():
            assert relative_error(gradient, gradients[key], scale) < limit, key


def test_at_the_weights_training_starts_from():
    config = CONFIGS["three heads"]
    for seed in range(5):
        torch.manual_seed(seed)
        ours = Llama(config)
        theirs = their_model(ours, "sdpa")
        tokens = torch.randint(config.vocab_size, (2, 32))
        assert relative_error(ours(tokens), theirs(tokens).logits) < 1e-5


def test_the_comparison_notices_a_wrong_rotary_layout():
    ours = random_model(CONFIGS["three heads"], 0, torch.float32)
    theirs = their_model(ours, "sdpa")
    for name, weight in theirs.named_parameters():
        if "q_proj" in name:
            weight.data = weight.data.roll(1, dims=0)
    tokens = torch.randint(97, (1, 32))
    assert relative_error(ours(tokens), theirs(tokens).logits) > 1e-2
