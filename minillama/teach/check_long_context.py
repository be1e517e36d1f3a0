"""Checks for the exercises of notebook 17 (beyond the trained context)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minillama.config import ModelConfig, RopeScaling
from minillama.model import rotary_angles, scaled_frequencies
from minillama.teach.checking import diagnose, exercise, expect

TURN = 2 * math.pi


@exercise
def check_full_turns(answer: Callable) -> str:
    """``answer(head_dim, theta, context) -> pairs that make a full turn within the context``."""
    for head_dim, theta, context in ((64, 1e4, 256), (128, 1e4, 2048), (128, 5e5, 8192), (8, 9, 5)):
        angles = [context * theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        right = sum(angle >= TURN for angle in angles)
        wrong = {
            "a full turn is 2 pi radians, not 1": sum(angle >= 1 for angle in angles),
            "those are the pairs that do not come round": head_dim // 2 - right,
        }
        call = f"full_turns({head_dim}, {theta:g}, {context})"
        diagnose(call, answer(head_dim, theta, context), right, wrong)
    return "41 of LLaMA's 64 pairs, and 13 of the 32 in a head of nano-65b"


@exercise
def check_unseen_pairs(answer: Callable) -> str:
    """``answer(frequencies, new, trained, length) -> bool per pair: does it reach new angles``."""
    plain = rotary_angles(64, 2)[1]
    for trained, length in ((256, 2048), (256, 512), (64, 96)):
        for kind in ("none", "linear", "ntk", "yarn"):
            scaling = None if kind == "none" else RopeScaling(kind, length / trained, trained)
            new = scaled_frequencies(ModelConfig(dim=64, n_heads=1, rope_scaling=scaling))
            came_round = plain * trained >= TURN
            beyond = new * length > 1.01 * plain * trained
            barely = new * length > plain * trained
            wrong = {
                "it counts pairs that came full circle in training: they know all angles":
                    beyond,
                "allow 1% for rounding, or pairs count that end where they ended":
                    ~came_round & barely,
            }  # fmt: skip
            given = answer(plain.clone(), new.clone(), trained, length)
            call = f"unseen_pairs ({kind}, {trained} to {length} tokens)"
            is_mask = given is None or (isinstance(given, Tensor) and given.dtype == torch.bool)
            expect(is_mask, f"{call} should be a tensor of True and False, one for each pair")
            diagnose(call, given, ~came_round & beyond, wrong)
    return "at 2,048 tokens 19 pairs reach new angles as they are, 18 with ntk, else none"


@exercise
def check_llama3(answer: Callable) -> str:
    """``answer(frequencies, factor, low, high, original) -> frequencies`` as in Llama 3.1."""
    for head_dim, theta, factor, low, high, original in (
        (128, 5e5, 8.0, 1.0, 4.0, 8192),
        (64, 1e4, 4.0, 1.0, 4.0, 256),
        (32, 1e4, 2.0, 0.5, 8.0, 64),
    ):
        plain = rotary_angles(head_dim, 2, theta)[1].double()
        turns = original * plain / TURN
        share = ((turns - low) / (high - low)).clamp(0, 1)
        by_radians = ((turns * TURN - low) / (high - low)).clamp(0, 1)
        wrong = {
            "nothing was slowed down": plain,
            "every pair was slowed down, as by linear": plain / factor,
            "fast pairs keep their speed, not slow ones": plain.lerp(plain / factor, share),
            "count turns; a turn is 2 pi radians": (plain / factor).lerp(plain, by_radians),
        }
        right = (plain / factor).lerp(plain, share)
        given = answer(plain.clone(), factor, low, high, original)
        call = f"llama3 with factor {factor:g}, low {low:g}, high {high:g}"
        diagnose(call, given, right, wrong, tolerance=1e-9)
    return "the frequencies of Llama 3.1, which reads 131,072 tokens"
