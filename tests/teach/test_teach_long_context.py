"""The checks of notebook 17: right answers pass, typical mistakes are named."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from minillama import teach
from minillama.model import rotary_angles


def full_turns(limit: float = 2 * math.pi, slow: bool = False) -> Callable:
    def answer(head_dim: int, theta: float, context: int) -> int:
        angles = [context * theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        return sum((angle >= limit) != slow for angle in angles)

    return answer


def unseen_pairs(kind: str = "right") -> Callable:
    def answer(plain: Tensor, new: Tensor, trained: int, length: int) -> Tensor | list | int:
        room = 1.0 if kind == "exact" else 1.01
        found = [
            new[i] * length > room * plain[i] * trained
            and (kind == "all" or plain[i] * trained < 2 * math.pi)
            for i in range(len(plain))
        ]
        if kind == "count":
            return sum(found)
        return torch.tensor(found[:-1] if kind == "short" else found)

    return answer


def llama3(kind: str = "right") -> Callable:
    def answer(plain: Tensor, factor: float, low: float, high: float, original: int) -> Tensor:
        out = []
        for f in plain.tolist():
            turns = original * f / (1.0 if kind == "radians" else 2 * math.pi)
            share = min(1.0, max(0.0, (turns - low) / (high - low)))
            share = {"swapped": 1 - share, "nothing": 1.0, "linear": 0.0}.get(kind, share)
            out.append(f * share + f / factor * (1 - share))
        return torch.tensor(out, dtype=torch.float64)

    return answer


def said(check: Callable, answer: Callable, capsys: pytest.CaptureFixture[str]) -> str:
    check(answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("check, answer, praise", [
    (teach.check_full_turns, full_turns(), "41 of LLaMA's 64 pairs, and 13 of the 32"),
    (teach.check_unseen_pairs, unseen_pairs(), "19 pairs reach new angles as they are"),
    (teach.check_llama3, llama3(), "Llama 3.1"),
])  # fmt: skip
def test_right_answers_pass(check, answer, praise, capsys):
    text = said(check, answer, capsys)
    assert text.startswith("correct: ") and praise in text


@pytest.mark.parametrize("check, answer, hint", [
    (teach.check_full_turns, full_turns(1.0), "2 pi radians, not 1"),
    (teach.check_full_turns, full_turns(slow=True), "do not come round"),
    (teach.check_full_turns, lambda *_: None, "is None"),
    (teach.check_full_turns, lambda *_: 3, "is 3 and should be 13"),
    (teach.check_unseen_pairs, unseen_pairs("all"), "full circle in training"),
    (teach.check_unseen_pairs, unseen_pairs("exact"), "allow 1% for rounding"),
    (teach.check_unseen_pairs, unseen_pairs("count"), "True and False"),
    (teach.check_unseen_pairs, unseen_pairs("short"), "(32,)"),
    (teach.check_unseen_pairs, lambda f, *_: f < 0, "not the values"),
    (teach.check_unseen_pairs, lambda *_: None, "replace `return None`"),
    (teach.check_llama3, llama3("radians"), "a turn is 2 pi radians"),
    (teach.check_llama3, llama3("swapped"), "fast pairs keep their speed"),
    (teach.check_llama3, llama3("nothing"), "nothing was slowed"),
    (teach.check_llama3, llama3("linear"), "as by linear"),
    (teach.check_llama3, lambda f, *_: f * 3, "not the values"),
    (teach.check_llama3, lambda *_: None, "is None"),
])  # fmt: skip
def test_mistakes_are_named(check, answer, hint, capsys):
    text = said(check, answer, capsys)
    assert text.startswith("not yet: ") and hint in text


def test_llama3_is_hugging_faces():
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(hidden_size=128, num_attention_heads=1, rope_parameters=rope)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    ours = llama3()(rotary_angles(128, 2, 5e5)[1], 8.0, 1.0, 4.0, 8192)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=0)


def test_the_counts_that_are_praised():
    plain = rotary_angles(64, 2)[1]
    stretched = rotary_angles(64, 2, 1e4 * 8 ** (64 / 62))[1]
    counts = [int(unseen_pairs()(plain, new, 256, 2048).sum())
              for new in (plain, stretched, plain / 8)]  # fmt: skip
    assert counts == [19, 18, 0]
    assert full_turns()(128, 1e4, 2048) == 41
    assert full_turns()(64, 1e4, 256) == 13
