"""Small models with random weights, and what they write without a cache."""

import torch

from minillama.config import ModelConfig
from minillama.inference import Decoder, Sampling
from minillama.inference.engine import Engine
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

TEXT_MODEL = {"dim": 32, "n_heads": 4, "vocab_size": 320, "max_seq_len": 48}
"""Of the tiny corpus's tokenizer."""


def random_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: int) -> Llama:
    """Weights in which every part matters, norms too."""
    torch.manual_seed(seed)
    shape = {"dim": 24, "n_layers": 2, "n_heads": 3, "vocab_size": 50, "multiple_of": 8,
             "max_seq_len": 20} | changes  # fmt: skip
    model = Llama(ModelConfig(**shape)).to(dtype)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def text_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> Llama:
    return random_model(seed, dtype, **TEXT_MODEL)


def recompute(model: Llama, prompt: list[int], sampling: Sampling, n: int, seed: int) -> list[int]:
    """The vanilla model reads everything again for each token, and keeps nothing."""
    generator, ids = torch.Generator().manual_seed(seed), list(prompt)
    with torch.no_grad():
        for _ in range(min(n, model.config.max_seq_len - len(prompt) + 1)):
            logits = model(torch.tensor([ids]))[:, -1]
            ids += sampling.choose_each(logits, [generator], [ids])
    return ids[len(prompt) :]


def written(
    model: Llama, prompt: list[int], sampling: Sampling, n: int, seed: int = 0
) -> list[int]:
    """What the engine writes of one prompt, step by step."""
    engine, ids = Engine(model, [prompt], sampling, [seed], n), []
    while len(ids) < n and not engine.is_full(0):
        ids += engine.step()
    return ids


class Scripted(Decoder):
    """A model that says what it is told to, whatever it reads."""

    def __init__(self, ids: list[int], tokenizer: Tokenizer) -> None:
        torch.nn.Module.__init__(self)
        self.ids = iter(ids)
        self.config = ModelConfig(dim=2, n_layers=1, n_heads=1, max_seq_len=10_000,
                                  vocab_size=tokenizer.vocab_size)  # fmt: skip
        self.tok_embeddings = torch.nn.Embedding(1, 2)

    def hidden_states(self, tokens: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 2)

    def output(self, x: torch.Tensor) -> torch.Tensor:
        said = torch.tensor([next(self.ids)])
        return torch.nn.functional.one_hot(said, self.config.vocab_size).float()
