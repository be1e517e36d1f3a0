"""A small model, and a real server of it in a thread."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from minillama.apps.serve.app import Served, Turns, make_app
from minillama.apps.serve.start import Server, address, listen
from minillama.config import ModelConfig
from minillama.inference import Sampling
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, vocab_size=320, multiple_of=8, max_seq_len=200)
JSON = {"Content-Type": "application/json"}


class Pace:
    """Makes every choice of a token take its time, and counts them."""

    pause = 0.02

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.choices, choose_each = 0, Sampling.choose_each

        def slowly(*given: object) -> list[int]:
            self.choices += 1
            time.sleep(self.pause)
            return choose_each(*given)

        monkeypatch.setattr(Sampling, "choose_each", slowly)


def model(seed: int = 0) -> Llama:
    """Random weights, large enough for probabilities to differ."""
    torch.manual_seed(seed)
    made = Llama(CONFIG).eval()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


@contextlib.contextmanager
def serving(served: Served, turns: Turns | None = None) -> Iterator[str]:
    """The address of a server that answers until the block ends."""
    listener = listen("127.0.0.1", 0)
    turns = turns or Turns(1)
    server = Server(make_app(served, turns=turns), turns)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield address(listener)
    finally:
        server.handle_exit(signal.SIGINT, None)
        thread.join(10)
        assert not thread.is_alive()
        listener.close()


def small(tokenizer: Tokenizer) -> Served:
    """The model as it is served."""
    return Served(model(), tokenizer, "tiny", {"step": 12, "loss": 4.5, "bpb": 2.0})
